"""Encode texts to the token ids of ``tokenizer(text, add_special_tokens=False)``, in bounded memory.

A fast tokenizer keeps some 160 bytes for each character of a document until all of it is encoded. A long document is
therefore encoded in pieces that overlap. Two neighbouring pieces are joined at a character at which both have a token
boundary with the same tokens around it; the tokens at a piece's own ends, which the cut may have changed, are dropped.
"""

from __future__ import annotations

import bisect
import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.base.errors import UsageError

PIECE_CHARACTERS = 2**20
"""Longer documents are encoded in pieces of about this many characters."""
OVERLAP_CHARACTERS = 2**12
ALIKE = 8
"""Tokens on either side of a join on which both pieces must agree."""
MOST_TOKENS_PER_CHARACTER = 64
"""Upper limit for any tokenizer: a character has at most four bytes in UTF-8; some normal forms make it eighteen."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    eos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool = ...) -> Any: ...


class Encoder:
    """Encodes texts with one tokenizer, which stays unchanged."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._backend = plain_backend(tokenizer)
        self.end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        """The end-of-sequence token, if there is one."""

    def batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text. A fast tokenizer is called directly: masks and offsets cost more than the ids."""
        if self._backend is None:
            ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        else:
            ids = [each.ids for each in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        for text, row in zip(texts, ids, strict=True):
            _refuse_growth(len(text), len(row))
        return ids

    def pieces(self, text: str) -> Iterator[list[int]]:
        """The ids of one text in order, some at a time."""
        if self._backend is None or len(text) <= PIECE_CHARACTERS:
            yield from self.batch([text])
            return
        given, first, end = 0, 0, PIECE_CHARACTERS
        piece = self._piece(text, 0, end)
        while end < len(text):
            start, end = end - OVERLAP_CHARACTERS, min(len(text), end + PIECE_CHARACTERS)
            following = self._piece(text, start, end)
            join = _join(piece, following, start + OVERLAP_CHARACTERS // 2)
            if join is None:  # no common boundary (a word longer than the overlap): encode the document whole
                yield self.batch([text])[0][given:]
                return
            yield piece.ids[first : join[0]]
            given += join[0] - first
            piece, first = following, join[1]
        yield piece.ids[first:]

    def _piece(self, text: str, start: int, end: int) -> _Piece:
        assert self._backend is not None
        encoding = self._backend.encode(text[start:end], add_special_tokens=False)
        _refuse_growth(end - start, len(encoding.ids))
        return _Piece(encoding.ids, [(first + start, last + start) for first, last in encoding.offsets])


@dataclass(frozen=True)
class _Piece:
    """Ids of a part of a text, each with its range of characters."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def boundaries(self, low: int, high: int) -> dict[int, int]:
        """Character -> index of the token that begins there, from ``low`` to ``high``, where another one ends."""
        begin = bisect.bisect_left(self.spans, (low, 0))
        end = bisect.bisect_left(self.spans, (high, 0))
        return {
            self.spans[index][0]: index
            for index in range(max(begin, 1), end)
            if self.spans[index - 1][1] <= self.spans[index][0] < self.spans[index][1]
        }


def _join(before: _Piece, after: _Piece, middle: int) -> tuple[int, int] | None:
    """Indices of the token from which ``after`` takes over, at the place nearest to the character ``middle``."""
    reach = OVERLAP_CHARACTERS // 2
    left, right = (piece.boundaries(middle - reach, middle + reach) for piece in (before, after))
    for place in sorted(left.keys() & right.keys(), key=lambda each: abs(each - middle)):
        i, j = left[place], right[place]
        if min(i, j) < ALIKE or min(len(before.ids) - i, len(after.ids) - j) < ALIKE:
            continue
        if before.ids[i - ALIKE : i + ALIKE] == after.ids[j - ALIKE : j + ALIKE]:
            return i, j
    return None


def plain_backend(tokenizer: Tokenizer) -> Any:
    """The backend of a fast tokenizer without stored truncation and padding; None for a tokenizer in Python.

    It is a copy if it has to be changed. Raises UsageError if its normalizer multiplies the text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    split = getattr(tokenizer, "split_special_tokens", backend.encode_special_tokens)
    if backend.truncation or backend.padding or backend.encode_special_tokens != split:
        backend = copy.deepcopy(backend)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = split
    if backend.normalizer is not None:
        growth = _growth(json.loads(backend.to_str())["normalizer"])
        if growth > MOST_TOKENS_PER_CHARACTER:
            raise UsageError(
                f"the tokenizer's normalizer makes up to {growth:.3g} characters of one: that is no tokenizer of a "
                "language model; repair the normalizer in tokenizer.json"
            )
    return backend


def _growth(normalizer: dict[str, Any]) -> float:
    """Largest number of characters that a normalizer makes of one."""
    if normalizer["type"] == "Sequence":
        return math.prod(map(_growth, normalizer["normalizers"]))
    if normalizer["type"] != "Replace":
        return 1.0
    pattern, content = normalizer["pattern"], len(normalizer["content"])
    if pattern.get("String"):
        return max(1.0, content / len(pattern["String"]))
    return 1.0 + content  # an expression may match between any two characters


def _refuse_growth(characters: int, tokens: int) -> None:
    if tokens > MOST_TOKENS_PER_CHARACTER * (characters + ALIKE):
        raise UsageError(
            f"the tokenizer makes {tokens:,} tokens of {characters:,} characters: wanted one whose ids stand for the "
            "text, without padding"
        )
