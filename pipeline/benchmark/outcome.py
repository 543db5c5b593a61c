"""Results of a benchmark as JSON values, as a table and as a chart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.benchmark.device import DeviceComparison
from pipeline.benchmark.side_by_side import Comparison

TOLERANCES_NATS: dict[str, float | None] = {"ieee": 1e-6, "split": 5e-6, "tf32": None}
"""Largest difference from the naive loop's mean nll, in nats, by the pipeline's arithmetic. The quantized weights
are bit-equal, so only the rounding of products differs. ``ieee`` rounds like the naive loop, in another order.
``split`` gets 5e-6: it rounds differently, and the naive loop's own float32 products are several 1e-6 from float64.
``tf32``, for comparison only, has no tolerance: its difference is reported and never a failure."""

HEADINGS = ("", "s/checkpoint", "tokens/s", "TFLOP/s", "of ceiling", "peak GiB", "nll error")


@dataclass(frozen=True)
class Outcome:
    """One run of the benchmark."""

    suite: str
    comparison: Comparison
    arithmetics: DeviceComparison | None
    """Timings of the arithmetics; None on the CPU, which has only one."""

    @property
    def disagreement(self) -> str | None:
        """The fault if the losses differ by more than the tolerance."""
        limit = TOLERANCES_NATS[self.comparison.arithmetic]
        if limit is None or self.comparison.max_nll_difference_nats <= limit:
            return None
        return f"the two disagree by more than {limit:g} nats"

    def to_json(self) -> dict[str, Any]:
        """Plain values: the comparison's fields, its ratios and, under ``arithmetics``, the table."""
        arithmetics = None if self.arithmetics is None else dataclasses.asdict(self.arithmetics)
        return {
            "suite": self.suite,
            "complete": True,
            **dataclasses.asdict(self.comparison),
            "ratio": self.comparison.ratio,
            "scipy_ratio": self.comparison.scipy_ratio,
            "scaling": self.comparison.scaling,
            "arithmetics": arithmetics,
        }

    def comparison_lines(self) -> list[str]:
        """The comparison as text."""
        it = self.comparison
        workers = "1 worker" if it.workers == 1 else f"{it.workers} workers"
        start = f"steady; {it.pipeline_total_s:.1f} s in total, start included"
        lines = [
            f"{self.suite}: {it.checkpoints} checkpoints, {it.n_tokens} tokens, {', '.join(it.variants)}",
            f"{it.device}, {it.arithmetic}, {workers}, {it.cores} cores",
            f"naive loop                  {it.naive_s:8.3f} s per checkpoint ({it.naive_checkpoints} timed)",
            f"naive loop + SciPy kurtosis {it.naive_scipy_s:8.3f} s per checkpoint (1 timed)",
            f"pipeline                    {it.pipeline_s:8.3f} s per checkpoint ({start})",
            f"ratio                       {it.ratio:8.2f}   ({it.scipy_ratio:.2f} to the loop with SciPy kurtosis)",
            f"largest nll difference      {it.max_nll_difference_nats:8.1e} nats",
            f"peak memory of a worker     {it.peak_gib:8.2f} GiB",
        ]
        if it.single_worker_s is not None:
            lines.append(f"pipeline, one worker        {it.single_worker_s:8.3f} s per checkpoint")
            lines.append(f"{workers + ' against one':<27} {it.scaling:8.2f} x")
        return lines

    def arithmetic_lines(self) -> list[str]:
        """The table of arithmetics as text; empty on the CPU."""
        it = self.arithmetics
        if it is None:
            return []
        rows = [HEADINGS]
        for timing in it.timings:
            worst = max(map(abs, timing.nll_error_nats.values()))
            rows.append(
                (
                    timing.name,
                    f"{timing.seconds_per_checkpoint:.3f}",
                    f"{timing.tokens_per_s:,.0f}",
                    f"{timing.useful_tflops:.1f}",
                    f"{timing.share_of_ceiling:.1%}",
                    f"{timing.peak_gib:.2f}",
                    f"{worst:.1e}",
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in rows
        ]
        return [
            f"One process on {it.device}; products of float16 reach {it.ceiling_float16_tflops:.0f} TFLOP/s (the "
            f"ceiling), of float32 {it.ceiling_float32_tflops:.0f}:",
            *lines,
            f"nll error: largest of the variants, in nats, against float64 on {it.reference_batches} batches",
        ]

    def chart(self, schema: str) -> dict[str, Any]:
        """A Vega-Lite bar chart of seconds per checkpoint; colours are tokens (``$accent``) for the caller to paint."""
        it = self.comparison
        workers = "" if it.workers == 1 else f" x {it.workers}"
        bars = [("naive loop", it.naive_s), (f"pipeline, {it.arithmetic}{workers}", it.pipeline_s)]
        if self.arithmetics is not None:
            timings = self.arithmetics.timings
            bars = [(timing.name, timing.seconds_per_checkpoint) for timing in timings] + bars[1:]
        scipy = f"naive loop with SciPy's kurtosis: {it.naive_scipy_s:.3g} s"
        values = [
            {
                "name": name,
                "seconds": seconds,
                "label": f"{seconds:.3g}",
                "ours": not name.startswith("naive"),
            }
            for name, seconds in bars
        ]
        seconds = f"seconds per checkpoint ({it.n_tokens:,} tokens, {len(it.variants)} variants)"
        y = {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "maxExtent": 200}}
        x = {"field": "seconds", "type": "quantitative", "axis": {"title": seconds, "grid": True}}
        fill = {"condition": {"test": "datum.ours", "value": "$accent"}, "value": "$faint"}
        return {
            "$schema": schema,
            "width": 620,
            "height": {"step": 26},
            "title": {
                "text": f"{self.suite} on {'the CPU' if it.device == 'cpu' else it.device}",
                "subtitle": scipy,
            },
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
