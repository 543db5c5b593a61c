"""The result of every benchmark: rows of timings, one table for a terminal, one JSON object, one chart."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.base.errors import UsageError
from pipeline.base.files import load_json
from pipeline.base.typed_json import from_json, to_json

TOLERANCES_NATS: dict[str, float | None] = {"ieee": 1e-6, "split": 5e-6, "tf32": None}
"""Largest difference from the naive loop's mean nll, in nats, by the pipeline's arithmetic. The quantized weights
are bit-equal, so only the rounding of products differs. ``ieee`` rounds like the naive loop, in another order.
``split`` gets 5e-6: it rounds differently, and the naive loop's own float32 products are several 1e-6 from float64.
``tf32``, for comparison only, has no tolerance: its difference is reported and never a failure."""


@dataclass(frozen=True)
class Seconds:
    """Seconds per unit of work."""

    median: float
    least: float
    most: float
    n: int
    """Timings; 1 = one period, divided by its units."""

    @classmethod
    def of(cls, times: Sequence[float]) -> Self:
        """The median and the range of ``times``, at least one."""
        return cls(float(statistics.median(times)), min(times), max(times), len(times))


@dataclass(frozen=True)
class Timing:
    """One way to do the work, or the reason why it was not timed."""

    what: str
    ours: bool
    seconds: Seconds | None = None
    ratio: float | None = None
    """Median over that of the row that the benchmark compares with."""
    peak_gib: float | None = None
    """GPU: most memory allocated. CPU: largest resident size of the process."""
    nll_nats: float | None = None
    """Loss that a method reaches."""
    differences_nats: dict[str, float] = field(default_factory=dict)
    """By variant: the mean nll minus that of ``against``; the largest over the checkpoints."""
    against: str = ""
    tolerance_nats: float | None = None
    """Largest difference that rounding explains; None: any is only reported."""
    absent: str = ""
    """Reason why there are no seconds."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Further numbers by name, units in the names."""

    @property
    def difference_nats(self) -> float | None:
        """The largest of all variants; NaN if one of them is."""
        values = [abs(value) for value in self.differences_nats.values()]
        return None if not values else next((each for each in values if each != each), max(values))  # noqa: PLR0124

    @property
    def disagreement(self) -> str | None:
        """The fault if the losses differ by more than rounding."""
        found, limit = self.difference_nats, self.tolerance_nats
        if found is None or limit is None or found <= limit:
            return None
        return f"{self.what} and {self.against} disagree by more than {limit:g} nats"


