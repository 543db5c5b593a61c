"""How much faster the pipeline is than the loop one would write first, at equal results."""

from pipeline.benchmark.compare import Comparison, compare
from pipeline.benchmark.device import DeviceComparison, compare_arithmetics
from pipeline.benchmark.naive import naive_losses
from pipeline.benchmark.outcome import Outcome

__all__ = ["Comparison", "DeviceComparison", "Outcome", "compare", "compare_arithmetics", "naive_losses"]
