"""What reaches a terminal: names in any alphabet, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from jobs.console import SafeConsole, printable
from tests.models import save_tiny_suite

ROOT = Path(__file__).parents[2]
CLEAR = "\x1b[2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u00fcn\u00ef \u4e2d \U0001f600\tand\n", "\u00fcn\u00ef \u4e2d \U0001f600\tand\n"),
        (f"a{CLEAR}b", "a\\x1b[2Jb"),
        ("\x07\x7f\x9b31m\r", "\\x07\\x7f\\x9b31m\\r"),
        ("step\u202e1", "step\\u202e1"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_names_and_reasons_of_a_suite_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / f"runs{CLEAR}"
    save_tiny_suite("llama", folder, ["step1"])
    (folder / "[red]log\x9b31m").mkdir()
    state = {"log_history": [], "best_metric": CLEAR}
    (folder / "step1" / "trainer_state.json").write_text(json.dumps(state))
    for arguments in (["suites", folder], ["suites", f"{folder}x"], ["status", folder], ["phases", folder]):
        shown = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert not {"\x1b", "\x9b"} & set(shown.output), shown.output
    assert "[red]log\\x9b31m" in CliRunner().invoke(main, ["suites", str(folder)]).output


def test_a_console_keeps_its_own_codes_and_escapes_those_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    SafeConsole(force_terminal=True, color_system="standard", highlight=False).print(f"x{CLEAR}", style="red")
    assert capsys.readouterr().out == "\x1b[31mx\\x1b[2J\x1b[0m\n"


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_without_the_letters_of_a_name_shows_escapes(
    tmp_path: Path, locale: dict[str, str]
) -> None:
    folder = save_tiny_suite("llama", tmp_path / "\u00fcn\u00ef", ["step1"])
    (folder / "\u00fc").mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "jobs", "suites", "--verify", str(folder)],
        cwd=ROOT, env={**os.environ, **locale}, capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert b"not a checkpoint by its name: \\xfc" in ended.stdout


def test_a_name_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["suites", os.fsdecode(bytes(tmp_path) + b"/\xff")])
    assert refused.exit_code == 2
    assert "is not UTF-8 text" in refused.output


def test_a_command_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    for name in ("pipeline", "numpy", "click", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the working directory')")
    ended = subprocess.run(
        [sys.executable, "-m", "jobs", "suites"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "pythia-160m" in ended.stdout
