"""``pretrain``: train a suite with Pythia's checkpoint spacing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from jobs.console import console, errors, progress
from jobs.options import Steps
from pipeline.base.errors import UsageError
from pipeline.runs.output import absolute_out
from pipeline.train.recipes import RECIPES, Recipe
from pipeline.train.schedules import recipe_schedules


@click.command(epilog=f"Recipes: {', '.join(RECIPES)}.")
@click.argument("recipe")
@click.option("--out", required=True, metavar="DIR", help="Folder that receives the suite; no URL.")
@click.option(
    "--corpus",
    metavar="CORPUS",
    help="Training text: docstrings, python-source, file:GLOB, tokens:FILE.npy or "
    "hf:DATASET[/CONFIG][:SPLIT[:COLUMN]]. Default: the recipe's.",
)
@click.option("--schedule", help=f"One of {', '.join(recipe_schedules())}. Default: the recipe's.")
@click.option("--steps", type=int, help="Optimizer steps.")
@click.option("--width", type=int, help="Hidden size.")
@click.option("--depth", "layers", type=int, help="Transformer blocks.")
@click.option("--heads", type=int, help="Attention heads.")
@click.option("--peak-lr", type=float, help="Highest learning rate.")
@click.option("--min-lr", type=float, help="Learning rate that the schedule does not fall below.")
@click.option("--warmup-steps", type=int, help="Steps of linear warm-up.")
@click.option("--checkpoint-every", type=int, help="Spacing of the checkpoints, beside 0, 1, 2, 4, ... 512.")
@click.option("--seed", type=int, help="Seed of the initial weights and the data order.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--keep-optimizer-at",
    type=Steps(),
    metavar="STEP,...",
    help="Checkpoints that keep Adam's moments, for `fork` to start from.",
)
@click.option(
    "--keep-state-at",
    type=Steps(),
    metavar="STEP,...",
    help="Steps whose whole state is kept, for --branch-from.",
)
@click.option(
    "--branch-from",
    metavar="FOLDER",
    help="Suite of the same recipe under another schedule; continue from its last saved state that both share.",
)
@click.option(
    "--data",
    metavar="FOLDER",
    help="Folder that keeps the tokenized corpus for other suites of the same text. Default: not kept.",
)
@click.option(
    "--monitor",
    is_flag=True,
    help="Measure every checkpoint when it is saved, on the suite's evaluation text, and keep the verdicts of the "
    "training-time monitor in DIR/monitor.jsonl.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="VARIANT",
    help="Variant that --monitor measures; repeatable, the first decides. Default: int4.",
)
def command(recipe: str, out: str, **options: Any) -> None:
    """Train the suite RECIPE into DIR. Run it again to resume; options change the recipe's settings."""
    from pipeline.monitor.watched_suite import SuiteWatch
    from pipeline.train import find_recipe, pretrain

    settings = {field.name for field in dataclasses.fields(Recipe)}
    changes = {name: value for name, value in options.items() if name in settings and value is not None}
    named = find_recipe(recipe)
    chosen = dataclasses.replace(named, **changes, name=_name(named, changes))
    folder = absolute_out(out)
    variants: tuple[str, ...] = options["variants"] or ("int4",)
    if options["variants"] and not options["monitor"]:
        raise UsageError(
            f"--variant {variants[0]} without --monitor: training measures nothing by itself; give both"
        )
    watch = None
    if options["monitor"]:
        watch = SuiteWatch(chosen, folder, variants, device=options["device"], on_alarm=_tell)
    with progress(f"pretrain {recipe}") as show:
        trained = pretrain(
            chosen,
            folder,
            device=options["device"],
            on_progress=show,
            keep_optimizer_at=options["keep_optimizer_at"] or (),
            data=_folder(options["data"]),
            keep_state_at=options["keep_state_at"] or (),
            branch_from=_folder(options["branch_from"]),
            watch=watch,
        )
    if watch is not None:
        console.print(watch.sentence)
    console.print(f"suite: {folder}" if trained else f"nothing to train, the suite is complete: {folder}")


def _tell(alarm: str) -> None:
    errors.print(alarm)


def _name(recipe: Recipe, changes: dict[str, Any]) -> str:
    """Name of the suite, with what a comparison varies: ``python-source-1m-wsd-seed1``."""
    schedule = changes.get("schedule", recipe.schedule)
    seed = changes.get("seed", recipe.seed)
    parts = [schedule] * (schedule != recipe.schedule) + [f"seed{seed}"] * (seed != recipe.seed)
    return "-".join([recipe.name, *parts])


def _folder(text: str | None) -> Path | None:
    return None if text is None else absolute_out(text)
