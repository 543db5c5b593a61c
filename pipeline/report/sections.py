"""The text and small tables of the page, as escaped HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.report import html_text as text
from pipeline.report import methods
from pipeline.report.event_marks import DatedEvent, read_events, subject
from pipeline.report.frame import Frame
from pipeline.report.html_text import esc
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


def tiles_html(report: Mapping[str, Any], frame: Frame) -> str:
    """Key numbers; an unknown one has no tile, but "none found" is shown."""
    name = esc(subject(report))
    tiles = [
        *_decision_tile(report),
        ("Checkpoints", f"{report.get('n_checkpoints', frame.rows.height):,}", _span(frame)),
    ]
    for what, label, none, seen in (
        ("convergence", "FP32 converged", "no", "not detected in this run"),
        ("onset", f"{name} onset", "none", "detected in this run"),
    ):
        at, ci = report.get(f"{what}_step"), text.interval(report.get(f"{what}_ci"))
        if at is not None:
            note = f"95 %: {text.step(ci[0])} to {text.step(ci[1])}" if ci else "no interval"
            tiles.append((label, text.step(at), note))
        elif what == "onset" and report.get("growth") == "learning_rate":
            tiles.append((label, none, "grows as the learning rate falls"))
        elif f"{what}_step" in report:
            tiles.append((label, none, seen))
    first, last = report.get("int4_gap_first"), report.get("int4_gap_last")
    if last is not None:
        tiles.append((f"{name} gap, last", text.percent(last), f"first {text.percent(first)}"))
    if report.get("int8_gap_max") is not None:
        tiles.append(("INT8 gap, largest", text.percent(report["int8_gap_max"]), ""))
    return "".join(
        f'<div class="tile"><dt>{label}</dt><dd>{esc(value)}</dd><dd class="note">{esc(note)}</dd></div>'
        for label, value, note in tiles
    )


def _decision_tile(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    decided, best = report.get("decision") or {}, report.get("best_checkpoint_for_int4")
    label = f"Ship for {esc(subject(report))}"
    if (decided.get("refined") or {}).get("best_step") is not None:
        decided = decided["refined"]
    if decided.get("best_step") is not None:
        others = len(decided["maybe_best"]) - 1
        return [(label, text.step(decided["best_step"]), f"{others} others may be as good")]
    return [] if best is None else [(label, text.step(best), "lowest loss")]


def _span(frame: Frame) -> str:
    return f"step {text.step(frame.first_step)} to {text.step(frame.last_step)}"


def events_html(report: Mapping[str, Any]) -> str:
    """Table of the candidate events, compared with the onset if there is one; empty without events."""
    events = read_events(report)
    if not events:
        return ""
    onset = report.get("onset_step") is not None
    title = "Which event does the onset follow?" if onset else "Events of the run"
    note = (
        "An event coincides with the onset when the interval of the difference holds 0. One run cannot separate or "
        "order events that coincide, and coincidence is not yet a cause."
        if onset
        else "Without an onset there is nothing to compare them with."
    )
    heads = ["DatedEvent", "Step", *(["Onset minus event", "Coincides"] if onset else [])]
    rows = "".join(_event_row(event, onset=onset) for event in events)
    return (
        f'<section aria-labelledby="h-events"><h2 id="h-events">{title}</h2><p class="note">{note}</p>'
        '<div class="scroll"><table class="plain"><thead><tr>'
        f"{''.join(f'<th scope=col>{head}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _event_row(event: DatedEvent, *, onset: bool) -> str:
    when = esc(event.reason) if event.step is None else text.step(event.step) + _range(event.ci)
    cells = [when or NONE]
    if onset:
        lag = NONE if event.lag is None else text.signed(event.lag) + _range(event.lag_ci)
        coincides = (
            NONE if event.lag_ci is None else "yes" if event.lag_ci[0] <= 0 <= event.lag_ci[1] else "no"
        )
        cells += [lag, coincides]
    return f'<tr><th scope="row">{esc(event.label)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _range(pair: tuple[float, float] | None) -> str:
    if pair is None or pair[0] == pair[1]:
        return ""
    return f" <small>({text.signed(pair[0])} to {text.signed(pair[1])})</small>"


def problems_html(report: Mapping[str, Any]) -> str:
    """Duplicates, failures and missing checkpoints, or a sentence that there are none."""
    parts = []
    for key, title, none in (
        ("failures", "Failed checkpoints", "None failed."),
        (
            "duplicates",
            "Checkpoints with the weights of another",
            "No two checkpoints have the same weights.",
        ),
        ("missing", "Missing checkpoints", ""),
        ("skipped", "Skipped folders", ""),
        ("notes", "Notes of the measurement", ""),
    ):
        lines = list(_lines(text.redact(report.get(key))))
        if lines:
            items = "".join(f"<li>{line}</li>" for line in lines)
            parts.append(f'<h3>{title} ({len(lines)})</h3><ul class="items">{items}</ul>')
        elif none and key in report:
            parts.append(f'<p class="note">{none}</p>')
    parts += filter(None, [methods.problems_table(text.redact(dict(report)))])
    if not parts:
        return ""
    heading = '<h2 id="h-odd">Failures and duplicates</h2>'
    return f'<section aria-labelledby="h-odd">{heading}{"".join(parts)}</section>'


def _lines(entries: Any) -> Iterable[str]:
    """One escaped line per entry of a list of names or records, or of a mapping."""
    if isinstance(entries, Mapping):
        yield from (f"<b>{esc(key)}</b> {esc(_flat(value))}" for key, value in entries.items())
        return
    for entry in entries or []:
        if isinstance(entry, Mapping):
            named = [(str(key), value) for key, value in entry.items() if value not in (None, "")]
            yield ", ".join(
                f"{esc(key.replace('_', ' '))} <b>{esc(_flat(value))}</b>" for key, value in named
            )
        else:
            yield f"<b>{esc(_flat(entry))}</b>"


def provenance_html(provenance: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Origin of the numbers, without credentials."""
    merged = {**provenance}
    for key in ("versions", "wall_s"):
        if key in report and key not in merged:
            merged[key] = report[key]
    rows = "".join(
        f"<div><dt>{esc(re.sub('_s$', ' (s)', key).replace('_', ' '))}</dt><dd>{value}</dd></div>"
        for key, value in _facts(text.redact(merged))
    )
    if not rows:
        return ""
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
