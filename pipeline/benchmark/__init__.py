"""Compare the speed of the pipeline with that of a naive loop, at equal results."""

from pipeline.benchmark.device import DeviceComparison, compare_arithmetics
from pipeline.benchmark.naive import naive_losses
from pipeline.benchmark.outcome import Outcome
from pipeline.benchmark.side_by_side import Comparison, compare

__all__ = ["Comparison", "DeviceComparison", "Outcome", "compare", "compare_arithmetics", "naive_losses"]
