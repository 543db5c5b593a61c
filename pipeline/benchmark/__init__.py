"""Compare the speed of the pipeline with that of a naive loop, at equal results.

What measures is imported from its own module: the results alone are read without torch and Ray.
"""

from pipeline.benchmark.outcome import Benchmark, Seconds, Timing, read_benchmark

__all__ = ["Benchmark", "Seconds", "Timing", "read_benchmark"]
