"""What was asked of a run: the contents of ``run.json`` and ``fork.json``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

from pipeline.base.errors import UsageError
from pipeline.base.json_fields import Fields
from pipeline.runs.plan_values import checkpoint_from, label_from, seconds, settings_of, text_by_name, texts
from pipeline.spec import Checkpoint, ProbeSpec, pinned
from pipeline.train.arms import Arm
from pipeline.train.fork_spec import ForkSpec, arm_identity, run_id


class WorkPlan(Protocol):
    """What was asked of a kind of work, a frozen dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def suite(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]:
        """The settings that all shards share."""
        ...

    @property
    def probe(self) -> dict[str, Any]:
        """Of these, what is wanted of every shard: its ``variants`` and ``measurements``, where it has any."""
        ...

    def expected(self) -> dict[str, dict[str, Any]]:
        """Of every shard that a complete run has: what its contents must be of, by key."""
        ...

    def duplicates(self) -> dict[str, str]:
        """By the key of each shard that repeats another: that one's."""
        ...

    def after(self, wall_s: float, busy_s: float, idle_s: float) -> Self:
        """The plan when another call has ended that took so long."""
        ...

    @classmethod
    def from_fields(cls, fields: Fields, settings: type) -> Self:
        """From what ``dataclasses.asdict`` gave; ``settings``: what ``config`` is of."""
        ...


