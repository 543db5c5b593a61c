"""A kind of work as a plug-in: how many weights of each checkpoint are as good as zero."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runs.kind_of_work import Reduced, TextTable, register
from pipeline.runs.per_checkpoint import CheckpointSettings, CheckpointTask, PerCheckpoint, checkpoint_kind

if TYPE_CHECKING:
    from pipeline.runs.folder import RunFolder
    from pipeline.runs.warm_state import WarmState


@dataclass(frozen=True)
class ZerosSettings(CheckpointSettings):
    at_most: float = 0.0
    """Magnitude up to which a weight counts as zero."""


@register
class Zeros(PerCheckpoint):
    """Count the weights that are as good as zero."""

    name = "zeros"
    settings = ZerosSettings
    kind = checkpoint_kind("zeros", ZerosSettings, {"n_weights": "int64", "n_zeros": "int64"})

    def measure(self, task: CheckpointTask, weights: Path, warm: WarmState) -> dict[str, int]:
        from pipeline.models.loading import read_weights  # with torch, which only a worker needs

        tensors = read_weights(weights).tensors.values()
        limit = task.settings.at_most
        zeros = sum(int((tensor.abs() <= limit).sum()) for tensor in tensors)
        return {"n_weights": sum(tensor.numel() for tensor in tensors), "n_zeros": zeros}

    def reduce(self, folder: RunFolder, *, allow_missing: bool, seed: int) -> Reduced:
        table = self.table(folder, allow_missing=allow_missing)
        folder.results.write_table("zeros.csv", table.write_csv().encode())
        rows = tuple(
            (row["revision"], f"{row['n_zeros'] / row['n_weights']:.2%}")
            for row in table.iter_rows(named=True)
        )
        text = TextTable("Weights that are as good as zero", ("checkpoint", "share"), rows, named=True)
        return Reduced(table=text, places=[f"table: {folder.place('tables/zeros.csv')}"])

    def page(self, folder: RunFolder) -> list[str]:
        from pipeline.report.run_pages import required_results

        (table,) = required_results(folder, "tables/zeros.csv")
        lines = escape(table.decode()).splitlines()
        rows = "".join(f"<tr><td>{line.replace(',', '<td>')}" for line in lines)
        folder.results.write("zeros.html", f"<!doctype html><title>Zeros</title><table>{rows}</table>")
        return [f"report: {folder.place('zeros.html')}"]
