"""The page on other people's runs, made from its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.external.pairs import SOURCE, TABLE

PAGE = Path(__file__).with_name("page.md")
"""The page with places for the numbers of ``findings``."""


def page(found: dict[str, Any]) -> str:
    """The page of ``findings`` in Markdown."""
    scatter, length, rows = found["seed_scatter"], found["length"], found["rows"]
    baseline = length["baseline"]
    return PAGE.read_text().format(
        table=TABLE,
        source=SOURCE.removeprefix("https://github.com/"),
        rows=rows,
        scatter=scatter,
        gap_sd=_told(scatter["median_gap_sd_nats"], "{:.5f}"),
        share=_told(
            {key: 100 * value for key, value in scatter["median_gap_sd_share"].items()}, "{:.1f}", " %"
        ),
        after_sd=_told(scatter["median_after_sd_nats"], "{:.4f}"),
        over=_told(scatter["median_after_sd_over_gap_sd"], "{:.1f}"),
        within=f"{100 * length['within_recipes']['largest_difference_share']:.1f}",
        between=length["between_recipes"],
        all=length["between_recipes"]["all_together"],
        strata=length["between_recipes"]["within_equal_text_and_tokens"],
        baseline=baseline,
        short=baseline["short"],
        long=baseline["long"],
        better=-baseline["after_change_nats"],
        bytes=length["bytes"],
        lowest=-rows["lowest_difference_nats"],
    )


def _told(estimate: dict[str, float], form: str, unit: str = "") -> str:
    middle, low, high = (form.format(estimate[key]) for key in ("estimate", "lower", "upper"))
    return f"{middle}{unit} [{low}, {high}]"
