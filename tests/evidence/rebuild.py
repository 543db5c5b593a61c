"""``python -m tests.evidence.rebuild``: every table, comparison and finding of outputs/reference again from its shards.

Runs the commands that RUNS.md names, in two processes that import everything once.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.evidence.findings_file import SCHEDULES

HERE = "outputs/reference"
LATE = ("--before", "20000:22800", "--end", "27600:28600")
SEEDS = (0, 1)
SHOWN = ("schedules",)
"""Comparisons whose figure a page shows; the others keep their numbers alone."""
PROCESSES = 2
UNREDUCED = ("interventions", "convergence", "sizes", "repetition")
"""Experiments whose shards are read by tests.evidence alone."""


def unpack() -> None:
    """The shards of every archive, in their folders."""
    for archive in sorted(Path(HERE).rglob("shards.tar.xz")):
        with tarfile.open(archive) as packed:
            packed.extractall(archive.parent, filter="data")


def folders() -> list[Path]:
    """Every folder that is reduced."""
    plans = sorted(path for name in ("run.json", "fork.json") for path in Path(HERE).rglob(name))
    return [path.parent for path in plans if path.relative_to(HERE).parts[0] not in UNREDUCED]


def comparisons() -> list[tuple[str, list[str]]]:
    """Folder that a comparison is written to, and what is compared."""
    suites = f"{HERE}/schedules"

    def of(*names: str) -> list[str]:
        return [f"{suites}/{name}-seed{seed}" for name in names for seed in SEEDS]

    pairs = [
        (
            f"schedules/seed{seed}",
            [*(f"{suites}/{name}-seed{seed}" for name in SCHEDULES), *LATE, "--threshold", "1.25"],
        )
        for seed in SEEDS
    ]
    again, earlier = f"{HERE}/sweeps/suite", [f"{suites}/earlier/constant-seed{seed}.csv" for seed in SEEDS]
    strata = [
        f"{seed}={','.join([*(f'{suites}/{name}-seed{seed}' for name in SCHEDULES), earlier[seed]])}"
        for seed in SEEDS
    ]
    strata[0] += f",{again}"
    groups = {"constant": [*of("constant"), *earlier], "decayed": [*of("wsd", "cosine"), again]}
    grouped = [
        part for name, members in groups.items() for part in ("--group", f"{name}={','.join(members)}")
    ]
    everything = [*LATE, "--variant", "all"]
    return [
        ("schedules", [*of("constant", "cosine", "wsd"), *LATE]),
        (
            "schedules/trainings",
            [*LATE, "--threshold", "1.25", *grouped, *(p for each in strata for p in ("--stratum", each))],
        ),
        *pairs,
        ("schedules/whole-run", [*of("constant"), "--before", "4000:6000", "--end", "27600:28600"]),
        ("methods", [*(f"{HERE}/methods/{name}" for name in SCHEDULES), *everything]),
        ("methods/second", [*(f"{HERE}/methods/second/{name}" for name in SCHEDULES), *everything]),
        (
            "methods/mechanism",
            [*(f"{HERE}/methods/{name}" for name in ("constant", "wsd", "cosine-mechanism")), *LATE],
        ),
        ("grids", [f"{HERE}/grids", "--before", "4000:6000", "--end", "13800:14300", "--variant", "all"]),
        ("overtrained", [f"{HERE}/overtrained", "--before", "31300:70500", "--end", "132200:140000"]),
    ]


def command(arguments: Sequence[str]) -> str:
    """Run one command of int4-collapse in this process; what it says is returned where it fails."""
    from jobs.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(list(arguments), standalone_mode=True)
        except SystemExit as end:
            if end.code:
                return f"int4-collapse {' '.join(arguments)}\n{said.getvalue()}"
    return ""


def run(pool: ProcessPoolExecutor, commands: Sequence[Sequence[str]]) -> None:
    """Run commands in the pool; exits with what the first that fails says."""
    for said in pool.map(command, commands):
        if said:
            sys.exit(said)


def findings() -> None:
    from tests.evidence.__main__ import main

    main()


def main() -> None:
    """Make everything."""
    if not Path(HERE, "shards.tar.xz").is_file():
        sys.exit(f"{HERE}/shards.tar.xz is not here: run this from the root of the repository")
    unpack()
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        run(pool, [["reduce", str(folder)] for folder in folders()])
        run(pool, [["compare", *parts, "--out", f"{HERE}/{name}"] for name, parts in comparisons()])
        told = pool.submit(findings)
        run(pool, [["report", f"{HERE}/fork"]])
        told.result()
    for name, _ in comparisons():
        for drawn in ("comparison.png", "comparison.html"):
            if not (name in SHOWN and drawn.endswith("png")):
                Path(HERE, name, drawn).unlink(missing_ok=True)
    for drawn in ("fork.html", "figures/fork_forest.png", "figures/fork_wins.png"):
        Path(HERE, "fork", drawn).unlink()
    sys.stdout.write(f"tables, comparisons, figures and findings of {HERE} are made again\n")


if __name__ == "__main__":
    main()
