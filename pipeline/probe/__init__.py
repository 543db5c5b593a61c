"""Measure one checkpoint: all variants in one pass through the layers, with statistics of the weights."""

from pipeline.probe.prober import LayeredProber, Prober
from pipeline.probe.result import Measurement, VariantResult
from pipeline.probe.tensor_statistics import TensorStatistics

__all__ = ["LayeredProber", "Measurement", "Prober", "TensorStatistics", "VariantResult"]
