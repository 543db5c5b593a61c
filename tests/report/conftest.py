"""One browser for all tests of the report, and pages to open in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.report import build_report
from tests.report import synthetic
from tests.report.devtools import CHROMIUM, Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(
            "no Chromium here (Debian: apt-get install chromium): the report is not opened in a browser"
        )
    with Browser() as one:
        yield one


@pytest.fixture
def make_page(tmp_path: Path) -> Callable[..., Path]:
    """Writes a report of synthetic inputs, each of which can be replaced."""

    def make(
        trajectory: pl.DataFrame | None = None, tensors: pl.DataFrame | None = None, **report: Any
    ) -> Path:
        trajectory = synthetic.trajectory() if trajectory is None else trajectory
        tensors = synthetic.tensors(trajectory["step"].to_list()) if tensors is None else tensors
        path = tmp_path / "report.html"
        path.write_text(build_report(trajectory, tensors, synthetic.report(**report)))
        return path

    return make
