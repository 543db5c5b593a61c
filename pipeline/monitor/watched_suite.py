"""Verdicts on a suite while it is trained: every checkpoint is observed when it is saved.

The weights are rounded as they are saved and the text is the suite's own evaluation text, so that the losses are those
of an audit of the suite. A checkpoint that was saved without being observed (by a run without the monitor, or before a
kill) is read from its folder: however often a training is resumed, the verdicts are those of one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.base.errors import CheckpointError
from pipeline.base.files import read_regular, write_atomically
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.monitor.observing import Monitor
from pipeline.monitor.verdict_record import VERDICT_BYTES, VerdictRecord, read_observed
from pipeline.train.averages import checkpoint_model
from pipeline.train.loop import choose_device
from pipeline.train.model import STORED
from pipeline.train.recipes import Recipe

VERDICTS = "monitor.jsonl"
"""File of a suite's folder with its verdicts."""


class SuiteWatch:
    """The verdicts on one suite in training (a :class:`pipeline.train.pretraining.Watch`)."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        variants: Sequence[str] = ("int4",),
        *,
        device: str = "auto",
        on_alarm: Callable[[str], object] = lambda _: None,
    ) -> None:
        """``variants``: the first decides. ``on_alarm``: called with the verdict in one sentence when it comes.

        Raises UsageError for variants that cannot be measured, such as calibrated ones.
        """
        self._recipe, self._out, self._on_alarm = recipe, out, on_alarm
        self._device = choose_device(device)
        shape = recipe.evaluation_shape
        self._shape = (shape.batches, shape.batch_size, shape.seq_len)
        self._variants = list(variants)
        self._monitor = self._new_monitor(np.zeros(self._shape, dtype=np.int64))
        self._record: VerdictRecord | None = None

    @property
    def sentence(self) -> str | None:
        """The latest verdict in one sentence; None without one."""
        return None if self._record is None else self._record.sentence

    def __call__(self, step: int, held_out: NDArray[np.int64], model: nn.Module | None = None) -> None:
        """Observe the saved checkpoint of ``step``, after all earlier ones that have no verdict yet.

        ``held_out``: 1-D tokens, of which the evaluation text is the first part. ``model``: the model in training,
        which stays unchanged; None = read from the checkpoint's folder.
        """
        record = self._record or self._begin(held_out)
        for due in self._recipe.checkpoint_steps:
            if record.last_step < due <= step:
                trained = model if due == step else None
                weights = self._saved(due) if trained is None else checkpoint_model(trained, None, STORED)
                self._observe(record, due, weights)

    def _begin(self, held_out: NDArray[np.int64]) -> VerdictRecord:
        """Continue from the verdicts in the folder that are of the same text and variants."""
        ids = np.array(held_out[: int(np.prod(self._shape))], dtype=np.int64).reshape(self._shape)
        self._monitor = self._new_monitor(ids)
        path = self._out / VERDICTS
        data = read_regular(path, VERDICT_BYTES) if path.exists() else b""
        columns = ["fp32", *(each.column for each in self._monitor.variants)]
        due = iter(self._recipe.checkpoint_steps)
        before = read_observed(data, columns, self._monitor.tokens_sha256)
        seen = [each for each in before if each.step == next(due, None)]
        self._record = VerdictRecord(self._monitor.judge, self._monitor.tokens_sha256, seen)
        return self._record

    def _observe(self, record: VerdictRecord, step: int, weights: nn.Module) -> None:
        rate = self._recipe.learning_rate(max(step - 1, 0))
        record.add(self._monitor.measured(step, weights, rate))
        write_atomically(self._out / VERDICTS, record.to_bytes())
        if record.judge.has_new_alarm:
            self._on_alarm(record.sentence)

    def _saved(self, step: int) -> nn.Module:
        folder = self._out / f"step{step}"
        try:
            return build_model(read_config(folder), read_weights(folder)).to(self._device)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error

    def _new_monitor(self, ids: NDArray[np.int64]) -> Monitor:
        recipe = self._recipe
        return Monitor(
            self._variants,
            ids,
            recipe.steps,
            observations=len(recipe.checkpoint_steps),
            planned_rate=lambda step: recipe.learning_rate(max(step - 1, 0)),
        )
