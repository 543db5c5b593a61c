"""Training a suite from scratch: checkpoints in ordinary folders, resumable when killed, one suite.json at
the end.

While it trains, ``OUT/.state`` holds the recipe, the tokens and the newest optimizer state; every checkpoint folder
appears by a rename, complete. A killed run repeats at most ``state_every`` steps: batches depend on the step only,
so on a CPU the repeated steps and everything after them are bit-equal. At the end suite.json is written and the
state removed.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.base.files import make_folder, write_atomically
from pipeline.base.json_files import read_json
from pipeline.base.locks import exclusive
from pipeline.base.paths import new_folder
from pipeline.suites import Entry, Manifest, read_manifest, weights_sha256, write_manifest
from pipeline.suites.optimizer_moments import MOMENTS_FILE
from pipeline.train.branching import branch, keepable, kept_state, refuse_lost
from pipeline.train.data import Batches, TrainingData, copy_tokenizer, kept_array, prepare_data
from pipeline.train.loop import Trainer, choose_device
from pipeline.train.model import build_model, save_model
from pipeline.train.optimizers import moments_by_name
from pipeline.train.recipes import Recipe
from pipeline.train.settings import OptimizerSettings

STATE = ".state"
TRAINER = "trainer.pt"
LOCK = ".lock"
EVAL_TOKENS = "eval_tokens.npy"
STATE_EVERY = 200
"""Fewest updates between two saves of the state; long runs save forty times."""
COMPILE_FROM_STEPS = 300
"""Updates from which compiling pays off for a run on a GPU."""


Report = Callable[[int, int, float | None, str], None]
"""Called at every checkpoint with updates made, total updates, seconds left (None: not known yet) and the loss."""


class Watch(Protocol):
    """Observes checkpoints; a part of the training that must not change it (``pipeline.monitor.watched_suite``)."""

    def __call__(self, step: int, held_out: NDArray[Any], model: nn.Module | None = None) -> None:
        """Called after the checkpoint of ``step`` was saved, with the held-out tokens (1-D) and the model in training;
        None: the checkpoint in the folder was saved by an earlier call.
        """


@dataclass(frozen=True)
class _Keeping:
    """The steps at which optimizer states are saved."""

    state_every: int
    """Updates between two saves of the whole state, which is removed when the suite is done."""
    moments_at: set[int]
    """Checkpoints that keep Adam's moments permanently."""
    states_at: set[int]
    """Updates after which the whole state is kept for branches."""
    data: Path
    """Folder of the tokens."""


