"""Progress output: a bar on a terminal, plain lines elsewhere.

Names of folders, tensors and columns come from other people's files. All output therefore goes through
:func:`printable`: a name must not move the cursor, colour the terminal or set its title.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table

from pipeline.runs.kind_of_work import TextTable

LINE_EVERY_S = 10.0
"""Shortest time between two plain lines, in seconds."""

Report = Callable[[int, int, float | None, str], None]
"""Called with units done, total units, seconds left (None: not known yet) and a note on the last one."""

_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
"""Control characters except tab and newline, characters that change the text direction, and lone surrogates."""


def printable(text: str) -> str:
    """``text`` with characters that a terminal would act on replaced by escapes.

    >>> printable("step\\x1b[2J1")
    'step\\\\x1b[2J1'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def tab_separated(cells: Iterable[str]) -> str:
    """The cells as one tab-separated line; tabs and newlines in them become spaces."""
    return "\t".join(printable(cell).replace("\t", "\\t").replace("\n", "\\n") for cell in cells)


class SafeConsole(Console):
    """A rich console that escapes unprintable text; rich's own control codes pass."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with escaped text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


console = SafeConsole(highlight=False, markup=False, soft_wrap=True)
errors = SafeConsole(stderr=True, highlight=False, markup=False, soft_wrap=True)


def rich_table(text: TextTable) -> Table:
    table = Table(title=text.title, title_justify="left")
    for index, head in enumerate(text.heads):
        if text.named and index == 0:
            longest = max((len(row[0]) for row in text.rows), default=0)
            table.add_column(head, overflow="fold", min_width=min(16, longest))
        else:
            table.add_column(head, justify="right", no_wrap=text.named)
    for row in text.rows:
        table.add_row(*row)
    return table


def duration(seconds: float) -> str:
    """``seconds`` in words.

    >>> duration(42), duration(95), duration(7300)
    ('42 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def lazy_progress(label: str, on: Console = console) -> Iterator[Report]:
    """Like :func:`progress`, but the progress line appears with the first report only."""
    with ExitStack() as stack:
        shown: list[Report] = []

        def show(done: int, total: int, eta_s: float | None, note: str) -> None:
            if not shown:
                shown.append(stack.enter_context(progress(label, on)))
            shown[0](done, total, eta_s, note)

        yield show


@contextmanager
def progress(label: str, on: Console = console) -> Iterator[Report]:
    """Context manager that gives a progress callback for work named ``label``, shown ``on`` a console."""
    if on.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, TextColumn("{task.fields[note]}", markup=False), console=on, transient=True
        ) as bar:
            task = bar.add_task(label, total=None, note="")

            def show(done: int, total: int, eta_s: float | None, note: str) -> None:
                left = "" if eta_s is None else f"{duration(eta_s)} left  "
                bar.update(task, completed=done, total=total, note=left + note)

            yield show
        return
    last = 0.0

    def line(done: int, total: int, eta_s: float | None, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < LINE_EVERY_S:
            return
        last = now
        left = "" if eta_s is None else f", {duration(eta_s)} left"
        on.print(f"{label}: {done}/{total}{left}  {note}".rstrip())

    yield line
