"""Plans of runs: the contents of ``run.json`` and ``fork.json``."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from pipeline.base.fingerprints import comparable
from pipeline.spec import MEASUREMENTS, Checkpoint, Variant, measured_at, swappable, swapped_with
from pipeline.train.arms import Arm
from pipeline.train.fork_spec import ForkSpec, arm_identity, probe_steps, run_id
from pipeline.train.schedules import ForkRates


class WorkPlan(ABC):
    """The plan of a kind of work. Subclasses are frozen dataclasses of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    suite: str
    config: dict[str, Any]
    """Settings that all shards share."""

    @property
    @abstractmethod
    def probe(self) -> dict[str, Any]:
        """The part of them that every shard must have: ``variants`` and ``measurements``, if any."""

    def wanted(self, key: str) -> Mapping[str, Any]:
        """The same for the shard ``key``, which may want more."""
        del key
        return self.probe

    @abstractmethod
    def expected(self) -> dict[str, dict[str, Any]]:
        """Key -> identity of its contents, for every shard of a complete run."""

    def names(self) -> dict[str, str]:
        """Key of each shard of a complete run -> its name for readers."""
        return {key: key for key in self.expected()}

    def duplicates(self) -> dict[str, str]:
        """Key of each shard that repeats another -> key of that one."""
        return {}

    @abstractmethod
    def after(self, wall_s: float, busy_s: float, idle_s: float) -> Self:
        """The plan after another call, which took ``wall_s`` seconds."""

    @abstractmethod
    def fault(self) -> str:
        """What is wrong with a plan that was read back, beside the types of its fields; empty if nothing is."""


