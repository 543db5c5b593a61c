"""``python -m tests.suites.hub.speed``: an audit of 154 revisions from a hub on this machine against one from a folder.

A benchmark, not a test: it wants an idle machine. Both audits are commands of their own, in turn, each into a new
folder; the hub's begins with an empty cache. Also timed: the listing of all revisions, with the requests it takes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from transformers.utils.logging import disable_progress_bar

from tests.models import VOCAB, save_tiny_model
from tests.suites.hub.client import command
from tests.suites.hub.server import Hub, serve
from tests.suites.hub.test_discovery import STEPS

SIZE = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "max_position_embeddings": 128}
"""Of the built-in suite tiny."""
SHAPE = ("--batches", 32, "--batch-size", 2, "--seq-len", 128)


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Audits of each kind.")
def main(rounds: int) -> None:
    """Prints seconds of every audit, the ratio of their medians, and what discovery takes."""
    with tempfile.TemporaryDirectory(prefix="int4-collapse-") as text:
        scratch = Path(text)
        hub, suite = _make(scratch)
        corpus = scratch / "tokens.npy"
        np.save(corpus, np.random.default_rng(0).integers(0, VOCAB, 32 * 2 * 128))
        with serve(hub):
            begun = time.monotonic()
            _require(command(hub, scratch / "home", "suites", hub.repository))
            requests = len(hub.log)
            print(
                f"discovery: {time.monotonic() - begun:.1f} s with the start of Python, {requests} requests"
            )
            seconds: dict[str, list[float]] = {"folder": [], "hub": []}
            for number in range(rounds):
                for kind, name in (("folder", str(suite)), ("hub", hub.repository)):
                    out, home = scratch / f"{kind}{number}", scratch / f"home{number}"
                    begun = time.monotonic()
                    _require(
                        command(
                            hub, home, "audit", name, "--corpus", f"tokens:{corpus}", "--out", out, *SHAPE
                        )
                    )
                    seconds[kind].append(time.monotonic() - begun)
                    print(f"{kind}: {seconds[kind][-1]:.1f} s", flush=True)
    ratio = statistics.median(seconds["hub"]) / statistics.median(seconds["folder"])
    print(f"ratio of the medians: {ratio:.2f}")


def _make(scratch: Path) -> tuple[Hub, Path]:
    """154 random checkpoints in a folder, and the same as revisions of a repository."""
    disable_progress_bar()
    hub, suite = Hub("org/tiny-pythia"), scratch / "suite"
    for seed, step in enumerate(STEPS):
        save_tiny_model("gpt_neox", suite / f"step{step}", seed=seed, **SIZE)
        hub.push_folder(f"step{step}", suite / f"step{step}")
    return hub, suite


def _require(ran: subprocess.CompletedProcess[str]) -> None:
    if ran.returncode:
        sys.exit(ran.stdout + ran.stderr)


if __name__ == "__main__":
    main()
