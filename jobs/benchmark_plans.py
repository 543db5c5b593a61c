"""What ``benchmark`` says without measuring a checkpoint: the driver's overhead, and what an audit would cost."""

from __future__ import annotations

import json

from rich.table import Table

from jobs.console import console, duration

SIMULATED_WORKERS = 256


def show_driver(tasks: int, *, as_json: bool) -> None:
    """Drives ``tasks`` tasks that do nothing and prints what each cost the driver."""
    from pipeline.driver.simulation import simulate

    done = simulate(tasks, SIMULATED_WORKERS)
    if as_json:
        console.print(json.dumps({**vars(done), "ms_per_task": done.ms_per_task}), markup=False)
        return
    console.print(
        f"driver: {done.tasks:,} tasks on {done.workers} simulated workers: {done.ms_per_task:.2f} ms per task; keeps "
        f"{done.busy_workers(0.3):,.0f} GPUs busy at 0.3 s per checkpoint",
        markup=False,
    )


def show_cost(price: float, gigabytes_per_s: float | None, *, as_json: bool) -> None:
    """Prints time and money of well-known trajectories on several numbers of GPUs."""
    from pipeline.benchmark.scaling import GPUS, table

    rows = table(None if gigabytes_per_s is None else gigabytes_per_s * 1e9)
    if as_json:
        costs = {name: {n: vars(each) for n, each in zip(GPUS, row, strict=True)} for name, row in rows}
        console.print(json.dumps(costs), markup=False)
        return
    reading = "read as fast as measured" if gigabytes_per_s is None else f"{gigabytes_per_s:g} GB/s per GPU"
    shown = Table(title=f"at {price:g} per GPU hour, {reading}", title_justify="left")
    for head in ("audit", *(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS)):
        shown.add_column(head)
    for name, row in rows:
        shown.add_row(name, *(f"{duration(each.wall_s)}, {each.money(price):.2f}" for each in row))
    console.print(shown)
