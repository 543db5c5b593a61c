"""Why the damage grew, as a part of the report's page: the cause in words, the waterfall, the factors in a table."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.analysis.trajectory.mechanism.growth_shares import GrowthShares
from pipeline.analysis.trajectory.mechanism.mechanism_report import Mechanism, VariantMechanism
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
from pipeline.analysis.trajectory.mechanism.trace_check import TraceCheck
from pipeline.report.html_text import esc
from pipeline.report.mechanism_charts import waterfall
from pipeline.report.render import png, svg
from pipeline.report.theme import LIGHT, config, css_name, paint

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
        + _broken_html(own)
        + _trace_html(mechanism.trace_checks or ())
        + "</section>"
    )


def waterfall_png(mechanism: Mechanism) -> bytes | None:
    """The waterfall of the variant that the verdict speaks of; None where its growth was not split."""
    split = mechanism.by_variant[mechanism.headline].shares
    if split is None:
        return None
    values = {f"${name}": value for name, value in LIGHT.items()}
    return png(
        {
            **paint(waterfall(split), values),
            "config": {**config(values), "axisY": {}, "background": values["$paper"], "padding": 14},
        }
    )


def waterfall_svg(split: GrowthShares) -> str:
    """The waterfall in the colours of the page that it is put into."""
    css = {f"${name}": f"var({css_name(f'${name}')})" for name in LIGHT}
    return svg({**paint(waterfall(split), css), "config": {**config(css), "axisY": {}, "padding": 4}})


def _split_html(split: GrowthShares) -> str:
    heads = ("Factor", "First window", "End", "Times", "Share of the growth")
    rows = "".join(
        f'<tr><th scope="row">{esc(FACTOR_WORDS[each.name])}<br><small>{esc(FACTOR_MEANINGS[each.name])}</small></th>'
        f"<td>{each.before.estimate:.3g}</td><td>{each.end.estimate:.3g}</td><td>{times(each.times)}</td>"
        f"<td>{esc(share_of(each))}</td></tr>"
        for each in split.factors
    )
    total = (
        f'<tr><th scope="row">damage, nats per token</th><td>{split.damage_before.estimate:.3g}</td>'
        f"<td>{split.damage_end.estimate:.3g}</td><td>{times(split.times)}</td><td></td></tr>"
    )
    return (
        '<figure class="why-chart"><figcaption><h3>From the first window to the end</h3>'
        f'<span class="note">{esc(RULE)}</span></figcaption>'
        f'<div role="img" aria-label="Growth of the damage, factor by factor">{waterfall_svg(split)}</div></figure>'
        '<div class="scroll"><table class="plain"><thead><tr>'
        f"{''.join(f'<th scope=col>{head}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{rows}{total}</tbody></table></div>"
    )


def _broken_html(own: VariantMechanism) -> str:
    if not own.not_finite:
        return ""
    named = ", ".join(f"{step:,}" for step in own.not_finite[:8]) + (
        ", ..." if len(own.not_finite) > 8 else ""
    )
    return f'<p class="note">Controls that are not finite: step {esc(named)}. They enter no window.</p>'


def _trace_html(checks: Sequence[TraceCheck]) -> str:
    if not checks:
        return ""
    heads = ("Step", "Noise", "Half of the trace predicts, nats", "It costs, nats", "Within the errors")
    rows = "".join(
        f'<tr><th scope="row">{check.step:,}</th><td>{esc(noise_words(check))}</td>'
        f"<td>{check.predicted_nats:.3g} &plusmn; {check.predicted_se:.2g}</td>"
        f"<td>{check.measured_nats:.3g} &plusmn; {check.measured_se:.2g}</td>"
        f"<td>{'yes' if check.agrees else 'no'}</td></tr>"
        for check in checks
    )
    return (
        f"<h3>Curvature against noise</h3><p>{esc(trace_sentence(checks))}</p>"
        '<div class="scroll"><table class="plain"><thead><tr>'
        f"{''.join(f'<th scope=col>{head}</th>' for head in heads)}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
