"""Versions of the installed packages, read without importing them."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

__version__ = "0.2.0"
"""This package's own."""

_PACKAGES = (
    "int4-collapse",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "polars",
    "scipy",
    "ray",
)


@cache
def versions() -> dict[str, str]:
    """Version by package; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
