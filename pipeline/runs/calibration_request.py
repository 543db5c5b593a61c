"""Which calibration tokens a request needs: read from a corpus, found in the output folder, or written by a model.

``self`` is text that the last checkpoint of the suite writes (``models.sampling``), in float32 on the CPU of the
machine that the command runs on. It is made once: a rerun takes what the folder holds, as long as the checkpoint that
wrote it is still in the suite, so that a suite may grow while it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.english import counted
from pipeline.base.errors import CheckpointError, UsageError
from pipeline.base.fingerprints import tokens_sha256
from pipeline.corpus import TokenFile, parse_corpus
from pipeline.corpus.calibration_text import (
    Calibrating,
    CalibrationShape,
    corpus_tokens,
    require_disjoint,
)
from pipeline.corpus.overlap import KnownRuns, run_length
from pipeline.corpus.tokens import require_ids
from pipeline.runs.calibration_tokens import CalibrationTokens, kept_calibrations
from pipeline.runs.folder import RunFolder
from pipeline.spec import Checkpoint, ProbeSpec, TokenShape, Variant
from pipeline.suites import Suite, checkout, load_tokenizer
from pipeline.suites.model_config import model_config

SELF = "self"
SEED = 0
"""Seed of the text that a model writes."""
VERSION = 1
"""Raised by hand whenever another text would be written of the same."""
ROUNDS = 32
"""Rounds of writing at most: of a model of code half of all sequences may repeat a licence of the evaluation text."""

OnSample = Callable[[int, int, float | None, str], None]
"""Called with tokens written, tokens in all, seconds left (None: not known) and a word on them."""


@dataclass(frozen=True)
class CalibrationNeed:
    """The variants and checkpoints of a request that need calibration tokens."""

    suite: Suite
    """The whole suite, whichever checkpoints are requested."""
    shape: CalibrationShape
    evaluation: NDArray[np.int64]
    """The evaluation tokens."""
    vocab_size: int | None
    """Ids that the suite's models know; None = not known."""
    vocab_rows: int | None
    """The ids that the tokenizer has; None = all."""
    cache_gb: float | None = None


def parse_calibration(named: str | None, suite: Suite) -> Calibrating | None:
    """The corpus that ``named`` (``--calibration``) names, else the suite's training text; None = ``self``."""
    if named is None:
        if suite.train_corpus is None:
            return None
        corpus = parse_corpus(suite.train_corpus)
        readable = suite.tokenizer is not None or isinstance(corpus, TokenFile)
        return Calibrating(corpus, training_part=True) if readable else None
    if named == SELF:
        return None
    try:
        return Calibrating(parse_corpus(named), training_part=named == suite.train_corpus)
    except UsageError as error:
        raise UsageError(f"--calibration {named}: {error}, or {SELF}") from error


def calibration_tokens(
    named: str | None, need: CalibrationNeed, out: RunFolder, on_sample: OnSample = lambda *_: None
) -> tuple[CalibrationTokens, tuple[str, ...]]:
    """The tokens, and notes for the user. Raises UsageError if they cannot be made."""
    try:
        source = parse_calibration(named, need.suite)
        if source is None:
            return _of_self(need, out, on_sample), ()
        tokenizer = None if isinstance(source.corpus, TokenFile) else _tokenizer(need.suite)
        found = corpus_tokens(source, need.shape, need.evaluation, tokenizer, vocab_size=need.vocab_size)
    except UsageError as error:
        if named is not None:
            raise
        raise UsageError(f"no --calibration was given, and so: {error}") from error
    note = (
        f"calibration text {source}: {counted(found.left_out, 'document')} left out for a run of "
        f"{run_length(need.shape.seq_len)} tokens that the evaluation text has too"
    )
    made = CalibrationTokens(found.array, tokens_sha256(found.array), str(source))
    return made, (note,) if found.left_out else ()


def _of_self(need: CalibrationNeed, out: RunFolder, on_sample: OnSample) -> CalibrationTokens:
    made_of = _made_of(need)
    if kept := _kept(need, out, made_of):
        return kept
    last = need.suite.checkpoints[-1]
    try:
        array = _written(need, last, made_of, on_sample)
    except CheckpointError as error:
        raise UsageError(
            f"calibration text {SELF}: {last.revision} of {need.suite.name} cannot write it: {error}; name other text "
            "with --calibration CORPUS"
        ) from error
    found_by = {**made_of, "weights": last.content_id} if last.content_id else {}
    return CalibrationTokens(array, tokens_sha256(array), f"{SELF}, written by {last.revision}", found_by)


