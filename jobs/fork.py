"""``fork``: the schedule experiment, from one checkpoint under several schedules and seeds."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from jobs.console import console, duration, errors, progress
from jobs.options import (
    audit_options,
    measurement_options,
    out_option,
    resource_options,
    seed_option,
    stale_option,
)
from jobs.reduce import show_reduction
from jobs.report import show_page
from pipeline.runs.folder import REPORT
from pipeline.runs.fork_request import ForkOptions, build_fork_request
from pipeline.runs.kind_of_work import kinds_of_work
from pipeline.runs.output import run_folder
from pipeline.train.arms import PAPER_SCHEDULES
from pipeline.train.schedules import schedules

if TYPE_CHECKING:
    from pipeline.runs.progress import Progress

SHOWN = 4
"""Unfinished runs that a line of progress names."""


def _schedule_help() -> str:
    """Every schedule with its parameters and their defaults, a line each."""
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
    "--audit", "audit_dir", metavar="DIR", help="Audit that --from auto asks. Default: the one in --out."
)
@click.option(
    "--schedules",
    default=",".join(PAPER_SCHEDULES),
    show_default=True,
    help=f"Of {', '.join(schedules.names())}; parameters, listed below, as in oli:period=40:amplitude=1.",
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
    help="Tokens of the training text that `pretrain --data` keeps there. Default: those in DIR, else made anew.",
)
@click.option(
    "--sweep",
    metavar="NAME=V,V,...",
    help="One arm per value of a schedule's parameter: amplitude=0.1,0.3,1,3. A plain cosine stays as well.",
)
@click.option(
    "--optimizers",
    default="adamw",
    show_default=True,
    help="Also sam, muon: further arms under the first schedule.",
)
@click.option("--allow-epochs", is_flag=True, help="Allow runs that see the training text more than once.")
@click.option("--learning-rate", type=float, help="Rate at the fork. Default: the suite's at that step.")
@click.option(
    "--rewarm-steps",
    type=int,
    help="Ramp for cold moments. Default: 1/(1 - beta2), at most a tenth of the run.",
)
@click.option(
    "--ema-decay", type=float, help="Of the averaged weights. Default: remembers two probe intervals."
)
@click.option(
    "--lawa-window", type=int, default=5, show_default=True, help="Probes whose weights are averaged."
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
    source = click.get_current_context().get_parameter_source("workers_per_gpu")
    share = source == click.core.ParameterSource.DEFAULT and options["gpus_per_worker"] is None
    code = run_fork_experiment(_fork_options({**options, "share_gpu": share}))
    out = str(options["out"])
    fork, audit = kinds_of_work.find("fork"), kinds_of_work.find("audit")
    show_reduction(fork, out, allow_missing=code != 0, seed=seed)
    show_page(fork, out)
    folder = run_folder(out)
    if folder.has_plan() and folder.has_result(REPORT):
        show_page(audit, out)  # which has a section for the experiment
    raise SystemExit(code)


def _fork_options(options: dict[str, Any]) -> ForkOptions:
    """Takes the options that a fork has, and those that it shares with an audit."""
    own = {field.name: options[field.name] for field in fields(ForkOptions) if field.name in options}
    return ForkOptions(audit=audit_options(options), **own)


def run_fork_experiment(options: ForkOptions) -> int:
    """Runs what is missing, reports as it goes, names every failure on stderr; returns the exit code."""
    from jobs.suite_argument import resolve_suite
    from pipeline.runs.execute import execute
    from pipeline.runs.folder_status import FolderStatus

    request = build_fork_request(options, resolve_suite)
    console.print(
        f"fork of {request.suite} at {request.checkpoint.revision}: {request.start_rule}\n"
        f"{len(request.arms)} arms x {request.seeds} seeds, {request.spec.rates.steps:,} steps of "
        f"{request.spec.tokens_per_step:,} tokens, a probe every {request.spec.probe_every}",
        markup=False,
    )
    for warning in request.warnings:
        errors.print(f"warning: {warning}", markup=False)
    for note in request.notes:
        console.print(f"note: {note}", markup=False)

    def on_status(found: FolderStatus) -> None:
        if found.done:
            console.print(f"{len(found.done)} runs are there already; {len(found.to_measure)} to do")
        for reason in found.corrupt.values():
            errors.print(f"redone: {reason}", markup=False)

    with progress("fork") as show:

        def on_progress(state: Progress) -> None:
            note = _under_way(state) if state.last is None else state.last.key
            show(state.done + state.failed, state.total, state.eta_s, note)
            if state.last is not None:
                for each in state.last.notes:
                    errors.print(f"{state.last.key}: {each}", markup=False)

        summary = execute(request, on_status, on_progress)
    for key, reason in summary.failures.items():
        errors.print(f"failed: {key}: {reason}", markup=False)
    console.print(
        f"fork: {len(summary.measured)} runs done, {summary.already_done} were there, "
        f"{len(summary.failures)} failed in {duration(summary.wall_s)}: {request.out}",
        markup=False,
    )
    return summary.exit_code


def _under_way(state: Progress) -> str:
    """The unfinished runs that have kept a state, and how far they are."""
    shown = [f"{key} {share:.0%}" for key, share in list(state.under_way.items())[:SHOWN]]
    return ", ".join([*shown, *(["..."] if len(state.under_way) > SHOWN else [])])
