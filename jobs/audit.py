"""``audit``: probe every checkpoint of a suite into shards."""

from __future__ import annotations

from collections.abc import Callable

import click
from rich.console import Console

from jobs.carry_out import carry_out
from jobs.console import console, errors, lazy_progress
from jobs.options import all_audit_options, picked
from jobs.suite_argument import resolve_suite
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.runs.calibration_tokens import CalibrationTokens
from pipeline.runs.requests import AuditRequest


@click.command()
@click.argument("suite")
@all_audit_options
def command(**options: object) -> None:
    """Probe every checkpoint of SUITE into DIR/shards/audit/. Run it again to resume."""
    raise SystemExit(run_audit(AuditOptions(**picked(AuditOptions, options))))


def run_audit(
    options: AuditOptions,
    meanwhile: Callable[[], None] | None = None,
    change: Callable[[AuditRequest], AuditRequest] = lambda request: request,
    calibrated_on: CalibrationTokens | None = None,
) -> int:
    """Run the audit, show progress and name every failure on stderr; return the exit code.

    ``change`` gives the request to carry out instead. ``calibrated_on``: see ``build_request``; ``meanwhile``: see
    ``carry_out``.
    """
    request = change(checked_request(options, calibrated_on))
    for note in request.notes:
        errors.print(note)
    names = request.suite.names
    for checkpoint in request.suite.checkpoints:
        if checkpoint.duplicate_of is not None:
            original = names.get(checkpoint.duplicate_of, checkpoint.duplicate_of)
            errors.print(f"duplicate: {checkpoint.revision} has the same content as {original}")
    return carry_out(request, "audit", done="measured", names=names, meanwhile=meanwhile)


def checked_request(
    options: AuditOptions, calibrated_on: CalibrationTokens | None = None, on: Console = console
) -> AuditRequest:
    """Build the request of ``options`` (``build_request``), show progress ``on`` a console and print its warnings."""
    with lazy_progress("calibration text", on) as on_sample:
        request = build_request(options, resolve_suite, on_sample, calibrated_on=calibrated_on)
    for warning in request.warnings:
        errors.print(f"warning: {warning}")
    return request
