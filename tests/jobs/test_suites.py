"""The command ``suites``, and what a request makes of a suite with something odd in it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from jobs.cli import main
from jobs.suites import _table
from pipeline.base.errors import UsageError
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.suites import open_suite
from tests.models import save_tiny_suite

LONG = "stage2-ingredient1-step20-tokens1B"
COPY = "stage2-ingredient1-step30-tokens1B"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two checkpoints, a copy of the second, and one without weights."""
    folder = save_tiny_suite("llama", tmp_path / "suite", ["step9", LONG])
    shutil.copytree(folder / LONG, folder / COPY)
    (folder / "step40").mkdir()
    (folder / "logs").mkdir()
    state = {"log_history": [{"step": 9, "learning_rate": 3e-4}], "num_input_tokens_seen": 4096}
    (folder / "step9" / "trainer_state.json").write_text(json.dumps(state))
    return folder


def suites(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["suites", *map(str, arguments)])


def options(suite: Path, corpus: str | None) -> AuditOptions:
    return AuditOptions(str(suite), "unused", corpus=corpus, batches=2, batch_size=1, seq_len=8)


def test_a_pipe_gets_whole_names_between_tabs(suite: Path) -> None:
    shown = suites(suite)
    assert shown.exit_code == 0
    ids = {c.revision: c.content_id for c in open_suite(str(suite)).checkpoints}
    assert [line.split("\t") for line in shown.stdout.splitlines()] == [
        ["step", "revision", "tokens", "learning_rate", "content", "same_as"],
        ["9", "step9", "4096", "0.0003", ids["step9"], ""],
        ["40", "step40", "", "", "", ""],
        ["20", LONG, "1000000000", "", ids[LONG], ""],
        ["30", COPY, "1000000000", "", ids[LONG], LONG],
    ]
    assert "not a checkpoint by its name: logs" in shown.stderr


def test_verify_prints_the_groups_instead(suite: Path) -> None:
    assert suites(suite, "--verify").stdout.splitlines() == [
        f"same content: {LONG}, {COPY}",
        "no complete weights, or not listed: step40",
        "not a checkpoint by its name: logs",
        "4 checkpoints, 2 distinct",
    ]
    assert "same content" in suites("--help").stdout


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_table_cuts_nothing(suite: Path, width: int) -> None:
    written = io.StringIO()
    Console(file=written, width=width, soft_wrap=True, force_terminal=True).print(
        _table(open_suite(str(suite)))
    )
    assert "\u2026" not in written.getvalue()
    cells = [re.split("[\u2502]", line) for line in written.getvalue().splitlines() if "\u2502" in line]
    revisions = "".join(re.sub(r"\x1b\[\d*m", "", cell[2]).strip() for cell in cells)
    assert revisions == "step9" + "step40" + LONG + COPY


def test_a_terminal_gets_the_table(suite: Path) -> None:
    here, there = pty.openpty()
    environment = {**os.environ, "COLUMNS": "150", "TERM": "dumb"}
    command = [sys.executable, "-m", "jobs", "suites", str(suite)]
    subprocess.run(command, stdout=there, env=environment, cwd=Path(__file__).parents[2], check=True)
    os.close(there)
    shown = os.read(here, 65536).decode()
    os.close(here)
    assert "\u2502" in shown
    assert LONG in shown
    assert f"same content: {LONG}, {COPY}" in shown


def test_a_folder_of_any_name_is_listed(suite: Path) -> None:
    folder = suite.rename(suite.parent / "\u8a13\u7df4 [red]x")
    (folder / os.fsdecode(b"raw\xff")).mkdir()
    assert "not a checkpoint by its name: raw?" in suites(folder, "--verify").stdout
    written = io.StringIO()
    Console(file=written, width=100).print(_table(open_suite(str(folder))))
    assert f"{folder.name}: 4 checkpoints" in written.getvalue()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "suite '' names nothing"),
        ("~nouser/run", "no such user"),
        ("a" * 300, "File name too long"),
    ],
)
def test_a_name_that_is_no_path_is_misuse(name: str, complaint: str) -> None:
    for arguments in (["suites", name], ["audit", name, "--out", "unused"]):
        shown = CliRunner().invoke(main, arguments)
        assert shown.exit_code == 2
        assert complaint in shown.stderr
        assert len(shown.stderr) < len(name) + 300


@pytest.mark.parametrize("name", ["nosuchsuite", "pythia-160"])
def test_an_unknown_name_says_that_a_folder_or_a_repository_is_wanted_too(name: str) -> None:
    shown = CliRunner().invoke(main, ["audit", name, "--out", "unused"])
    assert shown.exit_code == 2
    assert f"unknown suite '{name}'" in shown.stderr
    assert "wanted a folder, a hub repository org/name" in shown.stderr


@pytest.mark.parametrize(
    ("corpus", "complaint"),
    [
        ("", "corpus '' names nothing: wanted docstrings"),
        ("tokens:~nouser/ids.npy", "no such user"),
        ("tokens:" + "a" * 300, "File name too long"),
    ],
)
def test_a_corpus_that_is_no_path_is_misuse(suite: Path, corpus: str, complaint: str) -> None:
    shown = CliRunner().invoke(
        main, ["audit", str(suite), "--corpus", corpus, "--out", "unused", "--seq-len", "8"]
    )
    assert shown.exit_code == 2
    assert complaint in shown.stderr


@pytest.mark.parametrize("value", ["x", 0, -3, True, 320.5, None, [], float("nan")])
def test_an_odd_vocabulary_size_is_unknown(suite: Path, tokens_file: str, value: object) -> None:
    config = suite / "step9" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": value, "n_positions": "y"}))
    request = build_request(options(suite, tokens_file))
    assert request.probe.vocab_rows is None
    assert request.corpus == tokens_file


def test_a_damaged_tokenizer_matters_to_text_only(suite: Path, tokens_file: str) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(300)}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")))
    made.save_pretrained(suite / "step9")
    whole = build_request(options(suite, tokens_file))
    assert (whole.probe.vocab_rows, whole.warnings) == (300, ())
    (suite / "step9" / "tokenizer.json").write_text("{")
    damaged = build_request(options(suite, tokens_file))
    assert damaged.probe.vocab_rows is None
    (said,) = damaged.warnings
    assert "the tokenizer of suite suite in" in said
    assert "continuing without it" in said
    with pytest.raises(UsageError, match=r"the tokenizer of suite suite in .* cannot be read"):
        build_request(options(suite, "docstrings"))
