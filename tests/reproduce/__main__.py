"""``python -m tests.reproduce pythia-160m --out DIR``: the paper's own experiment on the suite that it measured.

Checks what the hub lists, says what the experiment will cost, audits the 154 revisions, forks training, and writes the
paper's numbers beside ours to DIR/reproduction.json and DIR/reproduction.md. Both files exist from the checks on and
are written again after each part. The same command resumes.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from jobs.options import parse_steps
from pipeline.base.errors import UsageError
from pipeline.suites import Suite, open_suite
from tests.reproduce import paper
from tests.reproduce.cost import expected_cost
from tests.reproduce.hub_checks import Check, check_listing, check_measured, download_bytes, to_json
from tests.reproduce.paper_table import our_numbers, write_table

FORK_ARMS = 3


@click.command()
@click.argument("suite", type=click.Choice([paper.SUITE]))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder that receives everything."
)
@click.option("--check-only", is_flag=True, help="Only the checks, the expected cost and the empty table.")
@click.option("--skip-fork", is_flag=True, help="Only the audit.")
@click.option("--steps", metavar="0,1000,...", help="Only these revisions; the table says so.")
@click.option("--corpus", default=paper.CORPUS, show_default=True, help="Evaluation text.")
@click.option(
    "--train-corpus", default=paper.TRAIN_CORPUS, show_default=True, help="Text that the forks train on."
)
@click.option(
    "--from", "start", default="auto", show_default=True, help="Checkpoint to fork from, as in `fork`."
)
@click.option(
    "--fork-steps", default=paper.FORK_STEPS, show_default=True, help="Updates of each run of the fork."
)
@click.option("--tokens-per-step", default=paper.FORK_TOKENS, show_default=True, help="Tokens of an update.")
@click.option("--seeds", default=3, show_default=True, help="Runs per schedule.")
@click.option("--batches", default=32, show_default=True)
@click.option("--batch-size", default=4, show_default=True)
@click.option("--seq-len", default=512, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--workers", type=int, help="Most workers. Default: every GPU.")
@click.option(
    "--cache-gb", type=float, help="Disk for downloaded weights, 10^9 bytes. Default: half of what is free."
)
@click.option(
    "--shape",
    default=",".join(map(str, paper.SHAPE)),
    show_default=True,
    help="Hidden size, layers, heads, inner size and vocabulary that config.json must state.",
)
def main(suite: str, out: Path, *, check_only: bool, skip_fork: bool, **options: Any) -> None:
    """Do the paper's experiment on SUITE into the folder --out."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        opened = open_suite(suite)
        chosen = opened.select(options["steps"] and parse_steps(options["steps"]))
        shape = parse_steps(options["shape"], "--shape")
        if len(shape) != len(paper.SHAPE):
            raise UsageError(f"--shape {options['shape']}: wanted {len(paper.SHAPE)} whole numbers")
    except UsageError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(2) from error
    checks = check_listing(opened, paper.STEPS, shape)
    about = _describe(opened, chosen, checks, options, forked=not skip_fork)
    code = _show(out, about, checks)
    if check_only or code:
        raise SystemExit(code)
    code = _carry_out("run", suite, out / "audit", _audit_options(options))
    checks.append(check_measured(chosen, str(out / "audit")))
    code = _show(out, about, checks) or code
    if not skip_fork and code == 0:
        code = _carry_out("fork", suite, out / "fork", _fork_options(options, out))
        _show(out, about, checks)
    print(f"{out / 'reproduction.md'} has the paper's numbers beside ours", flush=True)
    raise SystemExit(code)


def _describe(
    opened: Suite, chosen: Suite, checks: list[Check], options: dict[str, Any], *, forked: bool
) -> dict[str, Any]:
    """What stands above the table: the choices of this run and its expected cost."""
    distinct = sum(each.duplicate_of is None for each in chosen.checkpoints)
    runs = FORK_ARMS * options["seeds"] if forked else 0
    cost = expected_cost(
        download_bytes(chosen), distinct, runs, options["fork_steps"] * options["tokens_per_step"]
    )
    return {
        "suite": opened.name,
        "repository": opened.location,
        "selection": f"{len(chosen.checkpoints)} of {len(opened.checkpoints)} revisions are measured.",
        "options": {name: value for name, value in options.items() if value is not None},
        "revisions": {each.revision: each.commit for each in opened.checkpoints},
        "expected_cost": asdict(cost),
        "checks": to_json(checks),
    }


def _show(out: Path, about: dict[str, Any], checks: list[Check]) -> int:
    """Write the table, print the checks, and return 1 if one that is needed does not hold."""
    about["checks"] = to_json(checks)
    write_table(out, about, our_numbers(out / "audit", out / "fork"))
    for each in checks:
        print(f"{'ok' if each.holds else 'NO'}  {each.name}: wanted {each.wanted}; found {each.found}")
    cost = about["expected_cost"]
    print(
        f"expected: {cost['download_gb']:.2f} GB, {cost['audit_gpu_hours']:.2f} GPU hours for the audit and "
        f"{cost['fork_gpu_hours']:.2f} for the fork, on one H100",
        flush=True,
    )
    failed = [each.name for each in checks if each.needed and not each.holds]
    if failed:
        print(f"error: this is not the paper's suite: {'; '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _carry_out(command: str, suite: str, out: Path, options: list[object]) -> int:
    """Run a command as its user would, with its progress on this terminal; returns its exit code."""
    arguments = [command, suite, "--out", out.resolve(), *options]
    print("int4-collapse " + " ".join(map(str, arguments)), flush=True)
    return subprocess.run([sys.executable, "-m", "jobs", *map(str, arguments)], check=False).returncode


def _audit_options(options: dict[str, Any]) -> list[object]:
    named = ("corpus", "batches", "batch_size", "seq_len", "device", "workers", "cache_gb", "steps")
    given = [(name, options[name]) for name in named if options[name] is not None]
    return [word for name, value in given for word in (f"--{name.replace('_', '-')}", value)]


def _fork_options(options: dict[str, Any], out: Path) -> list[object]:
    own = {
        "--from": options["start"],
        "--audit": (out / "audit").resolve(),
        "--train-corpus": options["train_corpus"],
        "--steps": options["fork_steps"],
        "--tokens-per-step": options["tokens_per_step"],
        "--seeds": options["seeds"],
    }
    shared = _audit_options({**options, "steps": None, "cache_gb": None})
    return [*(word for pair in own.items() for word in pair), *shared]


if __name__ == "__main__":
    main()
