"""Training data: token streams of a corpus, and batches that depend on (seed, step) only."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UsageError
from pipeline.base.files import make_folder, open_regular
from pipeline.base.fingerprints import tokens_sha256
from pipeline.base.json_files import read_json
from pipeline.base.locks import FileLock
from pipeline.base.paths import new_folder
from pipeline.corpus import (
    Corpus,
    TokenFile,
    Tokenizer,
    corpus_sha256,
    documents,
    open_token_file,
    parse_corpus,
    training_and_held_out,
)
from pipeline.corpus.tokens import token_stream
from pipeline.train.recipes import Recipe
from pipeline.train.tokenizer import train_tokenizer

if TYPE_CHECKING:
    import torch

TOKENIZER_FOLDER = "tokenizer"
TRAIN_TOKENS = "train.npy"
HELD_OUT_TOKENS = "held_out.npy"
CORPUS_NOTE = "corpus.json"
"""File that names the corpus and vocabulary of the tokens in a folder."""
TOKENIZER_CHARACTERS = 32_000_000
"""Characters of text that a tokenizer is trained on; more text takes longer and does not change its merges."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Tokens of a recipe, made once per suite and kept beside it while it trains."""

    train: NDArray[Any]
    """1-D token ids."""
    held_out: NDArray[Any]
    """1-D token ids that training never sees."""
    corpus_sha256: str
    """Hash of the training documents (or of the training tokens of a ``tokens:`` corpus)."""
    tokenizer: Path | None
    """Folder with the tokenizer's files; None for a ``tokens:`` corpus."""


@dataclass(frozen=True)
class CorpusNote:
    """The corpus, vocabulary and hash of the tokens in a folder."""

    spec: str
    vocab_size: int
    sha256: str


def prepare_data(recipe: Recipe, folder: Path) -> TrainingData:
    """The recipe's data; made atomically in ``folder`` unless it exists.

    Raises UsageError if the corpus is unusable or too small for one evaluation or one epoch of one batch, and if
    ``folder`` holds the tokens of another corpus or vocabulary.
    """
    make_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")) as lock:
        lock.take(shared=False)  # another suite with the same text may be making it
        if not folder.is_dir():
            with new_folder(folder) as fresh:
                _make(recipe, fresh)
    made_of = read_note(folder, "name a new folder")
    if (made_of.spec, made_of.vocab_size) != (recipe.corpus, recipe.vocab_size):
        raise UsageError(
            f"{folder} holds the tokens of {made_of.spec} with a vocabulary of {made_of.vocab_size}, "
            f"wanted {recipe.corpus} with {recipe.vocab_size}: name another folder"
        )
    tokenizer = folder / TOKENIZER_FOLDER
    return TrainingData(
        train=kept_array(folder / TRAIN_TOKENS),
        held_out=kept_array(folder / HELD_OUT_TOKENS),
        corpus_sha256=made_of.sha256,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
    )


def kept_array(path: Path) -> NDArray[Any]:
    """Memory-map the tokens at ``path``; raises UsageError if it is not such a file."""
    try:
        with open_regular(path):  # opening a named pipe would block
            pass
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({why}): delete its folder to make it again") from error
    return array


def copy_tokenizer(data: TrainingData, folder: Path) -> None:
    """Copy the tokenizer's files, if any, beside the weights in ``folder``."""
    if data.tokenizer is not None:
        for file in data.tokenizer.iterdir():
            shutil.copyfile(file, folder / file.name)


def training_tokens(text: str, tokenizer: Tokenizer | None, vocab_size: int) -> NDArray[Any]:
    """The training part of the corpus ``text``, 1-D: all but the held-out tenth.

    Raises UsageError if it is unusable: text without a tokenizer, ids outside the vocabulary.
    """
    corpus = parse_corpus(text)
    if isinstance(corpus, TokenFile):
        return _split_tokens(open_token_file(corpus), text, vocab_size)[0]
    if tokenizer is None:
        raise UsageError(
            f"this suite has no tokenizer, so it cannot train on {corpus}: give --train-corpus tokens:FILE.npy"
        )
    return encode(training_texts(corpus), tokenizer, vocab_size)


def training_texts(corpus: Corpus) -> list[str]:
    """The documents of a text corpus that training may see, in their order."""
    return training_and_held_out(documents(corpus))[0]


