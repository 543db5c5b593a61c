"""Evaluation tokens: fixed once per run, hashed, identical for every checkpoint.

Sequence k is ``stream[k*seq_len:(k+1)*seq_len]``; the stream is a token file as it is, or documents tokenized
one by one, each followed by the end-of-sequence token where the tokenizer has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.english import counted
from pipeline.base.errors import TooFewTokensError, UsageError
from pipeline.base.files import open_regular
from pipeline.base.fingerprints import tokens_sha256
from pipeline.base.paths import user_path
from pipeline.corpus.documents import evaluation_documents
from pipeline.corpus.encoding import PIECE_CHARACTERS, Encoder, Tokenizer
from pipeline.corpus.grammar import Corpus, TokenFile
from pipeline.spec import TokenShape

DOCUMENTS_AT_ONCE = 256
_NPY, _ZIP = b"\x93NUMPY", b"PK"
"""First bytes of .npy files and of archives of them."""


@dataclass(frozen=True, eq=False)
class EvaluationTokens:
    """The tokens that every checkpoint of a run is measured on."""

    array: NDArray[np.int64]
    """Token ids, shape (batches, batch_size, seq_len)."""
    sha256: str
    """Content hash of ``array`` (:func:`tokens_sha256`)."""


def evaluation_tokens(
    corpus: Corpus, shape: TokenShape, tokenizer: Tokenizer | None = None, *, vocab_size: int | None = None
) -> EvaluationTokens:
    """The first ``shape.n_tokens`` tokens of ``corpus`` in order.

    A built-in corpus yields its held-out documents only. ``vocab_size`` is the number of embedding rows: ids at
    or above it are refused. ``UsageError`` for everything that is wrong with the corpus, before any work.
    """
    wanted = shape.n_tokens
    if isinstance(corpus, TokenFile):
        file = open_token_file(corpus)
        stream = np.array(file[:wanted], dtype=np.int64)  # a copy, not the memory map: the file may change
        available = len(file)
    else:
        if tokenizer is None:
            raise UsageError(f"this suite has no tokenizer, so it cannot read {corpus}: use tokens:FILE.npy")
        stream = _first_tokens(evaluation_documents(corpus), tokenizer, wanted)
        available = len(stream)
    if available < wanted:
        raise TooFewTokensError(_too_few(corpus, shape, available))
    require_ids(f"corpus {corpus}", stream, vocab_size)
    array = stream.reshape(shape.batches, shape.batch_size, shape.seq_len)
    return EvaluationTokens(array, tokens_sha256(array))


def open_token_file(corpus: TokenFile) -> NDArray[Any]:
    """Open the ids of a ``tokens:`` corpus as a memory-mapped 1-D integer array."""
    path = user_path(corpus.path, "corpus tokens:")
    if not path.is_file():
        raise UsageError(
            f"corpus {corpus}: there is no such file; wanted a 1-D integer array saved with numpy.save"
        )
    try:
        with open_regular(path) as file:
            start = file.read(len(_NPY))
        if start != _NPY and not start.startswith(_ZIP):
            raise UsageError(
                f"corpus {corpus}: not a readable .npy file (it has no header, as a raw memory map has none); wanted "
                f"numpy.save of ids: numpy.save('{path.stem}-saved.npy', numpy.memmap({str(path)!r}, mode='r', "
                "dtype='uint16')), with the dtype that it was written with"
            )
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        why = "it holds Python objects" if "pickle" in str(error) else str(error)
        raise UsageError(
            f"corpus {corpus}: not a readable .npy file ({why}); wanted numpy.save of ids"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        given = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise UsageError(f"corpus {corpus} is {given}: wanted a 1-D integer array of token ids")
    return array


def token_stream(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.int64]]:
    """Token ids of the documents, some hundred documents at a time, each document followed by EOS.

    A long document comes in several parts.
    """
    encoder = Encoder(tokenizer)
    for chunk in _chunks(texts):
        if len(chunk) == 1:
            for ids in encoder.pieces(chunk[0]):
                yield np.array(ids, dtype=np.int64)
            yield np.array(encoder.end, dtype=np.int64)
        else:
            yield np.concatenate(
                [np.array([*row, *encoder.end], dtype=np.int64) for row in encoder.batch(chunk)]
            )


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of at most ``DOCUMENTS_AT_ONCE`` documents with few characters; a long document is alone in its list."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        if chunk and (len(chunk) == DOCUMENTS_AT_ONCE or characters + len(text) > PIECE_CHARACTERS):
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk


def _first_tokens(texts: Iterable[str], tokenizer: Tokenizer, wanted: int) -> NDArray[np.int64]:
    parts: list[NDArray[np.int64]] = []
    for part in token_stream(texts, tokenizer):
        parts.append(part)
        if sum(map(len, parts)) >= wanted:
            break
    return np.concatenate(parts)[:wanted] if parts else np.empty(0, dtype=np.int64)


def _too_few(corpus: Corpus, shape: TokenShape, available: int) -> str:
    batches = available // (shape.batch_size * shape.seq_len)
    fits = f"--batches {batches} fits" if batches else "ask for a smaller --batch-size or --seq-len"
    return (
        f"corpus {corpus} has {available:,} tokens; {counted(shape.batches, 'batch')} of "
        f"{shape.batch_size} x {shape.seq_len} need {shape.n_tokens:,}: {fits}, or give a larger corpus"
    )


def require_ids(text: str, ids: NDArray[np.int64], vocab_size: int | None) -> None:
    """Raise UsageError for an id of ``text`` below 0 or not below ``vocab_size`` (None: not known)."""
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        limit = f"0 to {vocab_size - 1} (the model has {vocab_size} ids)" if vocab_size else "ids from 0 on"
        raise UsageError(
            f"{text} holds token id {low if low < 0 else high}: wanted {limit}; was it made with another tokenizer?"
        )
