"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from pipeline.base.errors import UsageError
from pipeline.runs.audit_options import AuditOptions, measure_help, variant_help
from pipeline.spec import ARITHMETICS

F = TypeVar("F", bound=Callable[..., Any])


def _stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


out_option = click.option(
    "--out",
    required=True,
    metavar="DIR",
    help="Folder or URL (s3://, gs://) that receives shards, tables and the report.",
)

selection_options = _stack(
    click.option("--steps", metavar="0,1000,...", help="Only these steps."),
    click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N checkpoints."),
    click.option(
        "--revisions",
        metavar="REGEX",
        help="Only folders or branches whose whole name matches; a group (?P<step>...) reads unusual names.",
    ),
)

size_options = _stack(
    click.option(
        "--cache-gb",
        type=click.FloatRange(min=0, min_open=True),
        metavar="GB",
        help="Disk for downloaded weights on each node (10^9 bytes). Default: half of what is free.",
    ),
    click.option(
        "--stream", is_flag=True, help="Measure layer by layer even where the whole model fits the memory."
    ),
)

measurement_options = _stack(
    click.option(
        "--corpus",
        metavar="CORPUS",
        help="Evaluation text: docstrings, python-source, file:GLOB, tokens:FILE.npy or "
        "hf:DATASET[/CONFIG][:SPLIT[:COLUMN]]. "
        "Default: the suite's own, else docstrings.",
    ),
    click.option("--variant", "variants", multiple=True, metavar="VARIANT", help=variant_help()),
    click.option("--measure", "measurements", multiple=True, metavar="NAME", help=measure_help()),
    click.option(
        "--calibration",
        metavar="CORPUS",
        help="Text that @gptq, @awq and the like are calibrated on: as --corpus, or self = written by the last "
        "checkpoint. Default: the suite's training text, else self.",
    ),
    click.option(
        "--calibration-sequences",
        type=click.IntRange(1),
        default=128,
        show_default=True,
        help="Sequences of --seq-len calibration tokens.",
    ),
    click.option(
        "--mechanism",
        multiple=True,
        is_flag=False,
        flag_value="all",
        metavar="[VARIANT,...|layers]",
        help="Evaluate controls too, which tell why quantization does damage: of every quantized variant, or of those "
        "named; layers = each layer alone too. Repeatable.",
    ),
    click.option("--batches", type=int, help="Evaluation batches. Default: the suite's own, else 32."),
    click.option("--batch-size", type=int, help="Sequences per batch. Default: the suite's own, else 4."),
    click.option(
        "--arithmetic",
        type=click.Choice(["auto", *ARITHMETICS]),
        default="auto",
        show_default=True,
        help="How products are computed: ieee = float32, split = float32 accuracy on a GPU's float16 units, tf32. "
        "auto = split on a GPU, ieee elsewhere.",
    ),
    click.option("--seq-len", type=int, help="Tokens per sequence. Default: the suite's own, else 512."),
)

mechanism_options = _stack(
    click.option(
        "--flatness",
        metavar="STEPS",
        help="Steps whose Hessian is measured too: trace, top eigenvalue, rise along the gradient. Takes as long as "
        "some hundred evaluations of 16 sequences.",
    ),
    click.option(
        "--swap",
        metavar="STEP,STEP",
        help="Put the rounding errors of each of two steps on the weights of the other, sizes matched: whether the "
        "damage goes with the weights or with the errors.",
    ),
)

resource_options = _stack(
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to use, HOST:PORT or auto. Default: RAY_ADDRESS, else a Ray of its own on this machine.",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option(
        "--workers",
        type=int,
        help="Most workers; an autoscaling cluster is asked for this many. Default: every GPU slot or CPU core.",
    ),
    click.option(
        "--workers-per-gpu", type=int, default=1, show_default=True, help="Workers that share a GPU."
    ),
    click.option(
        "--gpus-per-worker",
        type=float,
        metavar="SHARE",
        help="Share of one GPU for each worker, at most 1: 0.5 = two workers per GPU.",
    ),
    click.option(
        "--task-timeout",
        "task_timeout_s",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="Kill a worker that takes longer than this for one checkpoint, and retry elsewhere; 0 = never. "
        "Default: 20 times the slowest so far, at least an hour; never for training runs.",
    ),
)

stale_option = click.option(
    "--replace-stale", is_flag=True, help="Discard shards in DIR that belong to another measurement."
)
all_audit_options = _stack(
    out_option,
    selection_options,
    measurement_options,
    mechanism_options,
    resource_options,
    size_options,
    stale_option,
)
missing_option = click.option(
    "--allow-missing",
    is_flag=True,
    help="Report without the checkpoints that have no shard; the report says so.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every resampling."
)
decision_options = _stack(
    click.option(
        "--tolerance",
        "tolerance_nats",
        type=click.FloatRange(min=0),
        metavar="NATS",
        help="Loss that a checkpoint may cost and still be good enough to ship. Default: 0.01, 1 % of perplexity.",
    ),
    click.option(
        "--level",
        type=click.FloatRange(0.5, 1, max_open=True),
        metavar="SHARE",
        help="Confidence of the decision's sets and bounds. Default: 0.95.",
    ),
)


def parse_steps(text: str | None, option: str = "--steps") -> tuple[int, ...] | None:
    """Parse the value of ``--steps``, or of ``option``, which errors name.

    >>> parse_steps("0,1000")
    (0, 1000)
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} {text}: wanted whole numbers separated by commas, such as 0,1000,2000"
        ) from None


def picked(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that are fields of the dataclass ``kind``."""
    return {field.name: options[field.name] for field in fields(kind) if field.name in options}


def audit_options(options: dict[str, Any]) -> AuditOptions:
    """Pick the options of an audit from ``options``."""
    parsed = {
        "steps": parse_steps(options.get("steps")),
        "flatness": parse_steps(options.get("flatness"), "--flatness") or (),
        "swap": parse_steps(options.get("swap"), "--swap") or (),
    }
    return AuditOptions(**picked(AuditOptions, options) | parsed)


def shares_gpu(options: dict[str, Any]) -> bool:
    """Whether the command may choose how many runs share a GPU: no option says it."""
    source = click.get_current_context().get_parameter_source("workers_per_gpu")
    return source == click.core.ParameterSource.DEFAULT and options["gpus_per_worker"] is None