class Batches:
    """Batches of windows of ``seq_len + 1`` tokens, without replacement within an epoch.

    The windows of epoch e are permuted by a generator seeded with (seed, e), so the batch of a step does not depend
    on earlier draws, and a resumed run sees the same batches.
    """

    def __init__(self, tokens: torch.Tensor, *, seq_len: int, sequences: int, seed: int) -> None:
        """``tokens``: 1-D int64 on the training device."""
        import torch

        self.tokens, self.seq_len, self.sequences, self.seed = tokens, seq_len, sequences, seed
        self.windows = (len(tokens) - 1) // seq_len
        self.per_epoch = self.windows // sequences
        if self.per_epoch < 1:
            raise UsageError(
                f"the training text has {len(tokens):,} tokens, one batch needs {sequences * seq_len + 1:,}: "
                "give more text or smaller batches"
            )
        self._offsets = torch.arange(seq_len + 1, device=tokens.device)
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> torch.Tensor:
        """The batch of the update after ``step`` updates, int64 of shape (sequences, seq_len + 1)."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            import torch

            order = np.random.default_rng([self.seed, epoch]).permutation(self.windows)
            self._epoch, self._order = epoch, torch.from_numpy(order).to(self.tokens.device)
        starts = self._order[index * self.sequences : (index + 1) * self.sequences] * self.seq_len
        return self.tokens[starts[:, None] + self._offsets]


def _make(recipe: Recipe, folder: Path) -> None:
    corpus = parse_corpus(recipe.corpus)
    if isinstance(corpus, TokenFile):
        train, held_out = _split_tokens(open_token_file(corpus), recipe.corpus, recipe.vocab_size)
        digest = tokens_sha256(train)
    else:
        texts, kept = training_and_held_out(documents(corpus))
        tokenizer = train_tokenizer(_sample(texts), recipe.vocab_size)
        train, held_out = (encode(part, tokenizer, recipe.vocab_size) for part in (texts, kept))
        digest = corpus_sha256(texts)
        tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    wanted = recipe.evaluation_shape.n_tokens
    if len(held_out) < wanted:
        raise UsageError(
            f"corpus {corpus}: its held-out tenth has {len(held_out):,} tokens, the suite's evaluation needs "
            f"{wanted:,}: give more text, or fewer eval_batches"
        )
    np.save(folder / TRAIN_TOKENS, train)
    np.save(folder / HELD_OUT_TOKENS, held_out)
    note = CorpusNote(recipe.corpus, recipe.vocab_size, digest)
    (folder / CORPUS_NOTE).write_text(json.dumps(vars(note)) + "\n")


def read_note(folder: Path, advice: str) -> CorpusNote:
    """The corpus and vocabulary of ``folder``; UsageError with ``advice`` unless :func:`prepare_data` made it."""
    return read_json(
        CorpusNote,
        folder / CORPUS_NOTE,
        lambda what: UsageError(
            f"{folder} holds no tokens that pretrain made ({CORPUS_NOTE}: {what}): {advice}"
        ),
    )


def _sample(texts: list[str]) -> list[str]:
    """The first ``TOKENIZER_CHARACTERS`` of the documents, or all if there are fewer."""
    lengths = itertools.accumulate(map(len, texts), initial=0)
    return [text for text, before in zip(texts, lengths, strict=False) if before < TOKENIZER_CHARACTERS]


def _split_tokens(tokens: NDArray[Any], name: str, vocab_size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Split a token file, which has no documents: nine tenths for training, the last tenth held out."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise UsageError(
            f"corpus {name} holds token ids from {tokens.min()} to {tokens.max()}: "
            f"wanted 0 to {vocab_size - 1}; set vocab_size to {int(tokens.max()) + 1} or more"
        )
    cut = len(tokens) * 9 // 10
    kind = _integer_type(vocab_size)
    return tokens[:cut].astype(kind), tokens[cut:].astype(kind)


def encode(texts: list[str], tokenizer: Tokenizer, vocab_size: int) -> NDArray[Any]:
    """The tokens of ``texts``, 1-D, in the smallest type that holds ``vocab_size`` ids."""
    kind = _integer_type(vocab_size)
    parts = [part.astype(kind) for part in token_stream(texts, tokenizer)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)


def _integer_type(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if vocab_size <= 2**16 else np.uint32
