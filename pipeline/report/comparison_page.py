"""The factors of several runs side by side, as one page without script."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.analysis.trajectory.compared_runs import RunFactors
from pipeline.analysis.trajectory.mechanism.control_losses import FACTORS
from pipeline.analysis.trajectory.mechanism.mechanism_words import FACTOR_WORDS, run_sentence, share_of, times
from pipeline.report.assets import plain_page
from pipeline.report.html_text import esc
from pipeline.report.mechanism_section import RULE, waterfall_svg
from pipeline.report.theme import tokens
from pipeline.spec import variant_label

STYLE = """
main{max-width:1040px}
.runs{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:18px 28px;margin-top:18px}
.runs svg{max-width:100%;height:auto}
"""


def comparison_page(found: Sequence[RunFactors]) -> str:
    """A table with a column per run, and the waterfall of each."""
    title = "Why the damage grew, run by run"
    sections = "".join(
        _variant(variant, [each for each in found if each.variant == variant])
        for variant in dict.fromkeys(each.variant for each in found)
    )
    body = f'<main><h1>{title}</h1><p class="note">{esc(RULE)}</p>{sections}</main>'
    return plain_page(title, body, tokens((), dark=False), tokens((), dark=True), style=STYLE)


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