def _made_of(need: CalibrationNeed) -> dict[str, Any]:
    """Everything but the checkpoint that decides which text is written."""
    vocabulary = need.vocab_rows or need.vocab_size
    if vocabulary is None:
        raise UsageError(
            f"calibration text {SELF}: no config.json of suite {need.suite.name} gives its vocab_size; name other text "
            "with --calibration CORPUS"
        )
    return {
        "version": VERSION,
        "seed": SEED,
        "sequences": need.shape.sequences,
        "seq_len": need.shape.seq_len,
        "vocabulary": vocabulary,
        "first": _first(need.suite, vocabulary),
        "evaluation_sha256": tokens_sha256(need.evaluation),
    }


def _kept(need: CalibrationNeed, out: RunFolder, made_of: dict[str, Any]) -> CalibrationTokens | None:
    """The text that an earlier call kept, if it was made of the same by a checkpoint that is in the suite."""
    there = {each.content_id for each in need.suite.checkpoints if each.content_id}
    for kept in kept_calibrations(out):
        rest = dict(kept.made_of)
        if rest.pop("weights", "") in there and rest == made_of:
            return kept
    return None


def _written(
    need: CalibrationNeed, last: Checkpoint, made_of: dict[str, Any], on_sample: OnSample
) -> NDArray[np.int64]:
    """Sequences that ``last`` writes, without those that repeat the evaluation text."""
    from pipeline.models.sampling import sampled_tokens

    known, wanted = KnownRuns(need.evaluation, need.shape.seq_len), need.shape.sequences
    parts: list[NDArray[np.int64]] = []
    began = time.monotonic()

    def show(tokens: int) -> None:
        done, total = sum(map(len, parts)) * need.shape.seq_len + tokens, need.shape.n_tokens
        left_s = (time.monotonic() - began) * (total - done) / done
        on_sample(done, total, left_s, f"tokens written by {last.revision}")

    with _model_of(last, need) as model:
        for round_ in range(ROUNDS):
            missing = wanted - sum(map(len, parts))
            if not missing:
                break
            rows = sampled_tokens(
                model,
                missing,
                need.shape.seq_len,
                first=made_of["first"],
                vocabulary=made_of["vocabulary"],
                seed=(SEED, round_),
                on_progress=show,
            )
            parts.append(rows[~known.repeated(rows).any(axis=-1)])
            if not any(map(len, parts)):
                break  # it knows nothing else
    array = np.concatenate(parts)
    if len(array) < wanted:
        raise CheckpointError(
            f"{wanted - len(array)} of {wanted} sequences repeat the evaluation text, however often they are written"
        )
    require_ids(f"calibration text {SELF}", array, made_of["vocabulary"])
    require_disjoint(SELF, array, known)
    return array


@contextmanager
def _model_of(checkpoint: Checkpoint, need: CalibrationNeed) -> Iterator[Any]:
    """The model in float32 on this machine's CPU. Raises CheckpointError if it cannot be loaded or does not fit."""
    import torch

    from pipeline.models.loading import build_model, read_config, read_weights
    from pipeline.probe.fit import fits_whole

    with checkout(checkpoint, need.cache_gb) as folder:
        alone = ProbeSpec((Variant(),), TokenShape(1, 1, need.shape.seq_len), "")
        if not fits_whole(folder, alone, torch.device("cpu")):
            raise CheckpointError("in float32 it does not fit the memory of this machine")
        yield build_model(read_config(folder), read_weights(folder, checkpoint.weights_sha256))


def _first(suite: Suite, vocabulary: int) -> int | None:
    """The token that a text begins with, or ends with where no other is known; None = there is neither."""
    config = model_config(suite)
    candidates = [config.get("bos_token_id"), config.get("eos_token_id")]
    if suite.tokenizer is not None:
        try:
            tokenizer = _tokenizer(suite)
            candidates = [tokenizer.bos_token_id, tokenizer.eos_token_id, *candidates]
        except UsageError:  # a damaged one is said where it is needed
            pass
    return next((each for each in candidates if type(each) is int and 0 <= each < vocabulary), None)


def _tokenizer(suite: Suite) -> Any:
    return None if suite.tokenizer is None else load_tokenizer(suite)