@dataclass(frozen=True)
class Benchmark:
    """Several ways to do the same work, timed in one run."""

    kind: str
    """``audit``, ``fork`` (training), ``fork-runs`` (whole experiments) or ``methods``."""
    suite: str
    unit: str
    """What the seconds are of, such as ``checkpoint``."""
    base: str
    """The row whose seconds are 1 in the ratios."""
    device: str = ""
    complete: bool = False
    """False while it runs: one that ends early keeps what it found."""
    ratio: float | None = None
    """Ratio of the first row that is not ours."""
    rows: tuple[Timing, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    """What was measured, and with what."""

    def plus(self, *rows: Timing, device: str = "", complete: bool = False, **settings: Any) -> Benchmark:
        """The benchmark with more rows and settings, and all ratios anew."""
        every = (*self.rows, *rows)
        known = [row for row in every if row.seconds is not None]
        base = next((row.seconds for row in known if row.what == self.base), None)
        if base is not None:
            every = tuple(
                row
                if row.seconds is None
                else dataclasses.replace(row, ratio=row.seconds.median / base.median)
                for row in every
            )
        return dataclasses.replace(
            self,
            rows=every,
            device=device or self.device,
            complete=complete,
            ratio=next((row.ratio for row in every if not row.ours and row.ratio is not None), None),
            settings={**self.settings, **settings},
        )

    def row(self, what: str) -> Timing:
        """The row ``what``; raises KeyError if there is none."""
        for each in self.rows:
            if each.what == what:
                return each
        raise KeyError(what)

    @property
    def disagreement(self) -> str | None:
        """The first fault of a row."""
        return next((row.disagreement for row in self.rows if row.disagreement is not None), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; :func:`read_benchmark` reads them."""
        found: dict[str, Any] = to_json(self)
        return found

    def lines(self) -> list[str]:
        settings = ", ".join(f"{_words(name)} {_shown(value)}" for name, value in self.settings.items())
        counts = Counter(name for row in self.rows for name in row.numbers)
        shared = [name for name, count in counts.items() if count > 1]
        heads = (
            "",
            f"s/{self.unit}",
            "least",
            "most",
            f"x {self.base}",
            "peak GiB",
            "nll nats",
            "difference",
        )
        cells = [(*heads, *map(_words, shared))]
        cells += [
            (*_cells(row), *(_number(row.numbers.get(name)) for name in shared))
            for row in self.rows
            if not row.absent
        ]
        used = [
            column for column in range(len(cells[0])) if column == 0 or any(row[column] for row in cells[1:])
        ]
        widths = {column: max(len(row[column]) for row in cells) for column in used}
        table = ["  ".join(_padded(row[column], widths[column], column) for column in used) for row in cells]
        found = [f"{self.suite} on {self.device}: {settings}", *(line.rstrip() for line in table)]
        for row in self.rows:
            if row.absent:
                found.append(f"{row.what}: {row.absent}")
            own = [
                f"{_words(name)} {_number(value)}" for name, value in row.numbers.items() if counts[name] == 1
            ]
            if own:
                found.append(f"{row.what}: {', '.join(own)}")
        against = dict.fromkeys(row.against for row in self.rows if row.differences_nats)
        if against:
            found.append(f"difference: largest of the variants, in nats, to {' or '.join(against)}")
        return found

    def chart(self, schema: str) -> dict[str, Any]:
        """A Vega-Lite bar chart of the seconds; colours are tokens (``$accent``) for the caller to paint."""
        values = [
            {
                "name": row.what,
                "seconds": row.seconds.median,
                "label": f"{row.seconds.median:.3g}",
                "ours": row.ours,
            }
            for row in self.rows
            if row.seconds is not None
        ]
        y = {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "maxExtent": 200}}
        x = {
            "field": "seconds",
            "type": "quantitative",
            "axis": {"title": f"seconds per {self.unit}", "grid": True},
        }
        fill = {"condition": {"test": "datum.ours", "value": "$accent"}, "value": "$faint"}
        return {
            "$schema": schema,
            "width": 620,
            "height": {"step": 26},
            "title": f"{self.suite} on {'the CPU' if self.device == 'cpu' else self.device}",
            "data": {"values": values},
            "encoding": {"x": x, "y": y},
            "layer": [
                {"mark": {"type": "bar"}, "encoding": {"color": fill}},
                {
                    "mark": {"type": "text", "align": "left", "dx": 4, "color": "$ink"},
                    "encoding": {"text": {"field": "label"}},
                },
            ],
        }


OnStep = Callable[[str, int, int], None]
"""Called with what is timed, units of it that are done, and units in all."""
OnPart = Callable[[Benchmark], None]
"""Called with the results so far, after each new one."""


def read_benchmark(path: Path) -> Benchmark:
    """The benchmark in the JSON file ``path``. Raises UsageError for a file that holds none."""
    try:
        found: Benchmark = from_json(Benchmark, load_json(path), path.name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is no benchmark: {error}; wanted a file that `benchmark --out` wrote"
        ) from error
    return found


def _cells(row: Timing) -> tuple[str, ...]:
    seconds, difference = row.seconds, row.difference_nats
    several = seconds is not None and seconds.n > 1
    return (
        f"{row.what} (ours)" if row.ours else row.what,
        "" if seconds is None else f"{seconds.median:.3f}",
        f"{seconds.least:.3f}" if seconds is not None and several else "",
        f"{seconds.most:.3f}" if seconds is not None and several else "",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.peak_gib is None else f"{row.peak_gib:.2f}",
        "" if row.nll_nats is None else f"{row.nll_nats:.6f}",
        "" if difference is None else f"{difference:.1e}",
    )


def _padded(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _words(name: str) -> str:
    return name.replace("_per_", "/").replace("_", " ")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, float):
        return _number(value)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
