"""``fork``: the schedule experiment, from one checkpoint under several schedules and seeds."""

from __future__ import annotations

import click

from jobs.carry_out import carry_out
from jobs.console import console, errors, lazy_progress
from jobs.options import (
    measurement_options,
    options_of,
    out_option,
    picked,
    resource_options,
    seed_option,
    shares_gpu,
    stale_option,
)
from jobs.reduce import show_reduction
from jobs.report import show_page
from jobs.suite_argument import resolve_suite
from pipeline.base.english import counted
from pipeline.monitor.watched_forks import too_few_probes
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.fork_request import build_fork_request
from pipeline.runs.kind_of_work import kinds_of_work
from pipeline.runs.output import run_folder
from pipeline.runs.result_files import REPORT
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
@options_of(ForkOptions)
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
        AuditOptions(**picked(AuditOptions, options)),
        share_gpu=shares_gpu(options),
        **picked(ForkOptions, options),
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
    with lazy_progress("calibration text") as on_sample:
        request = build_fork_request(options, resolve_suite, on_sample)
    console.print(
        f"fork of {request.suite} at {request.checkpoint.revision}: {request.start_rule}\n"
        f"{counted(len(request.arms), 'arm')} x {counted(request.seeds, 'seed')}, "
        f"{request.spec.rates.steps:,} steps of {request.spec.tokens_per_step:,} tokens, "
        f"a probe every {request.spec.probe_every}"
    )
    for warning in request.warnings:
        errors.print(f"warning: {warning}")
    short = too_few_probes(len(request.spec.probe_steps)) if request.monitor else None
    for note in (*request.notes, *(() if short is None else (short,))):
        console.print(f"note: {note}")
    return carry_out(request, "fork", done="trained")
