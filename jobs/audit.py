"""``audit``: probe every checkpoint of a suite into shards."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import click

from jobs.console import console, errors, lazy_progress, progress, show_summary
from jobs.options import all_audit_options, audit_options
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.runs.calibration_tokens import CalibrationTokens
from pipeline.runs.requests import AuditRequest


@click.command()
@click.argument("suite")
@all_audit_options
def command(**options: object) -> None:
    """Probe every checkpoint of SUITE into DIR/shards/audit/. Run it again to resume."""
    raise SystemExit(run_audit(audit_options(options)))


def run_audit(
    options: AuditOptions,
    meanwhile: Callable[[], None] = lambda: None,
    change: Callable[[AuditRequest], AuditRequest] = lambda request: request,
    calibrated_on: CalibrationTokens | None = None,
) -> int:
    """Run the audit, show progress and name every failure on stderr; return the exit code.

    ``change`` gives the request to carry out instead. ``calibrated_on``: see ``build_request``. If there is anything to
    measure, ``meanwhile`` is called in a thread once the workers have started.
    """
    from jobs.suite_argument import resolve_suite
    from pipeline.runs.execute import execute
    from pipeline.runs.folder_status import FolderStatus
    from pipeline.runs.progress import Progress

    with lazy_progress("calibration text") as on_sample:
        request = change(build_request(options, resolve_suite, on_sample, calibrated_on=calibrated_on))
    for warning in request.warnings:
        errors.print(f"warning: {warning}", markup=False)
    for note in request.notes:
        errors.print(note, markup=False)

    def on_status(found: FolderStatus) -> None:
        if found.done:
            console.print(f"{len(found.done)} shards exist already; {len(found.to_measure)} to measure")
        if found.incomplete:
            lacking = sorted({str(lacks) for lacks in found.incomplete.values()})
            console.print(
                f"{len(found.incomplete)} of these are incomplete: each {' or '.join(lacking)}", markup=False
            )
        for reason in found.corrupt.values():
            errors.print(f"redone: {reason}", markup=False)

    with progress("audit") as show:

        def on_progress(state: Progress) -> None:
            note = "" if state.last is None else names.get(state.last.key, state.last.key)
            show(state.done + state.failed, state.total, state.eta_s, note)
            if state.last is None:
                Thread(target=meanwhile, daemon=True).start()
            else:
                for each in state.last.notes:
                    errors.print(f"{note}: {each}", markup=False)

        names = {checkpoint.key: checkpoint.revision for checkpoint in request.suite.checkpoints}
        summary = execute(request, on_status, on_progress)
    for checkpoint in request.suite.checkpoints:
        if checkpoint.duplicate_of is not None:
            original = names.get(checkpoint.duplicate_of, checkpoint.duplicate_of)
            errors.print(f"duplicate: {checkpoint.revision} has the same content as {original}", markup=False)
    code = show_summary("audit", "measured", summary, request.out, names)
    if summary.idle_share is not None:
        console.print(f"workers were idle {summary.idle_share:.0%} of the time", markup=False)
    return code
