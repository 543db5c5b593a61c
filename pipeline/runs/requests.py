"""Checked and complete requests of an audit and of a fork."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.base.fingerprints import tokens_sha256
from pipeline.base.versions import versions
from pipeline.corpus import EvaluationTokens
from pipeline.runs.calibration_tokens import CalibrationTokens
from pipeline.runs.folder import RunFolder
from pipeline.runs.plans import ForkPlan, PlannedRun
from pipeline.runs.training_tokens import TrainingText
from pipeline.spec import Checkpoint, ProbeSpec
from pipeline.suites import Suite
from pipeline.train.arms import Arm
from pipeline.train.fork_spec import ForkSpec

if TYPE_CHECKING:
    from pipeline.driver import Resources


@dataclass(frozen=True)
class AuditRequest:
    """A checked request of an audit."""

    suite: Suite
    probe: ProbeSpec
    tokens: EvaluationTokens
    corpus: str
    """The evaluation corpus as the user named it."""
    out: RunFolder
    resources: Resources
    calibration: CalibrationTokens | None = None
    """None where no variant is calibrated."""
    replace_stale: bool = False
    cache_gb: float | None = None
    """Disk for downloaded weights on each node, in 10^9 bytes; None = half of what is free."""
    stream: bool = False
    """Measure layer by layer even where the whole model fits."""
    notes: tuple[str, ...] = ()
    """Notes for the user about the execution."""
    warnings: tuple[str, ...] = ()
    """Known and possible defects of the suite."""

    def without_first(self, batches: int) -> AuditRequest:
        """The request on the tokens after the first ``batches``; a corpus is cut in order, so no token is shared."""
        array = self.tokens.array[batches:]
        tokens = EvaluationTokens(array, tokens_sha256(array))
        shape = replace(self.probe.shape, batches=len(array))
        return replace(
            self, tokens=tokens, probe=replace(self.probe, shape=shape, tokens_sha256=tokens.sha256)
        )


@dataclass(frozen=True, eq=False)
class ForkRequest:
    """A checked request of a fork experiment."""

    suite: str
    checkpoint: Checkpoint
    start_rule: str
    """Reason for this checkpoint, as a sentence."""
    spec: ForkSpec
    arms: tuple[Arm, ...]
    """Resolved."""
    seeds: int
    """Runs per arm: seeds 0 to ``seeds - 1``, each with the same data order in every arm."""
    tokens: EvaluationTokens
    train: TrainingText
    corpus: str
    out: RunFolder
    """Output folder, of kind ``FORK``."""
    resources: Resources
    state_every: int
    state_after_s: float = 0.0
    """Shortest time between two saved states of a run, seconds."""
    calibration: CalibrationTokens | None = None
    """None where no variant is calibrated."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Known defects of some of the suite's checkpoints."""
    replace_stale: bool = False
    monitor: bool = False
    """Whether to keep the monitor's verdicts."""

    def runs(self) -> tuple[PlannedRun, ...]:
        """Every run; the first seeds of all arms come before the second, so that an early look sees all arms."""
        return tuple(PlannedRun(arm, seed) for seed in range(self.seeds) for arm in self.arms)

    def plan(self) -> ForkPlan:
        """The plan, merged with earlier requests of the same experiment in the folder."""
        plan = ForkPlan(
            suite=self.suite,
            checkpoint=self.checkpoint,
            start_rule=self.start_rule,
            runs=self.runs(),
            config=self.spec.config(),
            fingerprint=self.spec.fingerprint(),
            corpus=self.corpus,
            train_corpus=self.train.corpus,
            calibration="" if self.calibration is None else self.calibration.source,
            versions=versions(),
            notes=self.notes,
            monitor=self.monitor,
        )
        if not self.out.has_plan():
            return plan
        before: ForkPlan = self.out.read_plan()
        if not before.is_comparable(plan) or before.suite != plan.suite:
            return plan
        asked = {run.key for run in plan.runs}
        kept = tuple(run for run in before.runs if run.key not in asked)
        arms = {run.arm.label for run in before.runs}
        added = any(run.arm.label in arms and run not in before.runs for run in plan.runs)
        seen = added and {run.key for run in before.runs} <= set(self.out.shards.list_keys())
        monitor = plan.monitor or before.monitor
        return replace(
            plan, runs=plan.runs + kept, wall_s=before.wall_s, looks=before.looks + seen, monitor=monitor
        )
