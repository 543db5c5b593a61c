"""Training tokens that were made before: which are the ones wanted is decided by content, never by a name or a date.

Reading and hashing the text costs a small part of what tokenizing it does. Where anything differs, or cannot be
known, text is tokenized again.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.base.errors import UsageError
from pipeline.corpus import Tokenizer
from pipeline.corpus.encoding import plain_backend
from pipeline.train.data import TOKENIZER_FOLDER, TRAIN_TOKENS, kept_array, read_note

TOKENS_VERSION = 1
"""Raised by hand whenever the same text and tokenizer give other tokens than before."""


def made_of(text_sha256: str, tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any] | None:
    """What the tokens of a text are made of: equal values, equal tokens. None where that cannot be known.

    ``text_sha256``: of its training documents (``pipeline.corpus.corpus_sha256``).
    """
    digest = tokenizer_sha256(tokenizer)
    if digest is None:
        return None
    return {
        "text_sha256": text_sha256,
        "tokenizer_sha256": digest,
        "tokenizers": version("tokenizers"),
        "vocab_size": vocab_size,
        "version": TOKENS_VERSION,
    }


def tokenizer_sha256(tokenizer: Tokenizer) -> str | None:
    """sha256 (hex) of everything in a fast tokenizer's files that its ids depend on; None for one of Python code."""
    backend = plain_backend(tokenizer)
    if backend is None:
        return None
    return hashlib.sha256(f"{tokenizer.eos_token_id} {backend.to_str()}".encode()).hexdigest()


def tokens_in(folder: Path, text_sha256: str, tokenizer: Tokenizer) -> NDArray[Any]:
    """The training tokens that ``pretrain --data`` keeps in ``folder``.

    ``UsageError`` where there are none, or they are of another text or of another tokenizer.
    """
    note = read_note(folder, "name a folder that `pretrain --data` made, or leave --data out")
    way_out = "name another folder, or leave --data out to tokenize"
    if note.get("sha256", str) != text_sha256:
        raise UsageError(
            f"{folder} holds the tokens of another text than the training corpus, or of what it was before it "
            f"changed ({note.get('spec', str)}): {way_out}"
        )
    from transformers import AutoTokenizer

    try:
        there = AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDER, trust_remote_code=False)
        tokens: NDArray[Any] = kept_array(folder / TRAIN_TOKENS)
    except Exception as error:  # a damaged tokenizer raises whatever its parser raises
        raise UsageError(f"the tokens in {folder} cannot be read ({error}): {way_out}") from error
    digest = tokenizer_sha256(tokenizer)
    if digest is None or tokenizer_sha256(there) != digest:
        raise UsageError(f"{folder} holds the tokens of another tokenizer than the suite's: {way_out}")
    return tokens
