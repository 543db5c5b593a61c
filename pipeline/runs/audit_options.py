"""The options of an audit, and of its decision, as plain values, before anything is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.base.option_fields import option
from pipeline.measurements import registered
from pipeline.quantize.lookup import grammar
from pipeline.spec import ARITHMETICS, CALIBRATION, DEFAULT_VARIANTS, MEASUREMENTS

if TYPE_CHECKING:
    from pipeline.suites import Suite


def variant_help() -> str:
    """The grammar of the registered quantizers."""
    return f"{grammar()}; repeatable. Default: {' '.join(DEFAULT_VARIANTS)}."


def measure_help() -> str:
    """What can be measured on request, and what is measured anyway."""
    always = {*MEASUREMENTS, CALIBRATION}
    names = ", ".join(each.name for each in registered() if each.name not in always)
    return f"A further measurement: {names}; repeatable. Always measured: {', '.join(MEASUREMENTS)}."


@dataclass(frozen=True)
class AuditOptions:
    """The options of an audit, in the order of ``audit --help``; None = the default that is stated there."""

    suite: str | Suite
    """A name, a hub repository or a folder, which is opened or trained at first use; or an open suite."""
    out: str = option(
        metavar="DIR", help="Folder or URL (s3://, gs://) that receives shards, tables and the report."
    )
    steps: tuple[int, ...] | None = option(None, metavar="0,1000,...", help="Only these steps.")
    limit: int | None = option(None, metavar="N", least=1, help="Only the first N checkpoints.")
    revisions: str | None = option(
        None, metavar="REGEX",
        help="Only folders or branches whose whole name matches; a group (?P<step>...) reads unusual names.",
    )  # fmt: skip
    corpus: str | None = option(
        None, metavar="CORPUS",
        help="Evaluation text: docstrings, python-source, file:GLOB, tokens:FILE.npy or "
        "hf:DATASET[/CONFIG][:SPLIT[:COLUMN]]. Default: the suite's own, else docstrings.",
    )  # fmt: skip
    variants: tuple[str, ...] = option((), name="--variant", metavar="VARIANT", help=variant_help)
    measurements: tuple[str, ...] = option((), name="--measure", metavar="NAME", help=measure_help)
    calibration: str | None = option(
        None, metavar="CORPUS",
        help="Text that @gptq, @awq and the like are calibrated on: as --corpus, or self = written by the last "
        "checkpoint. Default: the suite's training text, else self.",
    )  # fmt: skip
    calibration_sequences: int = option(128, least=1, help="Sequences of --seq-len calibration tokens.")
    mechanism: tuple[str, ...] = option(
        (), bare="all", metavar="[VARIANT,...|layers]",
        help="Evaluate controls too, which tell why quantization does damage: of every quantized variant, or of those "
        "named; layers = each layer alone too. Repeatable.",
    )  # fmt: skip
    batches: int | None = option(None, help="Evaluation batches. Default: the suite's own, else 32.")
    batch_size: int | None = option(None, help="Sequences per batch. Default: the suite's own, else 4.")
    arithmetic: str = option(
        "auto", choices=("auto", *ARITHMETICS),
        help="How products are computed: ieee = float32, split = float32 accuracy on a GPU's float16 units, tf32. "
        "auto = split on a GPU, ieee elsewhere.",
    )  # fmt: skip
    seq_len: int | None = option(None, help="Tokens per sequence. Default: the suite's own, else 512.")
    flatness: tuple[int, ...] = option(
        (), metavar="STEPS",
        help="Steps whose Hessian is measured too: trace, top eigenvalue, rise along the gradient. Takes as long as "
        "some hundred evaluations of 16 sequences.",
    )  # fmt: skip
    swap: tuple[int, ...] = option(
        (), metavar="STEP,STEP",
        help="Put the rounding errors of each of two steps on the weights of the other, sizes matched: whether the "
        "damage goes with the weights or with the errors.",
    )  # fmt: skip
    address: str | None = option(
        None, metavar="ADDRESS",
        help="Ray cluster to use, HOST:PORT or auto. Default: RAY_ADDRESS, else a Ray of its own on this machine.",
    )  # fmt: skip
    device: str = option("auto", help="auto, cpu or cuda.")
    workers: int | None = option(
        None,
        help="Most workers; an autoscaling cluster is asked for this many. Default: every GPU slot or CPU core.",
    )
    workers_per_gpu: int = option(1, help="Workers that share a GPU.")
    gpus_per_worker: float | None = option(
        None, metavar="SHARE", help="Share of one GPU for each worker, at most 1: 0.5 = two workers per GPU."
    )
    task_timeout_s: float | None = option(
        None, name="--task-timeout", metavar="SECONDS", least=0,
        help="Kill a worker that takes longer than this for one checkpoint, and retry elsewhere; 0 = never. "
        "Default: 20 times the slowest so far, at least an hour; never for training runs.",
    )  # fmt: skip
    cache_gb: float | None = option(
        None, metavar="GB", least=0, open=True,
        help="Disk for downloaded weights on each node (10^9 bytes). Default: half of what is free.",
    )  # fmt: skip
    stream: bool = option(False, help="Measure layer by layer even where the whole model fits the memory.")
    replace_stale: bool = option(False, help="Discard shards in DIR that belong to another measurement.")


@dataclass(frozen=True)
class DecisionOptions:
    """How the checkpoint to ship is chosen; None = as the tables were made, else the stated default."""

    tolerance_nats: float | None = option(
        None, name="--tolerance", metavar="NATS", least=0,
        help="Loss that a checkpoint may cost and still be good enough to ship. Default: 0.01, 1 % of perplexity.",
    )  # fmt: skip
    level: float | None = option(
        None, metavar="SHARE", least=0.5, below=1,
        help="Confidence of the decision's sets and bounds. Default: 0.95.",
    )  # fmt: skip
