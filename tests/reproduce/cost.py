"""What the experiment is expected to cost, from measured speeds of one H100 (docs/performance.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.benchmark import Benchmark, read_benchmark

MEASURED = Path(__file__).parents[2] / "outputs" / "reference" / "benchmark"
AUDIT, FORK, TRAINING = "h100-audit-154.json", "h100-fork-nine-runs.json", "h100-fork-pythia-160m.json"
MEASURED_CHECKPOINTS = 154


@dataclass(frozen=True)
class Cost:
    """Expected time of one H100 at the paper's 65,536 evaluation tokens, and the download."""

    download_gb: float
    """10^9 bytes"""
    audit_gpu_hours: float
    fork_gpu_hours: float
    rule: str


def expected_cost(download_bytes: int, checkpoints: int, fork_runs: int, fork_tokens: int) -> Cost:
    """The cost of ``checkpoints`` probes and of ``fork_runs`` runs of ``fork_tokens`` training tokens each.

    An audit is the measured one with as many probes; a fork is the measured one of nine runs, with ten probes a run,
    and the further training at its measured speed.
    """
    audit, fork, training = (read_benchmark(MEASURED / name) for name in (AUDIT, FORK, TRAINING))
    probe_s = audit.row("audit").numbers["probe_s_median"]
    start_s = _seconds(audit, "audit and reduce") - MEASURED_CHECKPOINTS * probe_s
    known_tokens = fork.settings["updates"] * fork.settings["tokens_per_step"]
    longer_s = (fork_tokens - known_tokens) / training.row("fork").numbers["tokens_per_s"]
    run_s = _seconds(fork, "fork") / fork.settings["runs"]
    return Cost(
        download_gb=download_bytes / 1e9,
        audit_gpu_hours=(start_s + checkpoints * probe_s) / 3600,
        fork_gpu_hours=fork_runs * max(0.0, run_s + longer_s) / 3600,
        rule=f"arithmetic on outputs/reference/benchmark/{AUDIT}, {FORK} and {TRAINING}: one H100, 65,536 evaluation "
        "tokens, without the time of the download",
    )


def _seconds(found: Benchmark, what: str) -> float:
    seconds = found.row(what).seconds
    assert seconds is not None
    return seconds.median
