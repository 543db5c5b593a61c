"""The table of checkpoints: plain HTML that works without scripts; the page's script sorts and filters it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.measurements import choices, unvaried_columns
from pipeline.report import html_text as text
from pipeline.report.frame import Frame

BAD = ' class="bad"'


@dataclass(frozen=True)
class Heading:
    """One column of the table."""

    name: str
    """Column of the trajectory table."""
    heading: str
    group: str = ""
    """Variant key whose colour marks the column."""
    kind: str = "number"
    """Format of a value: number, short, rate, gap, share, step, big or word."""


def table_columns(frame: Frame) -> list[Heading]:
    """Columns with at least one value, in reading order."""
    wanted = [
        Heading("step", "Step", kind="step"),
        Heading("phase", "Phase", kind="word"),
        Heading("tokens_seen", "Tokens", kind="big"),
        Heading("learning_rate", "Learning rate", kind="rate"),
        Heading("fp32_perplexity", "FP32 ppl", "fp32"),
    ]
    for series in frame.quantized:
        wanted += [
            Heading(f"{series.key}_perplexity", f"{series.label} ppl", series.key),
            Heading(f"{series.key}_gap", f"{series.label} gap", series.key, "gap"),
            *(
                Heading(
                    f"{series.key}_{each.name}", f"{series.label} {each.heading}", series.key, each.written
                )
                for each in choices()
                if each.heading
            ),
        ]
    wanted += [
        *(Heading(each.name, each.heading, kind=each.written) for each in unvaried_columns() if each.heading),
        Heading("duplicate_of", "Same weights as", kind="word"),
    ]
    return [column for column in wanted if frame.has(column.name)]


def write(value: Any, kind: str) -> str:
    """One cell's text."""
    if value is None:
        return "" if kind == "word" else "\u2013"
    return _WRITERS[kind](value)


_WRITERS: dict[str, Callable[[Any], str]] = {
    "word": str,
    "step": text.step,
    "big": text.big,
    "rate": text.rate,
    "number": lambda value: text.number(value, 4),
    "short": lambda value: text.number(value, 3),
    "gap": lambda value: text.percent(value, 3, sign=True),
    "share": lambda value: text.percent(value, 4),
}


def table_html(frame: Frame) -> str:
    """The whole table; a row has its index (``data-i``), a heading its column (``data-c``)."""
    columns = table_columns(frame)
    heads = "".join(
        f'<th scope="col" aria-sort="{"ascending" if column.name == "step" else "none"}">'
        f'<button type="button" data-c="{text.esc(column.name)}"{_mark(column)}>{text.esc(column.heading)}'
        "</button></th>"
        for column in columns
    )
    body = []
    for place, row in enumerate(frame.rows.select([column.name for column in columns]).iter_rows()):
        shown = [write(value, column.kind) for column, value in zip(columns[1:], row[1:], strict=True)]
        cells = [f"<td{BAD if each == 'diverged' else ''}>{text.esc(each)}</td>" for each in shown]
        gone = ' class="gone"' if row[0] in frame.missing_steps else ""
        body.append(
            f'<tr data-i="{place}"{gone}><th scope="row">{text.step(row[0])}</th>{"".join(cells)}</tr>'
        )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{chr(10).join(body)}</tbody></table>"


def _mark(column: Heading) -> str:
    return f' class="of" style="--of:var(--v-{text.esc(column.group)})"' if column.group else ""
