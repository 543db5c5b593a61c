"""The factors of several runs side by side, as one page without script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from pipeline.analysis.trajectory.mechanism.control_losses import FACTORS
from pipeline.analysis.trajectory.mechanism.mechanism_words import FACTOR_WORDS, run_sentence, share_of, times
from pipeline.analysis.trajectory.mechanism.run_factors import RunFactors
from pipeline.report.assets import asset
from pipeline.report.html_text import esc
from pipeline.report.mechanism_section import RULE, waterfall_svg
from pipeline.report.theme import DARK, LIGHT, css_name
from pipeline.spec import variant_label

STYLE = """
main{max-width:1040px}
.runs{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:18px 28px;margin-top:18px}
.runs svg{max-width:100%;height:auto}
"""


def comparison_page(found: Sequence[RunFactors]) -> str:
    """A table with a column per run, and the waterfall of each."""
    style = _style() + asset("report.css") + STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    sections = "".join(
        _variant(variant, [each for each in found if each.variant == variant])
        for variant in dict.fromkeys(each.variant for each in found)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}' "
        "'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Why the damage grew, run by run</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<main><h1>Why the damage grew, run by run</h1><p class="note">{esc(RULE)}</p>{sections}</main>\n'
        "</body>\n</html>\n"
    )


def _variant(variant: str, runs: Sequence[RunFactors]) -> str:
    heads = "".join(f'<th scope="col">{esc(each.run)}</th>' for each in runs)
    rows = "".join(
        f'<tr><th scope="row">{esc(FACTOR_WORDS[name])}</th>'
        + "".join(f"<td>{_cell(each, name)}</td>" for each in runs)
        + "</tr>"
        for name in FACTORS
    )
    total = "".join(f"<td>{'' if each.shares is None else times(each.shares.times)}</td>" for each in runs)
    charts = "".join(
        f'<figure><figcaption><h3>{esc(each.run)}</h3><p class="note">{esc(run_sentence(each))}</p></figcaption>'
        f"{'' if each.shares is None else waterfall_svg(each.shares)}</figure>"
        for each in runs
    )
    return (
        f"<section><h2>{esc(variant_label(variant))}</h2>"
        f'<div class="scroll"><table class="plain"><thead><tr><th scope="col">end over first window</th>{heads}</tr>'
        f'</thead><tbody>{rows}<tr><th scope="row">damage</th>{total}</tr></tbody></table></div>'
        f'<div class="runs">{charts}</div></section>'
    )


def _cell(each: RunFactors, name: str) -> str:
    if each.shares is None:
        return ""
    (factor,) = (one for one in each.shares.factors if one.name == name)
    return f"{times(factor.times)}<br><small>{esc(share_of(factor))}</small>"


def _style() -> str:
    light, dark = (
        ";".join(f"{css_name(f'${name}')}:{value}" for name, value in palette.items())
        for palette in (LIGHT, DARK)
    )
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}\n"
    )
