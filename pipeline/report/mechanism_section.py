"""The mechanism as a part of the report's page: why the damage grew, the factors, and the swap of rounding errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.analysis.trajectory.mechanism.growth_shares import GrowthShares
from pipeline.analysis.trajectory.mechanism.mechanism_report import Mechanism
from pipeline.analysis.trajectory.mechanism.mechanism_words import (
    FACTOR_MEANINGS,
    FACTOR_WORDS,
    even_sentence,
    noise_words,
    parabola_sentence,
    share_of,
    times,
    trace_sentence,
)
from pipeline.analysis.trajectory.mechanism.swapping import Damage, Swap
from pipeline.report.html_text import esc, plain_table
from pipeline.report.mechanism_charts import waterfall
from pipeline.report.render import figure_png, figure_svg
from pipeline.report.theme import css_tokens, tokens
from pipeline.spec import variant_label

RULE = (
    "A factor is the cause if the 95 % interval of its share of the growth's logarithm lies above one half and those "
    "of the others below. Intervals count the text, the draws of random signs and the luck of single checkpoints."
)


def mechanism_html(mechanism: Mechanism) -> str:
    """The section of the page."""
    own = mechanism.by_variant[mechanism.headline]
    words = [mechanism.sentence, even_sentence(own), parabola_sentence(own)]
    others = [text for name, text in mechanism.sentences.items() if name != mechanism.headline]
    also = "".join(f"<li>{esc(text)}</li>" for text in others)
    return (
        '<section id="why" aria-labelledby="h-why"><h2 id="h-why">Why the damage grew</h2>'
        + "".join(f"<p>{esc(text)}</p>" for text in words if text)
        + (_split_html(own.shares) if own.shares is not None else "")
        + (f'<ul class="items">{also}</ul>' if also else "")
        + _broken_html(own.not_finite)
        + _trace_html(mechanism)
        + "</section>"
    )


def waterfall_png(mechanism: Mechanism) -> bytes | None:
    """The waterfall of the variant that the verdict speaks of; None where its growth was not split."""
    split = mechanism.by_variant[mechanism.headline].shares
    return None if split is None else figure_png(waterfall(split), tokens((), dark=False))


def waterfall_svg(split: GrowthShares) -> str:
    """The waterfall in the colours of the page that it is put into."""
    return figure_svg(waterfall(split), css_tokens(()), padding=4)


def _split_html(split: GrowthShares) -> str:
    rows = [
        (
            f"{esc(FACTOR_WORDS[each.name])}<br><small>{esc(FACTOR_MEANINGS[each.name])}</small>",
            f"{each.before.estimate:.3g}",
            f"{each.end.estimate:.3g}",
            times(each.times),
            esc(share_of(each)),
        )
        for each in split.factors
    ]
    before, end = f"{split.damage_before.estimate:.3g}", f"{split.damage_end.estimate:.3g}"
    rows.append(("damage, nats per token", before, end, times(split.times), ""))
    heads = ("Factor", "First window", "End", "Times", "Share of the growth")
    return (
        '<figure class="why-chart"><figcaption><h3>From the first window to the end</h3>'
        f'<span class="note">{esc(RULE)}</span></figcaption>'
        f'<div role="img" aria-label="Growth of the damage, factor by factor">{waterfall_svg(split)}</div></figure>'
        f"{plain_table(heads, rows)}"
    )


def _broken_html(steps: Sequence[int]) -> str:
    if not steps:
        return ""
    named = ", ".join(f"{step:,}" for step in steps[:8]) + (", ..." if len(steps) > 8 else "")
    return f'<p class="note">Controls that are not finite: step {named}. They enter no window.</p>'


def _trace_html(mechanism: Mechanism) -> str:
    checks = mechanism.trace_checks or ()
    if not checks:
        return ""
    labels = {name: each.label for name, each in mechanism.by_variant.items()}
    rows = [
        (
            f"{check.step:,}",
            esc(noise_words(check, labels)),
            f"{check.predicted_nats:.3g} &plusmn; {check.predicted_se:.2g}",
            f"{check.measured_nats:.3g} &plusmn; {check.measured_se:.2g}",
            "yes" if check.agrees else "no",
        )
        for check in checks
    ]
    heads = ("Step", "Noise", "Half of the trace predicts, nats", "It costs, nats", "Within the errors")
    return f"<h3>Curvature against noise</h3><p>{esc(trace_sentence(checks))}</p>{plain_table(heads, rows)}"


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
