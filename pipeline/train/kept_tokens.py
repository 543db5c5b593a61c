"""Reuse training tokens; content alone decides which ones fit, never a name or a date.

Reading and hashing the text costs little beside tokenizing it. If anything differs or is unknown, the text is
tokenized again.
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
"""Increased by hand whenever the same text and tokenizer give other tokens than before."""


def made_of(text_sha256: str, tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any] | None:
    """Identity of a text's tokens: equal values mean equal tokens. None if it is unknown.

    ``text_sha256``: hash of its training documents (``pipeline.corpus.corpus_sha256``).
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
    """sha256 (hex) of everything that a fast tokenizer's ids depend on; None for a tokenizer in Python."""
    backend = plain_backend(tokenizer)
    if backend is None:
        return None
    return hashlib.sha256(f"{tokenizer.eos_token_id} {backend.to_str()}".encode()).hexdigest()


def tokens_in(folder: Path, text_sha256: str, tokenizer: Tokenizer) -> NDArray[Any]:
    """The training tokens that ``pretrain --data`` keeps in ``folder``.

    Raises UsageError if there are none, or if they belong to another text or tokenizer.
    """
    note = read_note(folder, "name a folder that `pretrain --data` made, or leave --data out")
    way_out = "name another folder, or leave --data out to tokenize"
    if note.sha256 != text_sha256:
        raise UsageError(
            f"{folder} holds the tokens of another text than the training corpus, or of what it was before it "
            f"changed ({note.spec}): {way_out}"
        )
    from transformers import AutoTokenizer

    try:
        there = AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDER, trust_remote_code=False)
        tokens: NDArray[Any] = kept_array(folder / TRAIN_TOKENS)
    except Exception as error:  # a damaged tokenizer raises exceptions of many types
        raise UsageError(f"the tokens in {folder} cannot be read ({error}): {way_out}") from error
    digest = tokenizer_sha256(tokenizer)
    if digest is None or tokenizer_sha256(there) != digest:
        raise UsageError(f"{folder} holds the tokens of another tokenizer than the suite's: {way_out}")
    return tokens
