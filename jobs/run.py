"""``run``: the main job, audit + reduce + report."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

import click

from jobs.audit import run_audit
from jobs.options import all_audit_options, decision_options, missing_option, picked, seed_option
from jobs.reduce import show_reduction
from jobs.refine import show_refinement
from jobs.report import show_page
from pipeline.runs.audit_options import AuditOptions, DecisionOptions
from pipeline.runs.kind_of_work import kinds_of_work


@click.command()
@click.argument("suite")
@all_audit_options
@missing_option
@seed_option
@decision_options
@click.option(
    "--refine",
    is_flag=True,
    help="Measure the checkpoints that may be the best again on 16 times as many new tokens, until one is left or the "
    "set no longer shrinks.",
)
def command(*, allow_missing: bool, seed: int, refine: bool, **options: Any) -> None:
    """Audit SUITE, reduce the shards and draw the report. Run it again to resume."""
    audit = AuditOptions(**picked(AuditOptions, options))
    code = run_audit(audit, meanwhile=prepare)
    work = kinds_of_work.find("audit")
    chosen = DecisionOptions(**picked(DecisionOptions, options))
    show_reduction(work, audit.out, chosen, allow_missing=allow_missing, seed=seed)
    if refine and not show_refinement(audit, seed=seed):
        code = code or 1
    show_page(work, audit.out)
    raise SystemExit(code)


def prepare() -> None:
    """Import what the reduction and the report need while the workers compute; it takes seconds."""
    with suppress(ImportError):  # the error is raised where the module is needed
        importlib.import_module("pipeline.analysis.trajectory.reduction")
        importlib.import_module("pipeline.report.audit_page").vega_bundle()
