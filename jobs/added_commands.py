"""Commands of further kinds of work, the library's own or plug-ins: one thing done to every checkpoint of a suite."""

from __future__ import annotations

import click

from jobs.carry_out import carry_out
from jobs.console import errors
from jobs.options import (
    missing_option,
    out_option,
    picked,
    resource_options,
    seed_option,
    selection_options,
    stale_option,
)
from jobs.reduce import show_reduction
from jobs.report import show_page
from jobs.suite_argument import resolve_suite
from pipeline.base.errors import UsageError
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import resources_of
from pipeline.runs.kind_of_work import kinds_of_work
from pipeline.runs.output import run_folder
from pipeline.runs.per_checkpoint import CheckpointRequest, PerCheckpoint


def added_kinds() -> dict[str, PerCheckpoint]:
    """Kinds of work without a command in ``jobs``; each becomes a command of its own name."""
    return {each.name: each for each in kinds_of_work if isinstance(each, PerCheckpoint)}


def command_of(work: PerCheckpoint) -> click.Command:
    """Make the command that runs, reduces and reports ``work``."""

    @click.command(
        work.name,
        help=f"{work.__doc__}\n\nResults go into DIR, one shard per checkpoint of SUITE; a rerun resumes.",
    )
    @click.argument("suite")
    @out_option
    @selection_options
    @click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help=_settings_help(work))
    @resource_options
    @stale_option
    @missing_option
    @seed_option
    def command(settings: tuple[str, ...], allow_missing: bool, seed: int, **options: object) -> None:
        chosen = AuditOptions(**picked(AuditOptions, options))
        code = _run(work, chosen, settings)
        show_reduction(work, chosen.out, allow_missing=allow_missing or code != 0, seed=seed)
        show_page(work, chosen.out)
        raise SystemExit(code)

    return command


def _settings_help(work: PerCheckpoint) -> str:
    defaults = [f"{name}={value}" for name, value in vars(work.settings()).items()]
    return f"Change a setting; repeatable. Defaults: {' '.join(defaults) or 'there are none'}."


def _run(work: PerCheckpoint, options: AuditOptions, settings: tuple[str, ...]) -> int:
    """Run the missing tasks and name every failure on stderr; return the exit code."""
    words = dict(_setting(each) for each in settings)
    out = run_folder(options.out, work.kind)
    out.check()
    suite = resolve_suite(str(options.suite), options.revisions).select(options.steps, options.limit)
    for warning in suite.warnings:
        errors.print(f"warning: {warning}")
    request = CheckpointRequest(
        suite, work.parse_settings(words), out, resources_of(options), options.replace_stale, options.cache_gb
    )
    return carry_out(request, work.name)


def _setting(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise UsageError(f"--set {word}: wanted NAME=VALUE")
    return name, value
