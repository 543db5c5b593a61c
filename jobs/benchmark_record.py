"""Progress messages of a benchmark, and where its results go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from jobs.console import Report, console, errors
from pipeline.base.files import make_folder, write_atomically
from pipeline.benchmark import Benchmark


class Stages:
    """Print each new stage and the time since the start on stderr."""

    def __init__(self, show: Report) -> None:
        self._show, self._start, self._last = show, time.monotonic(), ""

    def __call__(self, stage: str, done: int = 0, total: int = 1) -> None:
        if stage != self._last:
            errors.print(f"{time.monotonic() - self._start:6.1f} s: {stage}")
            self._last = stage
        self._show(done, total, None, stage)


def numbers_file(kind: str) -> str:
    """Name of the JSON file of a benchmark of ``kind``."""
    return "benchmark.json" if kind == "audit" else f"benchmark-{kind}.json"


def saver(folder: Path | None) -> Callable[[Benchmark], None]:
    """A function that rewrites the JSON file in ``folder``, so that a run that ends early keeps what it found."""
    if folder is None:
        return lambda _: None
    make_folder(folder)

    def save(found: Benchmark) -> None:
        text = json.dumps(found.to_json(), indent=1) + "\n"
        write_atomically(folder / numbers_file(found.kind), text.encode())

    return save


def finish(found: Benchmark, folder: Path | None, *, as_json: bool) -> None:
    """Print the result, write it and its chart into ``folder``; exit 1 if the two sides' numbers differ."""
    console.print(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()))
    if folder is not None:
        saver(folder)(found)
        errors.print(f"wrote {folder / numbers_file(found.kind)}")
        write_figure(found, folder)
    if found.disagreement is not None:
        errors.print(found.disagreement)
        raise SystemExit(1)


def write_figure(found: Benchmark, folder: Path) -> None:
    """Write the chart where the renderer is installed."""
    path = (folder / numbers_file(found.kind)).with_suffix(".png")
    figure = _figure(found)
    if figure is None:
        errors.print(f"no {path.name}: vl-convert-python is not installed here")
    else:
        write_atomically(path, figure)
        errors.print(f"wrote {path}")


def _figure(found: Benchmark) -> bytes | None:
    """The chart as PNG; None without vl-convert."""
    try:
        from pipeline.report.axes import SCHEMA
        from pipeline.report.render import figure_png
        from pipeline.report.theme import tokens
    except ModuleNotFoundError:
        return None
    axis = {"minExtent": 0, "maxExtent": 240, "ticks": False, "labelLimit": 240}
    return figure_png({**found.chart(SCHEMA), "config": {"axisY": axis}}, tokens((), dark=False))
