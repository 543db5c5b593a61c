"""One checkpoint -> one shard's rows: all variants in one pass through the layers, weights measured on the way."""

from pipeline.probe.prober import LayeredProber, Prober
from pipeline.probe.result import Measurement, VariantResult
from pipeline.probe.tensor_statistics import TensorStatistics

__all__ = ["LayeredProber", "Measurement", "Prober", "TensorStatistics", "VariantResult"]
