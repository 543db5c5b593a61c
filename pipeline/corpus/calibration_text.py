"""Calibration tokens from a corpus: its first sequences, without what the evaluation text holds.

Documents are cut into sequences as those of an evaluation are (``corpus.tokens``). A document that shares a run of
tokens with the evaluation text (``corpus.overlap``) is left out; one whose every token stands there is the same
document, and then the request is refused: the two texts were meant to be different ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.base.english import counted
from pipeline.base.errors import OverlapError, UsageError
from pipeline.corpus.documents import documents, held_out
from pipeline.corpus.encoding import Encoder, Tokenizer
from pipeline.corpus.grammar import BUILT_IN, Corpus, TokenFile
from pipeline.corpus.overlap import KnownRuns
from pipeline.corpus.tokens import open_token_file, require_ids


@dataclass(frozen=True)
class CalibrationShape:
    """Shape of the calibration tokens."""

    sequences: int = 128
    seq_len: int = 512
    """Tokens per sequence."""

    def __post_init__(self) -> None:
        if self.sequences < 1:
            raise UsageError(f"--calibration-sequences {self.sequences}: wanted at least 1")

    @property
    def n_tokens(self) -> int:
        return self.sequences * self.seq_len


@dataclass(frozen=True)
class Calibrating:
    """A corpus that calibration tokens are taken from."""

    corpus: Corpus
    training_part: bool = False
    """Only the documents that training may see (``corpus.held_out``), or the first nine tenths of a token file."""

    def __str__(self) -> str:
        return f"the training part of {self.corpus}" if self.training_part else str(self.corpus)

    @property
    def is_split(self) -> bool:
        """Whether what may be evaluated on is left out of it."""
        return self.training_part or str(self.corpus) in BUILT_IN

    def documents(self) -> Iterator[str]:
        """Its documents, in the order of the corpus."""
        texts = documents(self.corpus)
        return (text for text in texts if not held_out(text)) if self.is_split else texts


@dataclass(frozen=True, eq=False)
class CorpusTokens:
    """Calibration tokens from a corpus."""

    array: NDArray[np.int64]
    """Token ids, (sequences, seq_len)."""
    left_out: int = 0
    """Documents that share a run of tokens with the evaluation text."""


def corpus_tokens(
    source: Calibrating,
    shape: CalibrationShape,
    evaluation: NDArray[np.int64],
    tokenizer: Tokenizer | None = None,
    *,
    vocab_size: int | None = None,
) -> CorpusTokens:
    """The first ``shape.n_tokens`` tokens of ``source`` that the ``evaluation`` tokens do not repeat.

    ``UsageError`` for too few, for a document that is evaluated on, for ids outside ``vocab_size`` and for a token file
    that shares a run of tokens with the evaluation.
    """
    known, left_out = KnownRuns(evaluation, shape.seq_len), 0
    if isinstance(source.corpus, TokenFile):
        stream, available = _of_token_file(source, shape.n_tokens)
    else:
        if tokenizer is None:
            raise UsageError(
                f"this suite has no tokenizer, so it cannot be calibrated on {source}: give --calibration "
                "tokens:FILE.npy or --calibration self"
            )
        stream, left_out = _of_documents(source, shape.n_tokens, known, tokenizer)
        available = len(stream)
    if available < shape.n_tokens:
        raise UsageError(_too_few(source, shape, available, left_out))
    require_ids(f"calibration text {source}", stream, vocab_size)
    array = stream.reshape(shape.sequences, shape.seq_len)
    require_disjoint(str(source), array, known)
    return CorpusTokens(array, left_out)


def require_disjoint(source: str, array: NDArray[np.int64], known: KnownRuns) -> None:
    """Raise OverlapError if a sequence of ``array`` shares a run of tokens with the ``known`` evaluation text."""
    overlapping = np.flatnonzero(known.repeated(array).any(axis=-1))
    if len(overlapping):
        raise OverlapError(
            f"calibration text {source} overlaps the evaluation text: {len(overlapping)} of {len(array)} sequences, "
            f"first sequence {overlapping[0]}, share a run of {known.length} tokens with it; calibrate on other text, "
            "such as --calibration self"
        )


def _of_token_file(source: Calibrating, wanted: int) -> tuple[NDArray[np.int64], int]:
    """The first ids that ``source`` offers, and how many it has."""
    assert isinstance(source.corpus, TokenFile)
    file = open_token_file(source.corpus)
    offered = file[: len(file) * 9 // 10] if source.training_part else file
    return np.array(offered[:wanted], dtype=np.int64), len(offered)


def _of_documents(
    source: Calibrating, wanted: int, known: KnownRuns, tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], int]:
    """The first tokens of the documents that may be used, and how many documents were left out."""
    parts: list[NDArray[np.int64]] = []
    have = left_out = 0
    for index, document in enumerate(_encoded(source.documents(), tokenizer, wanted)):
        used = document[: wanted - have]
        if known.repeated(used).any():
            if not source.is_split and known.holds(used):
                raise UsageError(
                    f"calibration text {source} overlaps the evaluation text: document {index} is "
                    f"evaluated on, {len(used)} tokens of it; calibrate on other text, such as --calibration self"
                )
            left_out += 1
            continue
        parts.append(used)
        have += len(used)
        if have == wanted:
            break
    return np.concatenate(parts) if parts else np.empty(0, np.int64), left_out


def _encoded(texts: Iterable[str], tokenizer: Tokenizer, most: int) -> Iterator[NDArray[np.int64]]:
    """The ids of each document, at most ``most``, with the end-of-sequence token where the tokenizer has one."""
    encoder = Encoder(tokenizer)
    for text in texts:
        ids: list[int] = []
        for piece in encoder.pieces(text):
            ids += piece
            if len(ids) >= most:
                break
        yield np.array([*ids, *encoder.end][:most], dtype=np.int64)


def _too_few(source: Calibrating, shape: CalibrationShape, available: int, left_out: int) -> str:
    without = (
        f", without {counted(left_out, 'document')} overlapping the evaluation text (sharing a run of tokens with it)"
        if left_out
        else ""
    )
    fits = available // shape.seq_len
    advice = f"--calibration-sequences {fits} fits" if fits else "ask for a smaller --seq-len"
    return (
        f"calibration text {source} has {available:,} tokens{without}; "
        f"{counted(shape.sequences, 'sequence')} of {shape.seq_len} need {shape.n_tokens:,}: "
        f"{advice}, or give a larger corpus, or --calibration self"
    )