@dataclass(frozen=True)
class RunPlan(WorkPlan):
    """The plan of an audit."""

    suite: str
    checkpoints: tuple[Checkpoint, ...]
    """Every checkpoint of a complete run, in order of step."""
    config: dict[str, Any]
    """The probe's resolved settings (``ProbeSpec.config``)."""
    fingerprint: str
    corpus: str
    """The evaluation corpus as the user named it."""
    versions: dict[str, str]
    recipe: dict[str, Any]
    """The suite's facts about its training; empty if it has none."""
    skipped: tuple[str, ...] = ()
    """Names in the suite's folder or repository that are not checkpoints."""
    wall_s: float = 0.0
    """Seconds spent by all finished calls of the audit in this folder."""
    busy_s: float = 0.0
    """Seconds of computation in those calls, summed over workers."""
    idle_s: float = 0.0
    """Idle seconds between their first and last checkpoint (downloads, files), summed over workers."""
    location: str = ""
    """The suite's folder or repository."""
    calibration: str = ""
    """The calibration text, for people; empty where no variant was ever calibrated."""

    @property
    def probe(self) -> dict[str, Any]:
        return self.config

    def wanted(self, key: str) -> Mapping[str, Any]:
        flatness, swap = (self.config.get(name, ()) for name in ("flatness", "swap"))
        if not flatness and not swap:
            return self.config
        steps = self.steps_of(key)
        names = measured_at(self.config.get("measurements", MEASUREMENTS), flatness, steps)
        other = swapped_with(swap, steps)
        variants = swappable(map(Variant.parse, self.config["variants"])) if other else ()
        more = {"measurements": names, "swap": other, "swapped": tuple(map(str, variants))}
        return {**self.config, **more}

    def steps_of(self, key: str) -> frozenset[int]:
        """The steps of all checkpoints with the weights of ``key``, whose shards have the same numbers."""
        return self._steps_alike[key]

    @cached_property
    def _steps_alike(self) -> dict[str, frozenset[int]]:
        alike: dict[str, list[Checkpoint]] = {}
        for each in self.checkpoints:
            alike.setdefault(each.duplicate_of or each.key, []).append(each)
        return {each.key: frozenset(one.step for one in same) for same in alike.values() for each in same}

    def after(self, wall_s: float, busy_s: float, idle_s: float) -> Self:
        spent = {"wall_s": wall_s, "busy_s": busy_s, "idle_s": idle_s}
        return replace(self, **{name: getattr(self, name) + seconds for name, seconds in spent.items()})

    @property
    def idle_share(self) -> float | None:
        """Idle share of the workers' time; None if nothing was measured."""
        return share(self.idle_s, self.busy_s)

    def expected(self) -> dict[str, dict[str, Any]]:
        return {checkpoint.key: {"weights": checkpoint.content_id} for checkpoint in self.checkpoints}

    def names(self) -> dict[str, str]:
        return {checkpoint.key: checkpoint.revision for checkpoint in self.checkpoints}

    def duplicates(self) -> dict[str, str]:
        return {each.key: each.duplicate_of for each in self.checkpoints if each.duplicate_of is not None}

    def fault(self) -> str:
        keys = [each.key for each in self.checkpoints]
        if len(set(keys)) != len(keys):
            return f"checkpoints is {keys[:3]}, wanted different checkpoints"
        for index, each in enumerate(self.checkpoints):
            if wrong := _wrong_checkpoint(each):
                return f"checkpoints[{index}].{wrong}"
            if each.duplicate_of is not None and each.duplicate_of not in keys:
                return f"checkpoints is {each.duplicate_of!a}, wanted a duplicate_of among these checkpoints"
        return _negative(wall_s=self.wall_s, busy_s=self.busy_s, idle_s=self.idle_s)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a fork experiment."""

    arm: Arm
    """Resolved."""
    seed: int

    @property
    def key(self) -> str:
        return run_id(self.arm, self.seed)


@dataclass(frozen=True)
class ForkPlan(WorkPlan):
    """The plan of a fork experiment."""

    suite: str
    checkpoint: Checkpoint
    """Checkpoint that every run starts from."""
    start_rule: str
    """Reason for this checkpoint, as a sentence."""
    runs: tuple[PlannedRun, ...]
    """Every run of a complete experiment: arms in the given order, then seeds."""
    config: dict[str, Any]
    """Resolved settings that the runs share (``ForkSpec.config``)."""
    fingerprint: str
    corpus: str
    train_corpus: str
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    """Notes for readers of the numbers (epochs, cold moments)."""
    wall_s: float = 0.0
    calibration: str = ""
    """See ``RunPlan``."""
    looks: int = 1
    """Number of looks at the results: one, and one more each time that seeds are added to finished runs."""
    monitor: bool = False
    """Whether the monitor's verdicts are kept."""

    @property
    def probe(self) -> dict[str, Any]:
        probe: dict[str, Any] = self.config["probe"]
        return probe

    def is_comparable(self, other: ForkPlan) -> bool:
        """Whether the runs of both plans can be compared."""
        return comparable(ForkSpec, self.config, other.config)

    def after(self, wall_s: float, busy_s: float, idle_s: float) -> Self:
        del busy_s, idle_s
        return replace(self, wall_s=self.wall_s + wall_s)

    @property
    def rates(self) -> ForkRates:
        return ForkRates(**self.config["rates"])

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(map(Variant.parse, self.probe["variants"]))

    @property
    def n_probes(self) -> int:
        """Probes of a run."""
        return len(probe_steps(self.rates.steps, self.config["probe_every"]))

    def expected(self) -> dict[str, dict[str, Any]]:
        return {run.key: arm_identity(run.arm, run.seed) for run in self.runs}

    def fault(self) -> str:
        keys = [each.key for each in self.runs]
        if len(set(keys)) != len(keys):
            return f"runs is {keys[:3]}, wanted different runs"
        for index, run in enumerate(self.runs):
            if not _PART.fullmatch(run.arm.label):
                return f"runs[{index}].arm.label is {run.arm.label!a}, wanted a name"
        wrong = _wrong_checkpoint(self.checkpoint)
        return f"checkpoint.{wrong}" if wrong else _negative(wall_s=self.wall_s)


_PART = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,200}")
"""What can be part of a file's name, as a shard's key must be."""


def share(part: float, rest: float) -> float | None:
    """``part`` as a share of both together; None if both are 0."""
    return part / (part + rest) if part + rest > 0 else None


def _wrong_checkpoint(checkpoint: Checkpoint) -> str:
    if checkpoint.step < 0:
        return f"step is {checkpoint.step}, wanted at least 0"
    if checkpoint.stage and not _PART.fullmatch(checkpoint.stage):
        return f"stage is {checkpoint.stage!a}, wanted what can be part of a file's name"
    return ""


def _negative(**seconds: float) -> str:
    return next((f"{name} is {value}, wanted at least 0" for name, value in seconds.items() if value < 0), "")
