"""One checkpoint -> one shard's rows: all variants in one forward, weight statistics in one pass."""

from pipeline.probe.measure import Measurement, Prober, VariantResult
from pipeline.probe.quantized import TensorStatistics

__all__ = ["Measurement", "Prober", "TensorStatistics", "VariantResult"]
