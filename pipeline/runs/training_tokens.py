"""Training tokens of a fork, from the quickest source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.base.errors import UsageError
from pipeline.base.fingerprints import tokens_sha256
from pipeline.corpus import Corpus, TokenFile, corpus_sha256, parse_corpus
from pipeline.runs.folder import RunFolder
from pipeline.runs.output import absolute_out
from pipeline.suites import Suite, load_tokenizer
from pipeline.suites.model_config import model_config
from pipeline.train.data import encode, training_texts, training_tokens
from pipeline.train.kept_tokens import made_of, tokens_in


@dataclass(frozen=True, eq=False)
class TrainingText:
    """Training tokens and their origin."""

    corpus: str
    """Corpus as named by the user."""
    tokens: np.ndarray
    """1-D."""
    made_of: dict[str, Any] | None = None
    """Text and tokenizer of the tokens (``pipeline.train.kept_tokens``); None = the tokens are not reused."""
    kept: bool = False
    """Whether the tokens were read from the output folder, where an earlier call saved them."""

    @property
    def sha256(self) -> str:
        return tokens_sha256(self.tokens)


def read_training(named: str | None, data: str | None, suite: Suite, out: RunFolder) -> TrainingText:
    """The tokens of the corpus ``named``, else of the suite's own: from ``data`` (``--data``), from an earlier call
    in ``out``, or made now. Only text needs the suite's tokenizer. Raises UsageError if they cannot be made.
    """
    text, corpus = training_corpus(named, data, suite)
    vocab_size = _vocab_size(suite)
    if isinstance(corpus, TokenFile) or suite.tokenizer is None:
        return TrainingText(text, training_tokens(text, None, vocab_size))
    tokenizer, texts = load_tokenizer(suite), training_texts(corpus)
    digest = corpus_sha256(texts)
    made = made_of(digest, tokenizer, vocab_size)
    if data is not None:
        return TrainingText(text, tokens_in(absolute_out(data, "--data"), digest, tokenizer), made)
    kept = None if made is None else out.training_tokens.kept(made)
    if kept is not None:
        return TrainingText(text, kept, made, kept=True)
    return TrainingText(text, encode(texts, tokenizer, vocab_size), made)


def training_corpus(named: str | None, data: str | None, suite: Suite) -> tuple[str, Corpus]:
    """The corpus ``named``, else the suite's own, as typed and parsed; UsageError if there is none, or a needless
    ``data``.
    """
    text = named or suite.train_corpus
    if text is None:
        raise UsageError(f"suite {suite.name} does not state its training text: give --train-corpus")
    corpus = parse_corpus(text)
    if isinstance(corpus, TokenFile) and data is not None:
        raise UsageError(f"--data {data}: {corpus} holds tokens already; leave --data out")
    return text, corpus


def _vocab_size(suite: Suite) -> int:
    """Vocabulary size of the suite's models; raises UsageError if no config.json states it."""
    size = model_config(suite).get("vocab_size")
    if type(size) is not int or size < 1:
        raise UsageError(
            f"the config.json of suite {suite.name} gives vocab_size {size!r}: wanted a positive whole number, "
            "without which training tokens cannot be checked; mend the file"
        )
    return size
