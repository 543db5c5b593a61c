"""What a worker is told: one checkpoint to measure, or one run of a fork to train. Frozen, can be pickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.base.fingerprints import canonical_json
from pipeline.spec import Checkpoint, ProbeSpec
from pipeline.train.arms import Arm
from pipeline.train.fork_spec import ForkSpec, arm_identity, run_id


@dataclass(frozen=True)
class ProbeTask:
    """One checkpoint to measure into one shard."""

    kind: ClassVar[str] = "audit"

    suite: str
    checkpoint: Checkpoint
    probe: ProbeSpec
    out: str
    """Output folder (or URL) that holds the tokens and receives the shard."""
    device: str = "cpu"
    """torch device; on a Ray GPU worker always ``cuda``."""
    duplicates: tuple[str, ...] = ()
    """Keys of later checkpoints with the same content; they are written from this one's shard."""
    ahead: tuple[Checkpoint, ...] = ()
    """Checkpoints that the same node measures next, in order; they are fetched while this one computes."""
    cache_gb: float | None = None
    """Disk for downloaded weights on a node, in 10^9 bytes; None = half of the free space."""
    stream: bool = False
    """Whether to measure layer by layer even where the whole model fits; the numbers are the same."""
    beside: Checkpoint | None = None
    """Checkpoint whose rounding errors the weights get too (``ProbeSpec.swapped``)."""
    adds: ProbeSpec | None = None
    """Spec of what to measure and add to the existing shard, fp32 included; None: everything, into a new shard."""

    @property
    def key(self) -> str:
        return self.checkpoint.key

    @property
    def measuring(self) -> ProbeSpec:
        """The spec that this task measures."""
        return self.probe if self.adds is None else self.adds

    @property
    def settings(self) -> ProbeSpec:
        """Everything that can change a number of the shard."""
        return self.probe

    @property
    def measurements(self) -> tuple[str, ...]:
        """Names of the measurements that the shard has columns for."""
        return self.probe.measurements

    def identity(self) -> dict[str, Any]:
        """Identity of the shard's contents; a shard with another one is stale."""
        return {"weights": self.checkpoint.content_id}

    def marks(self) -> dict[str, str]:
        """Further metadata of the shard."""
        return {
            "corpus_sha256": self.probe.tokens_sha256,
            "content_id": self.checkpoint.content_id,
            "duplicates": canonical_json(self.duplicates),
        }


@dataclass(frozen=True)
class ForkTask:
    """The task of one run: an arm and a seed, which write one shard."""

    kind: ClassVar[str] = "fork"

    suite: str
    checkpoint: Checkpoint
    """Checkpoint that it starts from."""
    spec: ForkSpec
    arm: Arm
    """Resolved (:func:`pipeline.train.arms.resolve`)."""
    seed: int
    """Seed of the data order, and of dropout if the model has it."""
    out: str
    """Output folder that holds the tokens and receives the shard."""
    device: str = "cpu"
    state_every: int = 200
    """Updates between two saves of the state from which a killed run resumes."""
    state_after_s: float = 0.0
    """Shortest time between two saves, seconds: a state is many times the size of the weights."""
    monitor: bool = False
    """Whether to keep the monitor's verdicts on the run."""

    @property
    def key(self) -> str:
        """The run's id, which names its shard."""
        return run_id(self.arm, self.seed)

    @property
    def settings(self) -> ForkSpec:
        """Everything that can change a number of the shard."""
        return self.spec

    @property
    def measurements(self) -> tuple[str, ...]:
        """Names of the measurements that the shard has columns for."""
        return self.spec.probe.measurements

    def marks(self) -> dict[str, str]:
        """Further metadata of the shard."""
        return {"corpus_sha256": self.spec.probe.tokens_sha256, "identity": canonical_json(self.identity())}

    def identity(self) -> dict[str, Any]:
        """Identity of this run in the experiment; a shard with another one is stale."""
        return arm_identity(self.arm, self.seed)
