"""Plug-ins: found by name, by file and by entry point; refused by name where they cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "plugins"
SCHEDULE = (PLUGINS / "sawtooth.py").read_text()


def names(plugins: str, *more_paths: Path) -> subprocess.CompletedProcess[str]:
    """The schedules that a fresh process knows."""
    return python(
        "from pipeline.train.schedules import schedules; print(*schedules.names())", plugins, *more_paths
    )


def python(script: str, plugins: str, *more_paths: Path) -> subprocess.CompletedProcess[str]:
    """What a fresh process says."""
    path = os.pathsep.join(map(str, (ROOT, *more_paths)))
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, env={**os.environ, "INT4_COLLAPSE_PLUGINS": plugins, "PYTHONPATH": path},
        cwd=PLUGINS, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("word", [str(PLUGINS / "sawtooth.py"), "sawtooth.py", "tests.plugins.sawtooth"])
def test_a_module_or_a_file_is_a_plug_in(word: str) -> None:
    assert "sawtooth" in names(f"{word}, ").stdout.split()
    assert "sawtooth" not in names("").stdout.split()


def test_an_installed_package_is_one_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "teeth.py").write_text(SCHEDULE)
    info = tmp_path / "teeth-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: teeth\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[int4_collapse.plugins]\nteeth = teeth\n")
    assert "sawtooth" in names("", tmp_path).stdout.split()


def test_one_that_is_named_twice_is_one() -> None:
    twice = names(f"{PLUGINS / 'sawtooth.py'},tests.plugins.sawtooth")
    assert "sawtooth" in twice.stdout.split()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SCHEDULE.replace('"sawtooth"', '"cosine"'), ("two schedules are called 'cosine'", "cosine.py", "own.py")),
        ("1 / 0", ("own.py", "ZeroDivisionError")),
        (None, ("own.py", "no such file")),
    ],
)  # fmt: skip
def test_one_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, told: tuple[str, ...]) -> None:
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    error = names(str(file)).stderr
    assert "UsageError" in error
    assert all(each in error.splitlines()[-1] for each in told)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("return float('nan')", "its learning rate after 0 updates is nan"),
        ("return 1 / (step - 3)", "its schedule fails with ZeroDivisionError"),
    ],
)
def test_a_schedule_that_gives_no_rate_is_refused_before_work(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(SCHEDULE.replace("return self.top_lr * (1 - step % self.period / self.period)", line))
    script = (
        "from pipeline.train.arms import *\n"
        "rates = ForkRates(base_lr=1e-3, peak_lr=1e-3, steps=20)\n"
        "check_rates(resolve(parse_arms('sawtooth')[0], rates), rates)"
    )
    ended = python(script, str(file))
    assert told in ended.stderr
    assert f"mend Sawtooth in {file}" in ended.stderr


def test_a_file_that_hides_another_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "polars.py").write_text(SCHEDULE)
    assert "another module called 'polars'" in names(str(tmp_path / "polars.py")).stderr
