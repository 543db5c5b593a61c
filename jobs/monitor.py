"""``monitor``: the verdicts that the training-time monitor would have given on an audited run."""

from __future__ import annotations

import json

import click

from jobs.console import console
from jobs.options import FiniteRange
from pipeline.base.errors import UsageError


@click.command()
@click.option(
    "--replay", "folder", required=True, metavar="DIR", help="Folder or URL of a reduced audit, or a table."
)
@click.option(
    "--variant", default="int4", show_default=True, help="Column prefix of the variant that decides."
)
@click.option(
    "--margin",
    type=FiniteRange(min=0),
    default=0.01,
    show_default=True,
    help="Worsening of the loss that counts, in nats.",
)
@click.option(
    "--rule",
    type=click.Choice(["e-detector", "cusum"]),
    default="e-detector",
    show_default=True,
    help="Test that raises the alarm: cusum is quicker, with more false alarms.",
)
@click.option(
    "--figure", metavar="FILE.png", help="Where the chart goes. Default: figures/monitor.png in a folder DIR."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every verdict.")
def command(
    folder: str, *, variant: str, margin: float, rule: str, figure: str | None, as_json: bool
) -> None:
    """Replay the verdicts of the training-time monitor, and show what other stopping rules would have cost.

    Regret is the quantized loss of what a rule ships minus the run's lowest; delay counts from that lowest checkpoint.
    """
    from pipeline.analysis.trajectory.reduction import read_table
    from pipeline.base.files import make_folder, write_atomically
    from pipeline.monitor.replay import replay
    from pipeline.report.replay_figure import replay_png
    from pipeline.runs.output import absolute_file, run_folder
    from pipeline.runs.table_files import READERS

    chart = None if figure is None else absolute_file(figure, "--figure", ".png")
    table = folder if folder.endswith(tuple(READERS)) else f"{folder.rstrip('/')}/tables/trajectory.parquet"
    if table != folder and not run_folder(folder).results.has("tables/trajectory.parquet"):
        raise UsageError(
            f"no table in {folder}: wanted the folder of an audit after `int4-collapse reduce`, or a table"
        )
    found = replay(read_table(table), variant, margin_nats=margin, rule=rule)
    image = replay_png(found)
    if chart is not None:
        make_folder(chart.parent)
        write_atomically(chart, image)
    elif table != folder:
        run_folder(folder).results.write_figure("monitor.png", image)
    if as_json:
        click.echo(json.dumps({"folder": folder, **found.to_json()}, allow_nan=False))
        return
    alarm = found.alarm_step
    said = "no alarm" if alarm is None else f"alarm at step {alarm}"
    console.print(
        f"{variant}: {said} in {len(found.verdicts)} checkpoints; the best was step {found.best_step}"
    )
    for each in found.rules:
        stop = "trains to the end" if each.stopped_at is None else f"stops at step {each.stopped_at}"
        late = "" if each.delay_steps is None else f" ({each.delay_steps:+d} steps from the best)"
        console.print(
            f"  {each.rule}: {stop}{late}, ships step {each.shipped_step}, regret {each.regret_nats:.4f} nats"
        )
