"""`--measure` of what a suite does not have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline.base.errors import UsageError
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.suites.optimizer_moments import MOMENTS_FILE


def test_a_suite_that_keeps_none_is_refused_before_work(
    llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    options = AuditOptions(
        suite=str(llama_suite), out=str(tmp_path / "out"), corpus=tokens_file, device="cpu", batches=1, seq_len=32,
        measurements=("critical_sharpness",),
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"critical_sharpness.*no checkpoint.*--keep-optimizer-at"):
        build_request(options)
    first = next(each for each in sorted(llama_suite.iterdir()) if each.is_dir())
    copy = tmp_path / "suite"
    copy.mkdir()
    for each in llama_suite.iterdir():
        if each != first:
            (copy / each.name).symlink_to(each)
    kept = copy / first.name
    kept.mkdir()
    for each in first.iterdir():
        (kept / each.name).symlink_to(each)
    torch.save({}, kept / MOMENTS_FILE)
    assert (
        "critical_sharpness"
        in build_request(dataclasses.replace(options, suite=str(copy))).probe.measurements
    )