@dataclass(frozen=True)
class RunPlan:
    """What was asked of an audit."""

    suite: str
    checkpoints: tuple[Checkpoint, ...]
    """Every checkpoint that a complete run has a shard of, in order of step."""
    config: dict[str, Any]
    """The probe's resolved settings (``ProbeSpec.config``)."""
    fingerprint: str
    corpus: str
    """The evaluation corpus as the user named it."""
    versions: dict[str, str]
    recipe: dict[str, Any]
    """What the suite says of its training (empty where it says nothing)."""
    skipped: tuple[str, ...] = ()
    """Names in the suite's folder or repository that are not checkpoints."""
    wall_s: float = 0.0
    """Seconds spent by all finished calls of the audit in this folder."""
    busy_s: float = 0.0
    """Seconds that workers computed in those calls, added up over the workers."""
    idle_s: float = 0.0
    """Seconds between their first and last checkpoint in which they computed nothing: downloads, files."""
    location: str = ""
    """The suite's folder or repository."""

    @property
    def probe(self) -> dict[str, Any]:
        """Settings of the probe: what is wanted of every shard."""
        return self.config

    def after(self, wall_s: float, busy_s: float, idle_s: float) -> RunPlan:
        """The plan when another call has ended that took so long."""
        spent = {"wall_s": wall_s, "busy_s": busy_s, "idle_s": idle_s}
        return replace(self, **{name: getattr(self, name) + seconds for name, seconds in spent.items()})

    @property
    def idle_share(self) -> float | None:
        """Share of the workers' time that they stood idle; None where nothing was measured."""
        return share(self.idle_s, self.busy_s)

    def expected(self) -> dict[str, dict[str, Any]]:
        """Of every shard that a complete run has: what its contents must be of."""
        return {checkpoint.key: {"weights": checkpoint.content_id} for checkpoint in self.checkpoints}

    def duplicates(self) -> dict[str, str]:
        """The earlier checkpoint with the same content, by key."""
        return {each.key: each.duplicate_of for each in self.checkpoints if each.duplicate_of is not None}

    @classmethod
    def from_fields(cls, fields: Fields, settings: type = ProbeSpec) -> RunPlan:
        """From what ``dataclasses.asdict`` gave; whatever is wrong is named by its field.

        settings: what ``config`` is of.
        """
        checkpoints = tuple(map(checkpoint_from, fields.children("checkpoints")))
        keys = [each.key for each in checkpoints]
        if len(set(keys)) != len(keys):
            raise fields.wrong("checkpoints", keys[:3], "different checkpoints")
        for each in checkpoints:
            if each.duplicate_of is not None and each.duplicate_of not in keys:
                raise fields.wrong("checkpoints", each.duplicate_of, "a duplicate_of that is among them")
        fields.need("config", dict)
        return cls(
            suite=fields.need("suite", str),
            checkpoints=checkpoints,
            config=settings_of(settings, fields.child("config")),
            fingerprint=fields.need("fingerprint", str),
            corpus=fields.need("corpus", str),
            versions=text_by_name(fields, "versions"),
            recipe=fields.get("recipe", dict) or {},
            skipped=texts(fields, "skipped"),
            wall_s=seconds(fields, "wall_s"),
            busy_s=seconds(fields, "busy_s"),
            idle_s=seconds(fields, "idle_s"),
            location=fields.get("location", str) or "",
        )


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
class ForkPlan:
    """What was asked of a fork experiment."""

    suite: str
    checkpoint: Checkpoint
    """Where every run starts."""
    start_rule: str
    """Why there, as a sentence."""
    runs: tuple[PlannedRun, ...]
    """Every run that a complete experiment has a shard of, arms in the order given, then seeds."""
    config: dict[str, Any]
    """The resolved settings that the runs share (``ForkSpec.config``)."""
    fingerprint: str
    corpus: str
    train_corpus: str
    versions: dict[str, str]
    notes: tuple[str, ...] = field(default=())
    """What a reader of the numbers should know (epochs, cold moments)."""
    wall_s: float = 0.0
    looks: int = 1
    """How often the results could be looked at: once, and once more each time that seeds are added to finished runs."""

    @property
    def probe(self) -> dict[str, Any]:
        """Settings of the probe: what is wanted of every shard."""
        probe: dict[str, Any] = self.config["probe"]
        return probe

    def is_comparable(self, other: ForkPlan) -> bool:
        """Whether the runs of both can be compared."""
        return pinned(ForkSpec, self.config) == pinned(ForkSpec, other.config)

    def after(self, wall_s: float, busy_s: float, idle_s: float) -> ForkPlan:
        """The plan when another call has ended that took so long."""
        del busy_s, idle_s
        return replace(self, wall_s=self.wall_s + wall_s)

    @property
    def updates(self) -> int:
        """Of each run."""
        return int(self.config["rates"]["steps"])

    def expected(self) -> dict[str, dict[str, Any]]:
        """Of every shard that a complete experiment has: what its contents must be of."""
        return {run.key: arm_identity(run.arm, run.seed) for run in self.runs}

    def duplicates(self) -> dict[str, str]:
        """No two runs are the same."""
        return {}

    @classmethod
    def from_fields(cls, fields: Fields, settings: type = ForkSpec) -> ForkPlan:
        """As ``RunPlan.from_fields``."""
        runs = tuple(map(_planned_run, fields.children("runs")))
        keys = [each.key for each in runs]
        if len(set(keys)) != len(keys):
            raise fields.wrong("runs", keys[:3], "different runs")
        fields.need("checkpoint", dict)
        fields.need("config", dict)
        return cls(
            suite=fields.need("suite", str),
            checkpoint=checkpoint_from(fields.child("checkpoint")),
            start_rule=fields.need("start_rule", str),
            runs=runs,
            config=settings_of(settings, fields.child("config")),
            fingerprint=fields.need("fingerprint", str),
            corpus=fields.need("corpus", str),
            train_corpus=fields.need("train_corpus", str),
            versions=text_by_name(fields, "versions"),
            notes=texts(fields, "notes"),
            wall_s=seconds(fields, "wall_s"),
            looks=fields.get("looks", int) or 1,
        )


def share(part: float, rest: float) -> float | None:
    """``part`` of both together; None of nothing."""
    return part / (part + rest) if part + rest > 0 else None


def _planned_run(fields: Fields) -> PlannedRun:
    fields.need("arm", dict)
    arm = fields.child("arm")
    parameters = []
    for index, pair in enumerate(arm.get("parameters", list) or []):
        name, value = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        if not isinstance(name, str) or not isinstance(value, int | float) or isinstance(value, bool):
            raise arm.wrong(f"parameters[{index}]", pair, "a name and a number")
        parameters.append((name, float(value)))
    schedule, optimizer = arm.need("schedule", str), arm.need("optimizer", str)
    label = label_from(arm, "label")
    try:
        made = Arm(schedule, tuple(parameters), optimizer)
    except UsageError as error:
        raise arm.wrong("schedule", schedule, f"a known one ({error})") from error
    return PlannedRun(dataclasses.replace(made, label=label), fields.need("seed", int))
