"""The text and small tables of the page, as escaped HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.analysis.decision import Decision
from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.findings import GrowthKind
from pipeline.analysis.trajectory.refinement import Refinement
from pipeline.analysis.trajectory.schedule_events import Predictor
from pipeline.analysis.trajectory.summary import Summary
from pipeline.base.english import counted
from pipeline.base.typed_json import to_json
from pipeline.report import html_text as text
from pipeline.report import methods
from pipeline.report.event_marks import candidates, label_of, subject
from pipeline.report.frame import Frame
from pipeline.report.html_text import esc, plain_table
from pipeline.report.verdict import WrittenVerdict

NONE = "\u2013"


def verdict_html(verdict: WrittenVerdict) -> str:
    """Headline, sentences and their evidence."""
    paragraphs = "".join(
        f'<p class="lead">{" ".join(_flow(sentence) for sentence in part)}</p>'
        for part in (verdict.findings, verdict.magnitudes)
        if part
    )
    grounds = "".join(
        f"<div><dt>{esc(claim)}</dt><dd>{_flow(basis)}</dd></div>" for claim, basis in verdict.grounds
    )
    how_sure = f'<h2 class="quiet">How sure</h2><dl class="grounds">{grounds}</dl>' if grounds else ""
    return f"<h1>{esc(verdict.headline)}</h1>{paragraphs}{how_sure}"


def _flow(sentence: str) -> str:
    """Escape a sentence and keep numbers on one line with their units."""
    return esc(sentence).replace(" = ", "&nbsp;=&nbsp;").replace(" %", "&nbsp;%")


def tiles_html(report: AuditReport, frame: Frame) -> str:
    """Key numbers; an unknown one has no tile, but "none found" is shown."""
    found, name = report.summary, subject(report)
    n = frame.rows.height if report.n_checkpoints is None else report.n_checkpoints
    span = f"step {text.step(frame.first_step)} to {text.step(frame.last_step)}"
    tiles = [*_decision_tile(report), ("Checkpoints", f"{n:,}", span)]
    if found.convergence_step is not None:
        tiles.append(_step_tile("FP32 converged", found.convergence_step, found.convergence_ci))
    elif found.growth is not None:
        tiles.append(("FP32 converged", "no", "not detected in this run"))
    if found.onset_step is not None:
        tiles.append(_step_tile(f"{name} onset", found.onset_step, found.onset_ci))
    elif found.growth is GrowthKind.LEARNING_RATE:
        tiles.append((f"{name} onset", "none", "grows as the learning rate falls"))
    elif found.growth is not None:
        tiles.append((f"{name} onset", "none", "detected in this run"))
    first, last, most = found.gaps.int4_gap_first, found.gaps.int4_gap_last, found.gaps.int8_gap_max
    if last is not None:
        tiles.append((f"{name} gap, last", text.percent(last), f"first {text.percent(first)}"))
    if most is not None:
        tiles.append(("INT8 gap, largest", text.percent(most), ""))
    return "".join(
        f'<div class="tile"><dt>{esc(label)}</dt><dd>{esc(value)}</dd><dd class="note">{esc(note)}</dd></div>'
        for label, value, note in tiles
    )


def _step_tile(label: str, at: int, ci: tuple[int, int] | None) -> tuple[str, str, str]:
    return label, text.step(at), f"95 %: {text.step(ci[0])} to {text.step(ci[1])}" if ci else "no interval"


def _decision_tile(report: AuditReport) -> list[tuple[str, str, str]]:
    label, decided = f"Ship for {subject(report)}", report.decision
    for found in () if decided is None else (decided.refined, decided.headline.found):
        if isinstance(found, Decision | Refinement) and found.best_step is not None:
            others = len(found.maybe_best or ()) - 1
            return [(label, text.step(found.best_step), f"{counted(others, 'other')} may be as good")]
    best = report.summary.gaps.best_checkpoint_for_int4
    return [] if best is None else [(label, text.step(best), "lowest loss")]


def events_html(summary: Summary) -> str:
    """Table of the candidate events, compared with the onset if there is one; empty without events."""
    events = candidates(summary)
    if not events:
        return ""
    onset = summary.onset_step is not None
    title = "Which event does the onset follow?" if onset else "Events of the run"
    note = (
        "An event coincides with the onset when the interval of the difference holds 0. One run cannot separate or "
        "order events that coincide, and coincidence is not yet a cause."
        if onset
        else "Without an onset there is nothing to compare them with."
    )
    heads = ["Event", "Step", *(["Onset minus event", "Coincides"] if onset else [])]
    return (
        f'<section aria-labelledby="h-events"><h2 id="h-events">{title}</h2><p class="note">{note}</p>'
        f"{plain_table(heads, [_event_row(event, onset=onset) for event in events])}</section>"
    )


def _event_row(event: Predictor, *, onset: bool) -> list[str]:
    when = esc(event.reason or NONE) if event.step is None else text.step(event.step) + _range(event.step_ci)
    cells = [esc(label_of(event.event)), when]
    if onset:
        lag, ci = event.onset_minus_event, event.onset_minus_event_ci
        cells.append(NONE if lag is None else text.signed(lag) + _range(ci))
        cells.append(NONE if ci is None else "yes" if ci[0] <= 0 <= ci[1] else "no")
    return cells


def _range(pair: tuple[int, int] | None) -> str:
    if pair is None or pair[0] == pair[1]:
        return ""
    return f" <small>({text.signed(pair[0])} to {text.signed(pair[1])})</small>"


def problems_html(report: AuditReport) -> str:
    """Duplicates, failures and missing checkpoints, or a sentence that there are none."""
    same = "Checkpoints with the weights of another"
    parts = [
        _problems("Failed checkpoints", _by_key(report.failures), "None failed."),
        _problems(same, _by_key(report.duplicates), "No two checkpoints have the same weights."),
        _problems("Missing checkpoints", _names(report.missing)),
        _problems("Skipped folders", _names(report.skipped)),
        _problems("Notes of the measurement", _by_key(report.notes)),
        methods.problems_table(report),
    ]
    heading = '<h2 id="h-odd">Failures and duplicates</h2>'
    return f'<section aria-labelledby="h-odd">{heading}{"".join(parts)}</section>'


def _problems(title: str, lines: list[str], none: str = "") -> str:
    if lines:
        items = "".join(f"<li>{line}</li>" for line in lines)
        return f'<h3>{title} ({len(lines)})</h3><ul class="items">{items}</ul>'
    return f'<p class="note">{none}</p>' if none else ""


def _by_key(entries: Mapping[str, str | tuple[str, ...]]) -> list[str]:
    """One escaped line per checkpoint, without credentials."""
    return [f"<b>{esc(key)}</b> {esc(_flat(value))}" for key, value in text.redact(dict(entries)).items()]


def _names(entries: Iterable[str]) -> list[str]:
    return [f"<b>{esc(text.redact(entry))}</b>" for entry in entries]


def provenance_html(report: AuditReport) -> str:
    """Origin of the numbers, without credentials."""
    names = ("suite", "corpus", "fingerprint", "config", "versions", "wall_s", "calibration")
    origin = {name: to_json(getattr(report, name)) for name in names}
    rows = "".join(
        f"<div><dt>{esc(re.sub('_s$', ' (s)', key).replace('_', ' '))}</dt><dd>{value}</dd></div>"
        for key, value in _facts(text.redact(origin))
    )
    return (
        '<section aria-labelledby="h-from"><h2 id="h-from">Where these numbers come from</h2>'
        f'<dl class="facts">{rows}</dl></section>'
    )


def _facts(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            if all(not isinstance(item, Mapping | list) for item in value.values()):
                pairs = ", ".join(f"{esc(name)}&nbsp;{esc(_flat(item))}" for name, item in value.items())
                yield prefix + str(key), pairs
            else:
                yield from _facts(value, f"{prefix}{key} / ")
        elif value not in (None, "", [], {}):
            yield prefix + str(key), f"<code>{esc(_flat(value))}</code>"


def _flat(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_flat(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return text.number(value, 4) if isinstance(value, float) else str(value)
