"""Train on text seen once and on a sixth of it seen six times: `outputs/reference/repetition/train.py TOKENS SEED...`.

TOKENS: the folder of tokens that `pretrain python-source-1m --data` made. Writes the suites
outputs/suites/repetition/{once,repeated}-{constant,wsd}-seed<SEED>. RULE.md says what they are for.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from pipeline.train.pretraining import pretrain
from pipeline.train.recipes import PYTHON_SOURCE_1M, Recipe

PASSES = 6
"""Times that the repeated text is seen."""
SEQUENCES = 16
"""Sequences an update: 8,192 tokens."""
ROOT = Path("outputs/suites/repetition")


def write_tokens(folder: Path) -> dict[str, Path]:
    """Token files of both arms, whose last tenth, which `tokens:` holds out, begins with the same held-out tokens."""
    train, held_out = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("train", "held_out"))
    once = min(len(train), 9 * len(held_out)) // 9 * 9
    sizes = {"once": once, "repeated": once // PASSES // 9 * 9}
    ROOT.mkdir(parents=True, exist_ok=True)
    files = {arm: ROOT / f"{arm}.npy" for arm in sizes}
    for arm, size in sizes.items():
        if not files[arm].exists():
            part = files[arm].with_suffix(".part.npy")
            np.save(part, np.concatenate([train[:size], held_out[: size // 9]]))
            part.rename(files[arm])
    return files


def recipe_of(tokens: Path, once: Path, seed: int) -> Recipe:
    """The recipe on ``tokens``, with as many updates as the text of ``once`` has batches."""
    base = dataclasses.replace(PYTHON_SOURCE_1M, batch_sequences=SEQUENCES)
    n_tokens = len(np.load(once, mmap_mode="r")) * 9 // 10
    steps = (n_tokens - 1) // base.tokens_per_step // 200 * 200
    return dataclasses.replace(
        base,
        name="repetition",
        corpus=f"tokens:{tokens}",
        seed=seed,
        steps=steps,
        warmup_steps=steps // 100,
        checkpoint_every=steps // 200,
        schedule="constant",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the suites of some seeds.")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--device", default="cuda")
    chosen = parser.parse_args()
    files = write_tokens(chosen.tokens)
    for seed in chosen.seeds:
        for arm, tokens in files.items():
            constant = ROOT / f"{arm}-constant-seed{seed}"
            recipe = recipe_of(tokens, files["once"], seed)
            data = ROOT / f"data-{arm}"
            fork = recipe.steps * 4 // 5
            pretrain(recipe, constant, device=chosen.device, data=data, keep_state_at=[fork])
            wsd = dataclasses.replace(recipe, schedule="wsd")
            out = ROOT / f"{arm}-wsd-seed{seed}"
            pretrain(wsd, out, device=chosen.device, data=data, branch_from=constant)


if __name__ == "__main__":
    main()
