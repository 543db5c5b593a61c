"""The options of a fork experiment, as the command line and Python give them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.base.option_fields import option
from pipeline.runs.audit_options import AuditOptions
from pipeline.train.arms import PAPER_SCHEDULES
from pipeline.train.schedules import schedules


def _schedules_help() -> str:
    names = ", ".join(schedules.names())
    return f"One or more of {names}; parameters, listed below, as in oli:period=40:amplitude=1."


@dataclass(frozen=True)
class ForkOptions:
    """The options of a fork beside those of an audit; None = the default in ``fork --help``."""

    audit: AuditOptions
    start: str = option(
        "auto", name="--from", metavar="STEP|auto",
        help="Checkpoint to start from; auto = the last one before the onset that an audit found.",
    )  # fmt: skip
    audit_dir: str | None = option(
        None, name="--audit", metavar="DIR",
        help="Audit whose onset --from auto uses. Default: the one in --out.",
    )  # fmt: skip
    schedules: str = option(",".join(PAPER_SCHEDULES), help=_schedules_help)
    seeds: int = option(3, help="Runs per schedule.")
    n_steps: int | None = option(
        None, name="--steps", help="Updates of a run. Default: a tenth of the suite's own."
    )
    probe_every: int | None = option(None, help="Updates between probes. Default: a tenth of the run.")
    tokens_per_step: int | None = option(None, help="Default: 8192, or the suite's own where that is fewer.")
    train_corpus: str | None = option(
        None, metavar="CORPUS",
        help="Training text; its held-out tenth is left out. Default: the suite's own.",
    )  # fmt: skip
    data: str | None = option(
        None, metavar="FOLDER",
        help="Folder in which `pretrain --data` keeps the tokenized training text. Default: DIR; tokenized if not "
        "there.",
    )  # fmt: skip
    sweep: str | None = option(
        None, metavar="NAME=V,V,...",
        help="One arm per value of a schedule's parameter: amplitude=0.1,0.3,1,3. A plain cosine is kept for "
        "comparison.",
    )  # fmt: skip
    optimizers: str = option(
        "adamw",
        help="adamw, sam or muon, separated by commas; those after the first are further arms under the first "
        "schedule.",
    )
    allow_epochs: bool = option(False, help="Allow runs that see the training text more than once.")
    learning_rate: float | None = option(
        None, help="Learning rate at the fork. Default: the suite's at that step."
    )
    rewarm_steps: int | None = option(
        None,
        help="Learning-rate ramp if Adam's moments start cold, updates. Default: 1/(1 - beta2), at most a tenth of a "
        "run.",
    )
    ema_decay: float | None = option(
        None, help="Decay of the weights' moving average. Default: a memory of two probe intervals."
    )
    lawa_window: int = option(5, help="Number of last probes whose weights LAWA averages.")
    monitor: bool = option(
        False,
        help="Keep the verdicts of the training-time monitor on every run in DIR/monitor/fork/, one line per probe.",
    )
    precision: str = option("auto", help="auto (bf16 on a GPU), fp32 or bf16.")
    state_every: int | None = option(
        None, help="Updates between saved states. Default: at probes, once a minute."
    )
    compile: bool | None = option(None, help="Compiled training. Default: for long runs on a GPU.")
    share_gpu: bool = False
    """Whether the size of the model decides how many runs share a GPU."""
