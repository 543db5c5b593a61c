"""Training tokens that were made before are used again where they are the same, and only there."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import pipeline.runs.execute
import pipeline.runs.training_tokens
import pipeline.train.data
from jobs.cli import main
from pipeline.base.errors import UsageError
from pipeline.base.fingerprints import tokens_sha256
from pipeline.driver import Layout, Task, TaskOutcome
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.execute import execute
from pipeline.runs.folder import RunFolder
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.fork_request import build_fork_request
from pipeline.runs.shard_schema import FORK
from pipeline.store import LocalStore
from pipeline.train import find_recipe, pretrain
from tests.models import write_text_corpus


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a suite, its text and its tokens as ``pretrain --data`` keeps them."""
    folder = tmp_path_factory.mktemp("made")
    recipe = dataclasses.replace(find_recipe("micro"), corpus=write_text_corpus(folder / "text"))
    pretrain(recipe, folder / "micro", device="cpu", data=folder / "data")
    return folder


@pytest.fixture
def options(made, tmp_path) -> ForkOptions:
    """Of a copy of the suite, whose text is a copy as well: a test may change both."""
    for part in ("text", "micro", "data"):
        shutil.copytree(made / part, tmp_path / part)
    audit = AuditOptions(suite=str(tmp_path / "micro"), out=str(tmp_path / "out"), device="cpu")
    return ForkOptions(
        audit,
        start="20",
        schedules="cosine",
        n_steps=20,
        probe_every=10,
        tokens_per_step=64,
        train_corpus=f"file:{tmp_path / 'text'}/*.txt",
    )


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Grows by the number of documents whenever training text is tokenized."""
    counts: list[int] = []
    encode = pipeline.train.data.encode

    def counted(texts, tokenizer, vocab_size):
        counts.append(len(texts))
        return encode(texts, tokenizer, vocab_size)

    for module in (pipeline.train.data, pipeline.runs.training_tokens):
        monkeypatch.setattr(module, "encode", counted)
    return counts


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """Grows by the name of whatever is written to the output folder."""
    names: list[str] = []
    write = LocalStore.write

    def named(self, name, data):
        names.append(name)
        write(self, name, data)

    monkeypatch.setattr(LocalStore, "write", named)
    return names


def keep(options: ForkOptions) -> np.ndarray:
    """What ``fork`` does with the tokens of its request before the first run; the tokens."""
    request = build_fork_request(options)

    def drive(tasks: Sequence[Task], on_outcome: Callable[[TaskOutcome], None], **_: object) -> None:
        for task in tasks:
            on_outcome(TaskOutcome(task.key))

    crew = SimpleNamespace(layout=Layout("cpu", 1, 1, 0), drive=drive)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.runs.execute, "running_workers", lambda *_, **__: nullcontext(crew))
        execute(request)
    assert tokens_sha256(request.out.training_tokens.read()) == request.spec.train_sha256
    return np.array(request.train.tokens)


def change_text(folder: Path) -> None:
    for path in sorted((folder / "text").iterdir())[:40]:  # some of them are trained on
        path.write_text(path.read_text() + "more")


def change_tokenizer(folder: Path) -> None:
    for path in (folder / "micro").rglob("tokenizer.json"):
        contents = json.loads(path.read_text())
        contents["model"]["merges"].pop()
        path.write_text(json.dumps(contents))


def test_a_rerun_uses_the_tokens_in_its_folder(options, encoded):
    first = keep(options)
    assert len(encoded) == 1
    again = keep(options)
    assert len(encoded) == 1
    assert np.array_equal(again, first)
    assert again.dtype == first.dtype


def of_text(options: ForkOptions, folder: Path) -> ForkOptions:
    return options


def of_pretrain(options: ForkOptions, folder: Path) -> ForkOptions:
    return dataclasses.replace(options, data=str(folder / "data"))


def of_ids(options: ForkOptions, folder: Path) -> ForkOptions:
    np.save(folder / "ids.npy", np.arange(9000) % 300)
    return dataclasses.replace(options, train_corpus=f"tokens:{folder / 'ids.npy'}")


@pytest.mark.parametrize("source", [of_text, of_pretrain, of_ids])
def test_a_rerun_writes_no_tokens_where_the_same_are_there(options, written, tmp_path, source):
    given = source(options, tmp_path)
    keep(given)
    assert written.count("fork_train.npy") == 1
    written.clear()
    keep(given)
    assert not {"fork_train.npy", "fork_train.json"} & set(written)


def test_other_tokens_take_the_place_of_those_there(options, tmp_path):
    ids = of_ids(options, tmp_path)
    for given in (options, ids, options):
        keep(given)


@pytest.mark.parametrize("change", [change_text, change_tokenizer])
def test_tokens_of_anything_else_are_made_anew(options, encoded, tmp_path, change):
    before = keep(options)
    change(tmp_path)
    after = keep(options)
    assert len(encoded) == 2
    assert not np.array_equal(before, after)


def damage_tokens(out: Path) -> None:
    tokens = np.load(out / "fork_train.npy")
    tokens[100] ^= 1
    np.save(out / "fork_train.npy", tokens)


@pytest.mark.parametrize(
    "damage",
    [
        damage_tokens,
        lambda out: (out / "fork_train.npy").write_bytes(b""),
        lambda out: (out / "fork_train.npy").unlink(),
        lambda out: (out / "fork_train.json").write_text("[]"),
        lambda out: (out / "fork_train.json").write_text("{"),
        lambda out: (out / "fork_train.json").unlink(),
    ],
)
def test_tokens_that_cannot_be_trusted_are_made_anew(options, encoded, tmp_path, damage):
    first = keep(options)
    damage(tmp_path / "out")
    assert np.array_equal(keep(options), first)
    assert len(encoded) == 2


@pytest.mark.parametrize("source", [of_pretrain, of_ids])
@pytest.mark.parametrize("damage", [damage_tokens, lambda out: (out / "fork_train.npy").write_bytes(b"")])
def test_tokens_that_are_damaged_are_written_again(options, tmp_path, source, damage):
    given = source(options, tmp_path)
    keep(given)
    damage(tmp_path / "out")
    keep(given)


def test_tokens_without_a_note_of_their_own_are_not_used(options, encoded):
    keep(options)
    folder = RunFolder(options.audit.out, FORK)
    folder.training_tokens.write(np.arange(5000) % 300)
    assert len(keep(options)) != 5000
    assert len(encoded) == 2


def test_tokens_of_pretrain_are_used(options, encoded, tmp_path):
    given = dataclasses.replace(options, data=str(tmp_path / "data"))
    request = build_fork_request(given)
    assert encoded == []
    made = build_fork_request(options)
    assert len(encoded) == 1
    assert request.spec == made.spec
    assert np.array_equal(request.train.tokens, made.train.tokens)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (change_text, "tokens of another text"),
        (change_tokenizer, "tokens of another tokenizer"),
        (lambda folder: shutil.rmtree(folder / "data" / "tokenizer"), "cannot be read"),
        (lambda folder: (folder / "data" / "train.npy").write_bytes(b"x"), "cannot be read"),
        (lambda folder: shutil.rmtree(folder / "data"), "holds no tokens that pretrain made"),
    ],
)
def test_tokens_of_pretrain_that_are_others_are_refused(options, encoded, tmp_path, change, complaint):
    change(tmp_path)
    with pytest.raises(UsageError, match=complaint):
        build_fork_request(dataclasses.replace(options, data=str(tmp_path / "data")))
    assert encoded == []


def test_token_ids_need_no_folder(options, tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(9000) % 300)
    ids = f"tokens:{tmp_path / 'ids.npy'}"
    with pytest.raises(UsageError, match="holds tokens already"):
        build_fork_request(dataclasses.replace(options, train_corpus=ids, data=str(tmp_path / "data")))


def test_the_command_takes_the_folder(tmp_path, made):
    arguments = ["fork", str(made / "micro"), "--from", "20", "--data", str(tmp_path / "none")]
    result = CliRunner().invoke(main, [*arguments, "--steps", "20", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "holds no tokens that pretrain made" in " ".join(result.stderr.split())


def test_tokens_that_another_tokenizer_version_makes_alike_are_made_once(options, encoded, written, tmp_path):
    keep(options)
    note = tmp_path / "out" / "fork_train.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "tokenizers": "0.0.1"}))
    keep(options)
    assert len(encoded) == 2
    assert written.count("fork_train.npy") == 1
    keep(options)
    assert len(encoded) == 2
