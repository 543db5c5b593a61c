"""``phases``: convergence and onset of any table of losses."""

from __future__ import annotations

import json
from typing import Any

import click

from jobs.console import console
from jobs.options import decision_options, seed_option
from pipeline.base.typed_json import to_json


@click.command()
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True)
@click.option("--variant", default="int4", show_default=True, help="Column prefix of the variant to analyse.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per table and line, keys as in report.json."
)
@seed_option
@decision_options
def command(tables: tuple[str, ...], *, variant: str, as_json: bool, seed: int, **decision: Any) -> None:
    """Find convergence, onset and the checkpoint to ship in csv, parquet or arrow tables.

    A table has the columns step, fp32_nll_nats, <variant>_nll_nats and, optionally, learning_rate, duplicate_of (not
    empty: the weights of an earlier row), tokens_seen, and lists of losses per evaluation batch, fp32_batch_nll_nats
    and <variant>_batch_nll_nats, with which the intervals count the evaluation text too and a checkpoint can be chosen.
    """
    from pipeline.analysis.decision import DEFAULTS
    from pipeline.analysis.statistics.curve_tables import curve_from_frame
    from pipeline.analysis.trajectory.shipping import decisions_of, shipping_decision
    from pipeline.analysis.trajectory.summary import summarise
    from pipeline.runs.table_files import read_frame

    settings = DEFAULTS.changed(**decision)
    frames = [(table, read_frame(table)) for table in tables]
    curves = [curve_from_frame(frame, name=table) for table, frame in frames]
    for (table, frame), curve in zip(frames, curves, strict=True):
        summary = summarise(curve, variant=variant, seed=seed)
        found = decisions_of(frame, settings, variants=curve.variants, seed=seed)
        decided = shipping_decision(found, variant, seed)
        if as_json:
            said = {"table": table, "n_checkpoints": len(curve.step)} | to_json(summary)
            click.echo(json.dumps(said | {"decision": to_json(decided)}, allow_nan=False))
            continue
        console.print(table, style="bold")
        for sentence in (*(() if decided is None else (decided.headline.sentence,)), *summary.verdict):
            console.print(f"  {sentence}")
