"""The options of a fork experiment, as the command line and Python give them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.runs.audit_options import AuditOptions
from pipeline.train.arms import PAPER_SCHEDULES


@dataclass(frozen=True)
class ForkOptions:
    """The options of a fork beside those of an audit; None = the default in ``fork --help``."""

    audit: AuditOptions
    start: str = "auto"
    audit_dir: str | None = None
    schedules: str = ",".join(PAPER_SCHEDULES)
    seeds: int = 3
    n_steps: int | None = None
    probe_every: int | None = None
    tokens_per_step: int | None = None
    train_corpus: str | None = None
    data: str | None = None
    sweep: str | None = None
    optimizers: str = "adamw"
    allow_epochs: bool = False
    learning_rate: float | None = None
    rewarm_steps: int | None = None
    ema_decay: float | None = None
    lawa_window: int = 5
    precision: str = "auto"
    compile: bool | None = None
    state_every: int | None = None
    monitor: bool = False
    share_gpu: bool = False
    """Whether the size of the model decides how many runs share a GPU."""
