"""Metrics of a run on Ray's Prometheus endpoint (every node serves it at its ``MetricsExportPort``)."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.driver.task_queue import TaskOutcome

SECONDS = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000]
"""Upper bounds of the histogram's bins, in seconds."""


class RayMetrics:
    """Count outcomes. Ray prefixes each name with ``ray_``."""

    def __init__(self, suite: str) -> None:
        """``suite``: tag of every metric, in ASCII, which is all that Ray takes: other letters as escapes."""
        tags = {"tag_keys": ("suite",)}
        self._done = Counter(
            "int4_collapse_checkpoints_done", "Checkpoints (or runs of a fork) finished.", **tags
        )
        self._failed = Counter("int4_collapse_checkpoints_failed", "Checkpoints that failed by name.", **tags)
        self._seconds = Histogram(
            "int4_collapse_checkpoint_seconds", "Seconds per finished checkpoint.", boundaries=SECONDS, **tags
        )
        self._idle = Gauge(
            "int4_collapse_idle_share", "Share of the workers' time without computation.", **tags
        )
        named = suite.encode("ascii", "backslashreplace").decode()
        for meter in (self._done, self._failed, self._seconds, self._idle):
            meter.set_default_tags({"suite": named})
        self._idle_s = self._busy_s = 0.0

    def record(self, outcome: TaskOutcome) -> None:
        if outcome.failure is not None:
            self._failed.inc()
            return
        self._done.inc()
        self._seconds.observe(outcome.seconds)
        self._idle_s += outcome.idle_s
        self._busy_s += outcome.busy_s
        if self._idle_s + self._busy_s > 0:
            self._idle.set(self._idle_s / (self._idle_s + self._busy_s))
