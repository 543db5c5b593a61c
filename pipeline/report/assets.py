"""The static files of the pages, and the frame of a page without script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources

from pipeline.report.theme import css_values


def asset(name: str) -> str:
    """Text of ``static/<name>`` in this package."""
    return (resources.files("pipeline.report") / "static" / name).read_text(encoding="utf-8")


def plain_page(
    title: str, body: str, light: Mapping[str, str], dark: Mapping[str, str], *, style: str = ""
) -> str:
    """A self-contained page of HTML, whose policy forbids scripts and requests; it follows the system's colour scheme.

    ``title``, ``body``: escaped. ``light``, ``dark``: colours by token. ``style``: what it adds to report.css.
    """
    style = (
        f":root{{color-scheme:light;{css_values(light)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{css_values(dark)}}}}}\n"
        f"{asset('report.css')}{style}"
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
