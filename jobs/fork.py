"""``fork``: the schedule experiment, from one checkpoint under several schedules and seeds."""

from __future__ import annotations

import click

from jobs.carry_out import carry_out
from jobs.console import console, errors, lazy_progress
from jobs.options import (
    audit_options,
    measurement_options,
    out_option,
    picked,
    resource_options,
    seed_option,
    shares_gpu,
    stale_option,
)
from jobs.reduce import show_reduction
from jobs.report import show_page
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.fork_request import build_fork_request
from pipeline.runs.kind_of_work import kinds_of_work
from pipeline.runs.output import run_folder
from pipeline.runs.result_files import REPORT
from pipeline.train.arms import PAPER_SCHEDULES
from pipeline.train.schedules import schedules


def _schedule_help() -> str:
    """One line per schedule and parameter, with its default."""
    lines = ["\b", "Schedules and their parameters:"]
    for each in schedules:
        lines.append(f"  {each.name}" + ("" if each.accepted() else " (none)"))
        lines += [
            f"    {name} = {parameter.default_text}: {parameter.meaning}"
            for name, parameter in sorted(each.accepted().items())
        ]
    return "\n".join(lines)


@click.command(epilog=_schedule_help())
@click.argument("suite")
@out_option
@click.option(
    "--from",
    "start",
    default="auto",
    show_default=True,
    metavar="STEP|auto",
    help="Checkpoint to start from; auto = the last one before the onset that an audit found.",
)
@click.option(
    "--audit",
    "audit_dir",
    metavar="DIR",
    help="Audit whose onset --from auto uses. Default: the one in --out.",
)
@click.option(
    "--schedules",
    default=",".join(PAPER_SCHEDULES),
    show_default=True,
    help=f"One or more of {', '.join(schedules.names())}; parameters, listed below, as in oli:period=40:amplitude=1.",
)
@click.option("--seeds", type=int, default=3, show_default=True, help="Runs per schedule.")
@click.option("--steps", "n_steps", type=int, help="Updates of a run. Default: a tenth of the suite's own.")
@click.option("--probe-every", type=int, help="Updates between probes. Default: a tenth of the run.")
@click.option("--tokens-per-step", type=int, help="Default: 8192, or the suite's own where that is fewer.")
@click.option(
    "--train-corpus",
    metavar="CORPUS",
    help="Training text; its held-out tenth is left out. Default: the suite's own.",
)
@click.option(
    "--data",
    metavar="FOLDER",
    help="Folder in which `pretrain --data` keeps the tokenized training text. Default: DIR; tokenized if not there.",
)
@click.option(
    "--sweep",
    metavar="NAME=V,V,...",
    help="One arm per value of a schedule's parameter: amplitude=0.1,0.3,1,3. A plain cosine is kept for comparison.",
)
@click.option(
    "--optimizers",
    default="adamw",
    show_default=True,
    help="adamw, sam or muon, separated by commas; those after the first are further arms under the first schedule.",
)
@click.option("--allow-epochs", is_flag=True, help="Allow runs that see the training text more than once.")
@click.option(
    "--learning-rate", type=float, help="Learning rate at the fork. Default: the suite's at that step."
)
@click.option(
    "--rewarm-steps",
    type=int,
    help="Learning-rate ramp if Adam's moments start cold, updates. Default: 1/(1 - beta2), at most a tenth of a run.",
)
@click.option(
    "--ema-decay",
    type=float,
    help="Decay of the weights' moving average. Default: a memory of two probe intervals.",
)
@click.option(
    "--lawa-window",
    type=int,
    default=5,
    show_default=True,
    help="Number of last probes whose weights LAWA averages.",
)
@click.option(
    "--monitor",
    is_flag=True,
    help="Keep the verdicts of the training-time monitor on every run in DIR/monitor/fork/, one line per probe.",
)
@click.option("--precision", default="auto", show_default=True, help="auto (bf16 on a GPU), fp32 or bf16.")
@click.option(
    "--state-every", type=int, help="Updates between saved states. Default: at probes, once a minute."
)
@click.option(
    "--compile/--no-compile", default=None, help="Compiled training. Default: for long runs on a GPU."
)
@measurement_options
@resource_options
@stale_option
@seed_option
def command(seed: int, **options: object) -> None:
    """Continue training SUITE from one checkpoint under several schedules, and test which keeps it quantizable.

    Default: the paper's nine runs, three schedules times three seeds. Run it again to resume, or with more
    seeds or schedules to add to it.
    """
    asked = ForkOptions(
        audit=audit_options(options), share_gpu=shares_gpu(options), **picked(ForkOptions, options)
    )
    code = run_fork_experiment(asked)
    out = str(options["out"])
    fork, audit = kinds_of_work.find("fork"), kinds_of_work.find("audit")
    show_reduction(fork, out, allow_missing=code != 0, seed=seed)
    show_page(fork, out)
    folder = run_folder(out)
    if folder.has_plan() and folder.results.has(REPORT):
        show_page(audit, out)  # status has a section for the experiment
    raise SystemExit(code)


def run_fork_experiment(options: ForkOptions) -> int:
    """Train the missing runs, show progress and name every failure on stderr; return the exit code."""
    from jobs.suite_argument import resolve_suite
    from pipeline.monitor.watched_forks import too_few_probes

    with lazy_progress("calibration text") as on_sample:
        request = build_fork_request(options, resolve_suite, on_sample)
    console.print(
        f"fork of {request.suite} at {request.checkpoint.revision}: {request.start_rule}\n"
        f"{len(request.arms)} arms x {request.seeds} seeds, {request.spec.rates.steps:,} steps of "
        f"{request.spec.tokens_per_step:,} tokens, a probe every {request.spec.probe_every}"
    )
    for warning in request.warnings:
        errors.print(f"warning: {warning}")
    short = too_few_probes(len(request.spec.probe_steps)) if request.monitor else None
    for note in (*request.notes, *(() if short is None else (short,))):
        console.print(f"note: {note}")
    return carry_out(request, "fork", done="runs done")
