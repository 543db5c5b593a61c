"""How much faster the pipeline is than the loop one would write first, at equal results."""

from pipeline.benchmark.device import DeviceComparison, compare_arithmetics
from pipeline.benchmark.naive import naive_losses
from pipeline.benchmark.outcome import Outcome
from pipeline.benchmark.side_by_side import Comparison, compare

__all__ = ["Comparison", "DeviceComparison", "Outcome", "compare", "compare_arithmetics", "naive_losses"]
