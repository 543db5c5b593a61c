"""The swap of rounding errors between two checkpoints, as a part of the report's page."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.analysis.trajectory.mechanism.swapping import Damage, Swap
from pipeline.report.html_text import esc, plain_table

HEADS = ("Variant", "Weights", "Errors of the early step, nats", "Errors of the late step, nats")


def swap_html(every: Sequence[Swap]) -> str:
    """The section; empty where nothing was swapped."""
    if not every:
        return ""
    words = "".join(f"<p>{esc(each.sentence)}</p>" for each in every)
    return (
        '<section id="swap" aria-labelledby="h-swap"><h2 id="h-swap">Errors and weights, swapped</h2>'
        f'{words}<p class="note">Each group of errors is as large as that of the weights it is put on.</p>'
        f"{plain_table(HEADS, [row for each in every for row in _rows(each)])}</section>"
    )


def _rows(found: Swap) -> list[tuple[str, ...]]:
    lines = (
        (found.early, found.early_damage, found.late_error_on_early),
        (found.late, found.early_error_on_late, found.late_damage),
    )
    return [(esc(found.variant), f"step {step:,}", _nats(early), _nats(late)) for step, early, late in lines]


def _nats(damage: Damage) -> str:
    return f"{damage.nats:.4g} &plusmn; {damage.se:.2g}"
