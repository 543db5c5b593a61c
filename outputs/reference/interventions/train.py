"""Train the arms of the interventions, one seed a call: `outputs/reference/interventions/train.py SEED [--square]`.

`--square`: without SAM and Muon, which a later call without it adds. `--jobs N`: arms that train at the same time, on
one core each.

Writes an ordinary suite, outputs/suites/interventions/seed<SEED>, whose stages are the arms. One trunk at a constant
rate is continued by every arm over the same batches. A call that was killed goes on where a part was finished.
RULE.md says what the arms are for.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.base.paths import new_folder
from pipeline.models.linear_layers import linear_sites
from pipeline.suites import Entry, Manifest, weights_sha256, write_manifest
from pipeline.train.averages import Averages, checkpoint_model
from pipeline.train.data import Batches, TrainingData, copy_tokenizer, prepare_data
from pipeline.train.loop import Trainer
from pipeline.train.model import build_model, save_model
from pipeline.train.recipes import TINY, Recipe
from pipeline.train.settings import OptimizerSettings

ARMS = ("trunk", "constant", "decay", "decay-held", "constant-shrunk", "average", "sam", "muon")
"""Stage 1, 2, ... of the suite."""
HELD = {"decay-held": "constant", "constant-shrunk": "decay"}
"""Arms whose matrices keep the norms of another arm, update by update."""
TRUNK, BRANCH = 1600, 600
"""Updates before and after the fork."""
WINDOW = range(50, -1, -10)
"""Updates before the end of the trunk and of a branch at which a checkpoint is saved."""
EMA_DECAY = 0.99
ROOT = Path("outputs/suites/interventions")
RECIPE = dataclasses.replace(
    TINY,
    name="interventions",
    layers=2,
    batch_sequences=16,
    steps=TRUNK + BRANCH,
    weight_decay=0.5,
    eval_batch_size=4,
)
"""0.1 M parameters beside the embeddings; 2,048 tokens an update."""


def constant_rate(step: int) -> float:
    """The peak after a linear warm-up."""
    return RECIPE.peak_lr * min(1.0, (step + 1) / RECIPE.warmup_steps)


def decayed_rate(step: int) -> float:
    """The peak, then linear to a tenth of it over the branch."""
    left = (RECIPE.steps - step) / BRANCH
    return constant_rate(step) if step < TRUNK else RECIPE.min_lr + (RECIPE.peak_lr - RECIPE.min_lr) * left


def weights_of(model: Any) -> list[Tensor]:
    """The quantized matrices of the blocks."""
    return [site.module.weight for site in linear_sites(model) if not site.is_head]


@torch.no_grad()
def norms_of(model: Any) -> list[float]:
    """The Frobenius norm of every quantized matrix."""
    return [float(torch.linalg.vector_norm(weight)) for weight in weights_of(model)]


@torch.no_grad()
def project(model: Any, norms: list[float]) -> None:
    """Rescale every quantized matrix to its norm."""
    for weight, norm in zip(weights_of(model), norms, strict=True):
        weight.mul_(norm / torch.linalg.vector_norm(weight))


def make_trainer(
    recipe: Recipe, data: TrainingData, rate: Callable[[int], float], optimizer: str = "adamw"
) -> Trainer:
    tokens = torch.from_numpy(np.asarray(data.train, dtype=np.int64))
    return Trainer(
        build_model(recipe),
        batches=Batches(tokens, seq_len=recipe.seq_len, sequences=recipe.batch_sequences, seed=recipe.seed),
        schedule=rate,
        settings=OptimizerSettings(weight_decay=recipe.weight_decay),
        device=torch.device("cpu"),
        optimizer=optimizer,
    )


class Suite:
    """The folder of one seed."""

    def __init__(self, seed: int) -> None:
        self.recipe = dataclasses.replace(RECIPE, seed=seed)
        self.data = prepare_data(self.recipe, ROOT / "data")
        self.folder = ROOT / f"seed{seed}"
        self.state = self.folder / ".state"
        self.state.mkdir(parents=True, exist_ok=True)

    def save(self, model: Any, arm: str, step: int) -> None:
        folder = self.folder / revision(arm, step)
        if not folder.exists():
            with new_folder(folder) as fresh:
                save_model(model, fresh)
                copy_tokenizer(self.data, fresh)

    def trunk(self) -> None:
        path = self.state / "trunk.pt"
        if path.exists():
            return
        trainer = make_trainer(self.recipe, self.data, constant_rate)
        while trainer.step < TRUNK:
            trainer.advance()
            if TRUNK - trainer.step in WINDOW:
                self.save(trainer.model, "trunk", trainer.step)
        torch.save(trainer.state_dict(), path)

    def branch(
        self, arm: str, rate: Callable[[int], float], optimizer: str = "adamw", held: str = ""
    ) -> None:
        """Continue the trunk; `held`: the arm whose norms the matrices keep, update by update."""
        path = self.state / f"{arm}.pt"
        if path.exists():
            return
        began = time.perf_counter()
        trainer = make_trainer(self.recipe, self.data, rate, optimizer)
        state = torch.load(self.state / "trunk.pt", weights_only=True)
        if optimizer == "muon":  # it has other moments: they start at 0
            trainer.model.load_state_dict(state["model"])
            trainer.step = TRUNK
        else:
            trainer.load_state_dict(state)
        targets = torch.load(self.state / f"{held}.pt", weights_only=True)["norms"] if held else None
        average = Averages(trainer.model, decay=EMA_DECAY, window=1)
        norms, losses = [], []
        while trainer.step < self.recipe.steps:
            losses.append(float(trainer.advance()))
            if targets is not None:
                project(trainer.model, targets[len(norms)])
            norms.append(norms_of(trainer.model))
            average.after_update()
            if self.recipe.steps - trainer.step in WINDOW:
                self.save(trainer.model, arm, trainer.step)
                if arm == "constant":
                    self.save(
                        checkpoint_model(trainer.model, average.ema(), torch.float32), "average", trainer.step
                    )
        torch.save({"norms": norms, "losses": losses, "seconds": time.perf_counter() - began}, path)
        said = (
            f"{self.folder.name} {arm}: loss {np.mean(losses[-50:]):.4f}, {time.perf_counter() - began:.0f} s"
        )
        sys.stdout.write(said + "\n")

    def finish(self) -> None:
        held_out = self.folder / "eval_tokens.npy"
        np.save(held_out, self.data.held_out)
        trained = [arm for arm in ARMS if (self.folder / revision(arm, ends(arm))).is_dir()]
        entries = [self.entry(arm, ends(arm) - before) for arm in trained for before in WINDOW]
        write_manifest(
            self.folder,
            Manifest(
                name=self.folder.name,
                checkpoints=tuple(entries),
                recipe={**self.recipe.plain(), "arms": trained, "trunk": TRUNK},
                corpus=self.recipe.corpus,
                corpus_sha256=self.data.corpus_sha256,
                evaluation_corpus=f"tokens:{held_out.name}",
                evaluation_shape=self.recipe.evaluation_shape,
            ),
        )

    def entry(self, arm: str, step: int) -> Entry:
        rate = decayed_rate if arm.startswith("decay") else constant_rate
        name = revision(arm, step)
        tokens = step * self.recipe.tokens_per_step
        return Entry(step, name, tokens, rate(step - 1), weights_sha256(self.folder / name))


def revision(arm: str, step: int) -> str:
    return f"stage{1 + ARMS.index(arm)}-step-{step}"


def ends(arm: str) -> int:
    return TRUNK if arm == "trunk" else RECIPE.steps


def train_arm(seed: int, arm: str) -> None:
    """Train one arm, in a process of its own where several train at the same time."""
    torch.set_num_threads(1)
    suite = Suite(seed)
    if arm == "trunk":
        suite.trunk()
    elif arm in ("sam", "muon"):
        suite.branch(arm, constant_rate, arm)
    else:
        suite.branch(arm, decayed_rate if arm.startswith("decay") else constant_rate, held=HELD.get(arm, ""))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the arms of one seed.")
    parser.add_argument("seed", type=int)
    parser.add_argument("--square", action="store_true", help="without SAM and Muon")
    parser.add_argument("--jobs", type=int, default=1, help="arms that train at the same time")
    chosen = parser.parse_args()
    free = ["constant", "decay", *([] if chosen.square else ["sam", "muon"])]
    with ProcessPoolExecutor(chosen.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(train_arm, chosen.seed, "trunk").result()
        training = {arm: pool.submit(train_arm, chosen.seed, arm) for arm in free}
        for arm, other in HELD.items():  # the norms of the other arm are needed first
            training[other].result()
            training[arm] = pool.submit(train_arm, chosen.seed, arm)
        for each in training.values():
            each.result()
    Suite(chosen.seed).finish()


if __name__ == "__main__":
    main()
