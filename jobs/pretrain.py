"""``pretrain``: train a suite with Pythia's checkpoint spacing."""

from __future__ import annotations

import dataclasses

import click

from jobs.console import console, progress
from jobs.options import absolute_out, out_option, parse_steps


@click.command()
@click.argument("recipe")
@out_option
@click.option("--corpus", help="Training text (same forms as elsewhere). Default: the recipe's.")
@click.option("--schedule", help="Learning-rate schedule. Default: the recipe's.")
@click.option("--steps", type=int, help="Optimizer steps.")
@click.option("--width", type=int, help="Hidden size.")
@click.option("--depth", "layers", type=int, help="Transformer blocks.")
@click.option("--heads", type=int, help="Attention heads.")
@click.option("--peak-lr", type=float, help="Highest learning rate.")
@click.option("--min-lr", type=float, help="Learning rate that the schedule does not fall below.")
@click.option("--warmup-steps", type=int, help="Steps of linear warm-up.")
@click.option("--checkpoint-every", type=int, help="Spacing of the checkpoints after step 512.")
@click.option("--seed", type=int, help="Of the initial weights and the data order.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--keep-optimizer-at",
    metavar="STEP,...",
    help="Checkpoints that keep Adam's moments, for `fork` to start from.",
)
@click.option(
    "--data",
    metavar="FOLDER",
    help="Where the tokenized corpus is kept for other suites of the same text. Default: not kept.",
)
def command(
    recipe: str, out: str, device: str, keep_optimizer_at: str | None, data: str | None, **overrides: object
) -> None:
    """Train the suite RECIPE into DIR. Run it again to resume; options change the recipe's settings."""
    from pipeline.train import find_recipe, pretrain

    changes = {name: value for name, value in overrides.items() if value is not None}
    chosen = dataclasses.replace(find_recipe(recipe), **changes)  # type: ignore[arg-type]
    folder = absolute_out(out)
    keep = parse_steps(keep_optimizer_at, option="--keep-optimizer-at") or ()
    with progress(f"pretrain {recipe}") as show:
        pretrain(
            chosen,
            folder,
            device=device,
            on_progress=show,
            keep_optimizer_at=keep,
            data=None if data is None else absolute_out(data),
        )
    console.print(f"suite: {folder}", markup=False)
