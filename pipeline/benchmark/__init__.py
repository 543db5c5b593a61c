"""How much faster the pipeline is than the loop one would write first, at equal results."""

from pipeline.benchmark.compare import Comparison, compare
from pipeline.benchmark.naive import naive_losses

__all__ = ["Comparison", "compare", "naive_losses"]
