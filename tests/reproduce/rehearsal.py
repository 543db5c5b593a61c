"""``python -m tests.reproduce.rehearsal --out DIR``: the command against a stand-in hub, on this machine alone.

The measured revisions have Pythia-160m's own shape and random weights; the others are small, and only listed. Options
after ``--`` go to ``tests.reproduce``. Takes 0.4 GB of memory for each revision.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import numpy as np

from tests.reproduce.paper import SHAPE, SUITE
from tests.reproduce.stand_in import pythia_hub
from tests.suites.hub.client import environment
from tests.suites.hub.server import serve

TOKENS = 2_000_000
"""Training tokens: no run of the fork sees one twice."""
EVALUATION_TOKENS = 65_536


@click.command()
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder that receives everything."
)
@click.option(
    "--steps", default="0,1,77000,143000", show_default=True, help="Revisions to download and measure."
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(out: Path, steps: str, options: tuple[str, ...]) -> None:
    """Rehearse the experiment; OPTIONS are those of `python -m tests.reproduce`."""
    out.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, count in (("evaluation", EVALUATION_TOKENS), ("training", TOKENS)):
        np.save(out / f"{name}.npy", draw.integers(0, SHAPE[-1], count))
    named = {
        "--out": out, "--steps": steps, "--corpus": f"tokens:{out.resolve() / 'evaluation.npy'}",
        "--train-corpus": f"tokens:{out.resolve() / 'training.npy'}", "--from": steps.split(",")[-2],
    }  # fmt: skip
    words = [str(word) for pair in named.items() for word in pair]
    with serve(pythia_hub(full={int(step) for step in steps.split(",")})) as hub:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.reproduce", SUITE, *words, *options],
            env=environment(hub, out.resolve() / "hub"),
            check=False,
        )
    raise SystemExit(ran.returncode)


if __name__ == "__main__":
    main()
