"""Train until full precision stands still, then both ways: `outputs/reference/convergence/train.py SEED...`.

Writes the suites outputs/suites/convergence/constant-seed<SEED> and wsd-seed<SEED>, the second from the first's state
at the fork. RULE.md says what they are for.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from pipeline.train.pretraining import pretrain
from pipeline.train.recipes import PYTHON_SOURCE_100K

FORK = 32_000
"""Updates at which the learning rate begins to fall in `wsd`, four fifths of the run."""
RECIPE = dataclasses.replace(
    PYTHON_SOURCE_100K,
    name="convergence",
    batch_sequences=32,
    steps=40_000,
    warmup_steps=400,
    checkpoint_every=250,
    weight_decay=0.5,
)
"""0.1 M parameters beside the embeddings; 16,384 tokens an update."""
ROOT = Path("outputs/suites/convergence")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the suites of some seeds.")
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder that keeps the tokens")
    chosen = parser.parse_args()
    for seed in chosen.seeds:
        recipe = dataclasses.replace(RECIPE, seed=seed, schedule="constant")
        constant = ROOT / f"constant-seed{seed}"
        pretrain(recipe, constant, device=chosen.device, data=chosen.data, keep_state_at=[FORK])
        recipe = dataclasses.replace(recipe, schedule="wsd")
        wsd = ROOT / f"wsd-seed{seed}"
        pretrain(recipe, wsd, device=chosen.device, data=chosen.data, branch_from=constant)


if __name__ == "__main__":
    main()
