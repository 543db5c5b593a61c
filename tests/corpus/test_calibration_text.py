"""Calibration tokens of a corpus: disjoint from the evaluation text, or refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import UsageError
from pipeline.corpus import TokenFile, evaluation_tokens, parse_corpus
from pipeline.corpus.calibration_text import Calibrating, CalibrationShape, corpus_tokens
from pipeline.corpus.overlap import KnownRuns
from pipeline.spec import TokenShape

EVALUATION = TokenShape(batches=2, batch_size=2, seq_len=64)


class Letters:
    """One token per byte; the end of a document is 256."""

    eos_token_id: int | None = 256

    def __call__(self, text: list[str], *, add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(each.encode()) for each in text]}


def write(folder: Path, texts: list[str]) -> str:
    folder.mkdir()
    for index, text in enumerate(texts):
        (folder / f"{index:03d}.txt").write_text(text)
    return f"file:{folder}/*.txt"


def words(seed: int, characters: int = 200) -> str:
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=characters))


def shared_runs(a: np.ndarray, b: np.ndarray, length: int) -> int:
    """A plain loop over all pairs of runs within the rows of ``a`` and anywhere in ``b``."""
    there = {tuple(b.ravel()[i : i + length]) for i in range(b.size - length + 1)}
    return sum(tuple(row[i : i + length]) in there for row in a for i in range(len(row) - length + 1))


@pytest.mark.parametrize("length", [3, 7, 50])
def test_runs_are_those_of_a_plain_loop(length: int) -> None:
    rng = np.random.default_rng(length)
    text, rows = rng.integers(0, 3, 400), rng.integers(0, 3, (4, 80))
    rows[2, 10:70] = text[100:160]
    known = KnownRuns(text, length)
    assert known.repeated(rows).sum() == shared_runs(rows, text, length) > 0
    assert known.holds(text[5:200])
    assert known.holds(text[7:8])
    assert not known.holds(np.concatenate([text[5:100], text[200:300]]))


def test_the_first_documents_are_cut_into_sequences(tmp_path: Path) -> None:
    evaluated = evaluation_tokens(
        parse_corpus(write(tmp_path / "a", [words(0, 400)])), EVALUATION, Letters()
    ).array
    corpus = parse_corpus(write(tmp_path / "b", [words(1), words(2), words(3)]))
    found = corpus_tokens(Calibrating(corpus), CalibrationShape(4, 64), evaluated, Letters())
    expected = [*words(1).encode(), 256, *words(2).encode(), 256]
    assert found.array.ravel().tolist() == expected[:256]
    assert found.left_out == 0


def test_a_document_that_quotes_the_evaluation_is_left_out(tmp_path: Path) -> None:
    evaluated = evaluation_tokens(
        parse_corpus(write(tmp_path / "a", [words(0, 400)])), EVALUATION, Letters()
    ).array
    quoting, just_short = words(1) + words(0)[20:70] + words(2), words(3) + words(0)[20:69]
    corpus = parse_corpus(write(tmp_path / "b", [quoting, just_short, words(4)]))
    found = corpus_tokens(Calibrating(corpus), CalibrationShape(4, 64), evaluated, Letters())
    assert found.left_out == 1
    assert found.array.ravel().tolist() == [*just_short.encode(), 256, *words(4).encode()][:256]
    with pytest.raises(UsageError, match=r"451 tokens, without 1 document .*--calibration-sequences 7 fits"):
        corpus_tokens(Calibrating(corpus), CalibrationShape(8, 64), evaluated, Letters())


def test_the_text_of_the_evaluation_is_refused(tmp_path: Path) -> None:
    corpus = parse_corpus(write(tmp_path / "a", [words(seed) for seed in range(9)]))
    evaluated = evaluation_tokens(corpus, EVALUATION, Letters()).array
    with pytest.raises(UsageError, match="document 0 is evaluated on"):
        corpus_tokens(Calibrating(corpus), CalibrationShape(2, 64), evaluated, Letters())
    np.save(tmp_path / "ids.npy", evaluated.ravel())
    tokens = TokenFile(str(tmp_path / "ids.npy"))
    with pytest.raises(UsageError, match="overlaps the evaluation text: 2 of 2 sequences"):
        corpus_tokens(Calibrating(tokens), CalibrationShape(2, 64), evaluated)
    shifted = np.concatenate([np.arange(300, 360), evaluated.ravel()[100:200]])
    np.save(tmp_path / "ids.npy", shifted)
    with pytest.raises(UsageError, match="first sequence 1"):
        corpus_tokens(Calibrating(tokens), CalibrationShape(2, 64), evaluated)


def test_short_sequences_are_compared_as_a_whole(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(8))
    tokens = Calibrating(TokenFile(str(tmp_path / "ids.npy")))
    evaluated = np.array([[[9, 4, 5, 6, 7, 9]]])
    assert corpus_tokens(tokens, CalibrationShape(1, 8), evaluated).array.tolist() == [list(range(8))]
    with pytest.raises(UsageError, match="run of 4 tokens"):
        corpus_tokens(tokens, CalibrationShape(2, 4), evaluated)


def test_the_training_part_holds_nothing_that_may_be_evaluated_on(tmp_path: Path) -> None:
    from pipeline.corpus import held_out

    texts = [words(seed, 70) for seed in range(40)]
    kept = [text for text in texts if held_out(text)]
    assert kept
    corpus = parse_corpus(write(tmp_path / "a", texts))
    evaluated = np.frombuffer("".join(kept).encode(), np.uint8).astype(np.int64)
    trained = [text for text in texts if not held_out(text)]
    found = corpus_tokens(Calibrating(corpus, True), CalibrationShape(4, 64), evaluated, Letters())
    assert bytes(found.array.ravel()[:70].astype(np.uint8)).decode() == trained[0]
    assert found.left_out == 0
    np.save(tmp_path / "ids.npy", np.arange(1000))
    tokens = Calibrating(TokenFile(str(tmp_path / "ids.npy")), True)
    corpus_tokens(tokens, CalibrationShape(9, 100), np.arange(900, 1000))
    with pytest.raises(UsageError, match="has 900 tokens; 10 sequences of 100 need 1,000"):
        corpus_tokens(tokens, CalibrationShape(10, 100), np.arange(900, 1000))


def test_ids_outside_the_vocabulary_and_text_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(100))
    tokens = Calibrating(TokenFile(str(tmp_path / "ids.npy")))
    with pytest.raises(UsageError, match=r"token id 31: wanted 0 to 29"):
        corpus_tokens(tokens, CalibrationShape(2, 16), np.full(64, 3), vocab_size=30)
    with pytest.raises(UsageError, match=r"no tokenizer.*tokens:FILE\.npy"):
        corpus_tokens(Calibrating(parse_corpus("docstrings")), CalibrationShape(), np.full(64, 3))
    with pytest.raises(UsageError, match="calibration-sequences 0"):
        CalibrationShape(0)
