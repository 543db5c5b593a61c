"""The swap of rounding errors between two checkpoints, as a part of the report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.analysis.trajectory.mechanism.swapping import Damage, Swap
from pipeline.report.html_text import esc, plain_table
from pipeline.spec import variant_label

HEADS = ("Variant", "Weights", "Errors of the early step, nats", "Errors of the late step, nats")


def swap_html(every: Sequence[Swap], names: Mapping[str, str]) -> str:
    """The section; empty where nothing was swapped. ``names``: column prefix -> name of the variants."""
    if not every:
        return ""
    rows = [row for each in every for row in _rows(each, variant_label(each.variant, names))]
    words = "".join(f"<p>{esc(each.sentence)}</p>" for each in every)
    return (
        '<section id="swap" aria-labelledby="h-swap"><h2 id="h-swap">Errors and weights, swapped</h2>'
        f'{words}<p class="note">Each group of errors is as large as that of the weights it is put on.</p>'
        f"{plain_table(HEADS, rows)}</section>"
    )


def _rows(found: Swap, label: str) -> list[tuple[str, ...]]:
    lines = (
        (found.early, found.early_damage, found.late_error_on_early),
        (found.late, found.early_error_on_late, found.late_damage),
    )
    return [(esc(label), f"step {step:,}", _nats(early), _nats(late)) for step, early, late in lines]


def _nats(damage: Damage) -> str:
    return f"{damage.nats:.4g} &plusmn; {damage.se:.2g}"
