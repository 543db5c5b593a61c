"""Audits and fork experiments as one call from Python, from the same options as the commands."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import numpy as np

from pipeline.base.errors import UsageError, unknown_name
from pipeline.base.typed_json import from_json
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.fork_request import build_fork_request
from pipeline.runs.output import run_folder
from pipeline.runs.progress import Progress, RunSummary
from pipeline.suites import Suite

OnProgress = Callable[["Progress"], None]


def audit_suite(
    suite: str | Path | Suite, out: str | Path, *, on_progress: OnProgress = lambda _: None, **options: Any
) -> RunSummary:
    """Measure every checkpoint of ``suite`` that has no shard in ``out`` yet; a rerun resumes.

    options: fields of :class:`AuditOptions`, such as ``limit``, ``variants``, ``corpus`` and ``device``. Raises
    UsageError for what cannot be carried out; a checkpoint that cannot be measured is a failure in the summary.
    """
    from pipeline.runs.execute import execute

    request = build_request(AuditOptions(_opened(suite), str(out), **_taken(options, AuditOptions)))
    _warn(request.warnings)
    return execute(request, on_progress=on_progress)


def fork_suite(
    suite: str | Path | Suite, out: str | Path, *, on_progress: OnProgress = lambda _: None, **options: Any
) -> RunSummary:
    """Continue training from a checkpoint of ``suite`` under several schedules; a rerun resumes or adds to it.

    options: the fields of :class:`ForkOptions` (``start="auto"`` or a step as text,
    ``schedules``, ``seeds``) and of ``AuditOptions``. Raises the errors of :func:`audit_suite`.
    """
    from pipeline.runs.execute import execute

    taken = _taken(options, AuditOptions, ForkOptions)
    shared = {field.name for field in fields(AuditOptions)}
    audit = AuditOptions(
        _opened(suite), str(out), **{name: value for name, value in taken.items() if name in shared}
    )
    own = {name: value for name, value in taken.items() if name not in shared}
    request = build_fork_request(ForkOptions(audit, **own))
    _warn(request.warnings)
    return execute(request, on_progress=on_progress)


def tokens_of(out: str | Path) -> np.ndarray:
    """The evaluation tokens of the audit in ``out``: int64 (batches, batch_size, seq_len)."""
    return run_folder(out).tokens.read()


def _opened(suite: str | Path | Suite) -> str | Suite:
    return str(suite) if isinstance(suite, Path) else suite


def _taken(options: dict[str, Any], *kinds: type) -> dict[str, Any]:
    """``options`` as the fields of ``kinds``: one name stands for a tuple of it. UsageError for others."""
    hints: dict[str, Any] = {}
    for kind in kinds:
        hints |= get_type_hints(kind, localns={"Suite": Suite})
    known = hints.keys() - {"suite", "out", "audit"}
    for name in options.keys() - known:
        raise unknown_name("option", name, sorted(known))
    return {name: _fitting(name, value, hints[name]) for name, value in options.items()}


def _fitting(name: str, value: Any, hint: Any) -> Any:
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    plain = str(plain) if isinstance(plain, Path) else plain
    if isinstance(plain, str):
        plain = [plain] if get_origin(hint) is tuple else plain
    elif isinstance(plain, Iterable):
        plain = list(plain)
    try:
        return from_json(hint, plain, name)
    except ValueError as error:
        raise UsageError(f"option {error}") from error


def _warn(told: tuple[str, ...]) -> None:
    for each in told:
        warnings.warn(each, stacklevel=3)
