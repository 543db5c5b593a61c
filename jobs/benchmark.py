"""``benchmark``: the naive Hugging Face loop against this pipeline."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from jobs.console import console, errors, progress
from jobs.options import measurement_options, resource_options, selection_options, unused_seed_option
from jobs.request import AuditOptions, build_request
from pipeline.errors import UsageError

DEFAULT_LIMIT = 24
TOLERANCE_NATS = 1e-6


@click.command()
@click.argument("suite", default="tiny")
@selection_options
@measurement_options
@resource_options
@unused_seed_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("--fork", "training", is_flag=True, help="Time training instead: the last checkpoint of SUITE.")
@click.option(
    "--shape", type=click.Choice(["160m"]), help="With --fork: random weights of Pythia-160m's shape."
)
@click.option(
    "--updates", type=click.IntRange(1), default=50, show_default=True, help="With --fork: updates timed."
)
@click.option(
    "--tokens-per-step", type=click.IntRange(1), default=8192, show_default=True, help="With --fork."
)
@click.option(
    "--compile/--no-compile", default=None, help="With --fork: compiled training. Default: on a GPU."
)
def command(as_json: bool, training: bool, **options: object) -> None:
    """Time the naive Hugging Face loop and this pipeline on the same checkpoints, tokens and cores of SUITE.

    Without --steps or --limit, the suite's first 24 checkpoints are used.
    """
    if training:
        time_training(options, as_json=as_json)
        return
    from pipeline.benchmark import compare

    if options["steps"] is None and options["limit"] is None:
        options["limit"] = DEFAULT_LIMIT
    request = build_request(AuditOptions.from_command(options | {"out": "."}))
    with progress("benchmark") as show:
        result = compare(request, lambda side, done, total: show(done, total, None, side))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result) | {"ratio": result.ratio}))
    else:
        console.print(
            f"{result.checkpoints} checkpoints, {request.probe.shape.n_tokens} tokens, "
            f"{', '.join(map(str, request.probe.variants))}, {result.cores} cores, {result.device}\n"
            f"naive loop   {result.naive_s:8.3f} s per checkpoint\n"
            f"pipeline     {result.pipeline_s:8.3f} s per checkpoint (steady; {result.pipeline_total_s:.1f} s for "
            f"all, start included)\n"
            f"ratio        {result.ratio:8.2f}\n"
            f"largest nll difference {result.max_nll_difference_nats:.1e} nats",
            markup=False,
        )
    if result.max_nll_difference_nats > TOLERANCE_NATS:
        errors.print(f"the two disagree by more than {TOLERANCE_NATS:g} nats")
        raise SystemExit(1)


def time_training(options: dict[str, Any], *, as_json: bool) -> None:
    """The plain Hugging Face training loop against the fork's, and what they say."""
    import functools

    from jobs.suite import resolve_suite
    from pipeline.benchmark.training import checkpoint, compare_training, pythia_160m
    from pipeline.suites import fetch
    from pipeline.train.loop import choose_device

    device = choose_device(options["device"])
    seq_len = options["seq_len"]
    if options["shape"]:
        make, seq_len = pythia_160m, seq_len or 512
    else:
        suite = resolve_suite(options["suite"])
        make = functools.partial(checkpoint, fetch(suite.checkpoints[-1]))
        seq_len = seq_len or (suite.default_shape.seq_len if suite.default_shape else 512)
    if options["tokens_per_step"] % seq_len:
        raise UsageError(f"--tokens-per-step {options['tokens_per_step']}: wanted a multiple of {seq_len}")
    with progress("benchmark") as show:
        result = compare_training(
            make,
            updates=options["updates"],
            sequences=options["tokens_per_step"] // seq_len,
            seq_len=seq_len,
            device=device,
            compiled=device.type == "cuda" if options["compile"] is None else options["compile"],
            on_step=lambda side, done, total: show(done, total, None, side),
        )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result) | {"ratio": result.ratio}))
        return
    console.print(
        f"{result.updates} updates of {result.tokens_per_step} tokens, {result.precision}, {result.device}\n"
        f"naive loop   {result.naive_tokens_per_s:12,.0f} tokens/s\n"
        f"fork's loop  {result.ours_tokens_per_s:12,.0f} tokens/s{' (compiled)' if result.compiled else ''}; "
        f"warm-up {result.warm_up_s:.1f} s\n"
        f"ratio        {result.ratio:12.2f}\n"
        f"largest training loss difference {result.max_loss_difference_nats:.1e} nats",
        markup=False,
    )
