"""Compare the speed of the pipeline with that of a naive loop, at equal results."""

from pipeline.benchmark.device import with_arithmetics
from pipeline.benchmark.naive import naive_losses
from pipeline.benchmark.outcome import Benchmark, Seconds, Timing, read_benchmark
from pipeline.benchmark.side_by_side import compare

__all__ = ["Benchmark", "Seconds", "Timing", "compare", "naive_losses", "read_benchmark", "with_arithmetics"]