def pretrain(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    on_progress: Report | None = None,
    state_every: int | None = None,
    keep_optimizer_at: Collection[int] = (),
    data: Path | None = None,
    keep_state_at: Collection[int] = (),
    branch_from: Path | None = None,
    watch: Watch | None = None,
) -> bool:
    """Train ``recipe`` into the suite folder ``out``, continuing a killed run; False if ``out`` was complete.

    A folder whose suite.json names lost checkpoints is trained again.

    ``state_every``: updates between two saves of the optimizer state. ``keep_optimizer_at``: checkpoints that keep
    Adam's moments beside their weights, for forks to start from. ``data``: folder for the tokenized corpus, made if
    missing and kept, so that other suites of the same text can use it; None = beside the suite while it trains.
    ``keep_state_at``, ``branch_from``: see ``pipeline.train.branching``. ``watch``: observes every checkpoint, also
    those of a complete suite.

    Raises UsageError for a folder of another recipe or origin, FolderLockedError while another process trains into
    it, OutputError if it cannot be written, CheckpointError if the loss becomes NaN.
    """
    chosen = choose_device(device)
    keep, states = _keepable(recipe, keep_optimizer_at), keepable(recipe, keep_state_at)
    make_folder(out)
    with exclusive(out / LOCK):
        _claim(recipe, out)
        complete = _finished(out)
        if not complete:
            try:
                every = max(STATE_EVERY, recipe.steps // 40) if state_every is None else state_every
                where = out / STATE / "data" if data is None else data
                keeping = _Keeping(every, keep, states, where)
                if branch_from is not None and not (out / STATE / TRAINER).is_file():
                    branch(recipe, out, out / STATE / TRAINER, branch_from, _recipe_of(branch_from))
                _train(recipe, out, chosen, on_progress, keeping, watch=watch)
            except UsageError:  # a fault of the corpus: a corrected recipe must not find the folder taken
                if not any(out.glob("step*")):
                    shutil.rmtree(out / STATE, ignore_errors=True)
                raise
        refuse_lost(out, keep, lambda step: out / f"step{step}" / MOMENTS_FILE, "optimizer state")
        refuse_lost(out, states, partial(kept_state, out), "state")
        if watch is not None:  # nothing is left to observe where all were while they were trained
            watch(recipe.steps, kept_array(out / EVAL_TOKENS))
        shutil.rmtree(out / STATE, ignore_errors=True)
    return not complete


def _train(
    recipe: Recipe,
    out: Path,
    device: torch.device,
    report: Report | None,
    keeping: _Keeping,
    *,
    watch: Watch | None,
) -> None:
    data = prepare_data(recipe, keeping.data)
    trainer = _trainer(recipe, data, device)
    _restore(trainer, recipe, out)
    due = set(recipe.checkpoint_steps)
    loss: torch.Tensor | None = None
    first, began = trainer.step, time.perf_counter()
    while True:
        step = trainer.step
        if step in due:
            if loss is not None and not torch.isfinite(loss):
                raise CheckpointError(f"training diverged: loss {loss.item()} at step {step}; lower peak_lr")
            new = not (out / f"step{step}").is_dir()
            if new:
                _save_checkpoint(trainer, data, out / f"step{step}", moments=step in keeping.moments_at)
            if watch is not None:
                watch(step, data.held_out, trainer.model if new else None)
            if report is not None and loss is not None:
                eta_s = (time.perf_counter() - began) / (step - first) * (recipe.steps - step)
                report(step, recipe.steps, eta_s, f"loss {loss.item():.3f}")
        if step == recipe.steps:
            break
        loss = trainer.advance()
        if trainer.step in keeping.states_at:
            _save_state(trainer, kept_state(out, trainer.step))
        if trainer.step % keeping.state_every == 0 and trainer.step < recipe.steps:
            _save_state(trainer, out / STATE / TRAINER)
    _write_suite(recipe, data, out)


def _trainer(recipe: Recipe, data: TrainingData, device: torch.device) -> Trainer:
    tokens = torch.from_numpy(np.asarray(data.train, dtype=np.int64)).to(device)
    return Trainer(
        build_model(recipe),
        batches=Batches(tokens, seq_len=recipe.seq_len, sequences=recipe.batch_sequences, seed=recipe.seed),
        schedule=recipe.learning_rate,
        settings=OptimizerSettings(
            recipe.weight_decay, recipe.beta1, recipe.beta2, recipe.eps, recipe.clip_norm
        ),
        device=device,
        compiled=device.type == "cuda" and recipe.steps >= COMPILE_FROM_STEPS,
    )


def _claim(recipe: Recipe, out: Path) -> None:
    """Record the recipe in a new folder; raises UsageError if the folder belongs to another recipe."""
    made_by = _recipe_of(out)
    if not made_by:
        note = out / STATE / "recipe.json"
        foreign = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        if foreign:
            raise UsageError(
                f"{out} was not made by pretrain (it holds {', '.join(foreign[:3])}): choose a new folder"
            )
        note.parent.mkdir(exist_ok=True)
        write_atomically(note, json.dumps(recipe.plain()).encode())
        return
    plain = recipe.plain()
    names = sorted(name for name in {*plain, *made_by} if plain.get(name) != made_by.get(name))
    if names:
        told = "; ".join(f"{name} {made_by.get(name)!r}, now {plain.get(name)!r}" for name in names)
        raise UsageError(f"{out} was made by another recipe ({told}): choose a new folder or delete this one")


def _recipe_of(out: Path) -> dict[str, Any]:
    """The recipe of ``out`` as plain values; empty if there is none."""
    manifest, note = read_manifest(out), out / STATE / "recipe.json"
    if manifest is not None:
        return dict(manifest.recipe)
    if not note.exists():
        return {}
    advice = f"delete {out / STATE} to train from the start"
    return read_json(dict, note, lambda what: UsageError(f"{note} is broken: {what}; {advice}"))


def _finished(out: Path) -> bool:
    manifest = read_manifest(out)
    return manifest is not None and all((out / entry.revision).is_dir() for entry in manifest.checkpoints)


def _save_checkpoint(trainer: Trainer, data: TrainingData, folder: Path, *, moments: bool) -> None:
    with new_folder(folder) as fresh:
        save_model(trainer.model, fresh)
        copy_tokenizer(data, fresh)
        if moments:
            torch.save(moments_by_name(trainer.model, trainer.optimizer), fresh / MOMENTS_FILE)


def _keepable(recipe: Recipe, steps: Collection[int]) -> set[int]:
    """``steps`` as a set; raises UsageError for a step that is no checkpoint or before the first update."""
    there = [step for step in recipe.checkpoint_steps if step]
    for step in steps:
        if step not in there:
            near = sorted(sorted(there, key=lambda each: abs(each - step))[:3])
            raise UsageError(
                f"no optimizer state to keep at step {step}: the nearest checkpoints of {recipe.name} that have one "
                f"are {', '.join(map(str, near))}"
            )
    return set(steps)


def _save_state(trainer: Trainer, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())


def _restore(trainer: Trainer, recipe: Recipe, out: Path) -> None:
    """Continue from the saved state, or from the start if a checkpoint before it was lost."""
    path = out / STATE / TRAINER
    if not path.is_file():
        return
    state = torch.load(path, map_location=trainer.device, weights_only=True)
    if all((out / f"step{step}").is_dir() for step in recipe.checkpoint_steps if step <= state["step"]):
        trainer.load_state_dict(state)


def _write_suite(recipe: Recipe, data: TrainingData, out: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, data.held_out)
    write_atomically(out / EVAL_TOKENS, buffer.getvalue())
    entries = tuple(
        Entry(
            step=step,
            revision=f"step{step}",
            tokens_seen=step * recipe.tokens_per_step,
            learning_rate=recipe.learning_rate(max(step - 1, 0)),
            sha256=weights_sha256(out / f"step{step}"),
        )
        for step in recipe.checkpoint_steps
    )
    manifest = Manifest(
        name=recipe.name,
        checkpoints=entries,
        recipe=recipe.plain(),
        corpus=recipe.corpus,
        corpus_sha256=data.corpus_sha256,
        evaluation_corpus=f"tokens:{EVAL_TOKENS}",
        evaluation_shape=recipe.evaluation_shape,
    )
    write_manifest(out, manifest)
