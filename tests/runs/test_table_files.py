"""Files of losses that users bring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.analysis.trajectory.reduction import read_table
from pipeline.base.errors import UsageError

N = 154
STEP = np.arange(N) * 100
FP32 = 2 + 1.5 * np.exp(-np.arange(N) / 20)


def rows(path: Path, **cells: list[str]) -> Path:
    """A csv file with the usual columns, some of them given as text."""
    columns = {"step": [str(s) for s in STEP], "fp32_nll_nats": [f"{v:.5f}" for v in FP32]}
    columns |= {"int4_nll_nats": [f"{v + 0.02:.5f}" for v in FP32], "learning_rate": ["0.1"] * N, **cells}
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_kind_of_a_column_may_show_in_its_last_rows(tmp_path: Path) -> None:
    rate = ["1" if i < 120 else f"{1 - (i - 119) / 40:.4f}" for i in range(N)]
    step = [f"{s}{'.0' if i >= 120 else ''}" for i, s in enumerate(STEP)]
    curve = read_table(str(rows(tmp_path / "t.csv", learning_rate=rate, step=step)))
    assert curve.learning_rate is not None
    assert curve.learning_rate[-1] == pytest.approx(1 - 34 / 40)
    assert curve.step.tolist() == STEP.tolist()


@pytest.mark.parametrize("word", ["NA", "null", "nan", ""])
@pytest.mark.parametrize("row", [2, 151])
def test_an_empty_cell_is_one_wherever_it_stands(tmp_path: Path, word: str, row: int) -> None:
    loss = [word if i == row else f"{v + 0.02:.5f}" for i, v in enumerate(FP32)]
    gap = read_table(str(rows(tmp_path / "t.csv", int4_nll_nats=loss))).gap("int4")
    assert np.flatnonzero(np.isnan(gap)).tolist() == [row]


def test_a_blank_line_is_no_row(tmp_path: Path) -> None:
    path = rows(tmp_path / "t.csv")
    lines = path.read_text().splitlines()
    path.write_text("\r\n".join([*lines[:5], "", *lines[5:], "", ""]))
    assert read_table(str(path)).step.tolist() == STEP.tolist()


def test_arrow_may_be_a_file_or_a_stream(tmp_path: Path) -> None:
    table = pa.table({"step": STEP, "fp32_nll_nats": FP32, "int4_nll_nats": FP32 + 0.02})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert read_table(str(tmp_path / "t.arrow")).gap("int4") == pytest.approx(np.exp(0.02) - 1)


def test_a_missing_table_is_named_with_the_nearest_ones(tmp_path: Path) -> None:
    path = rows(tmp_path / "losses.csv")
    with pytest.raises(UsageError, match=rf"does not exist.*did you mean {path}\?"):
        read_table(str(tmp_path / "loses.csv"))


def arrow_twice(path: Path, *, parquet: bool) -> Path:
    names = ["step", "fp32_nll_nats", "int4_nll_nats", "int4_nll_nats"]
    table = pa.Table.from_arrays([pa.array(STEP), *[pa.array(FP32)] * 3], names=names)
    if parquet:
        pq.write_table(table, path)
        return path
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def test_a_column_given_twice_is_refused_by_name_in_every_format(tmp_path: Path) -> None:
    text = "step,fp32_nll_nats,int4_nll_nats,int4_nll_nats\n" + "".join(f"{s},2,2.1,2.9\n" for s in STEP)
    (tmp_path / "t.csv").write_text(text)
    for path in (
        tmp_path / "t.csv",
        arrow_twice(tmp_path / "t.arrow", parquet=False),
        arrow_twice(tmp_path / "t.parquet", parquet=True),
    ):
        with pytest.raises(UsageError, match="int4_nll_nats more than once"):
            read_table(str(path))


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.csv"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=name):
        read_table(str(tmp_path / name))


def test_losses_per_batch_and_duplicates_are_read(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "step": STEP,
            "fp32_nll_nats": FP32,
            "int4_nll_nats": FP32 + 0.02,
            "fp32_batch_nll_nats": [[v - 0.1, v + 0.1] for v in FP32],
            "int4_batch_nll_nats": [[v - 0.1, v + 0.14] for v in FP32],
            "duplicate_of": [None] * (N - 1) + ["step100"],
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    curve = read_table(str(tmp_path / "t.parquet"))
    assert curve.variants == ("int4",)
    assert curve.fp32_batch_nll_nats is not None
    assert curve.fp32_batch_nll_nats.shape == curve.variant_batch_nll_nats["int4"].shape == (N, 2)
    assert curve.first_of_its_content.tolist() == [True] * (N - 1) + [False]
    unequal = frame.with_columns(int4_batch_nll_nats=pl.Series([[1.0, 2.0]] * (N - 1) + [[1.0]]))
    unequal.write_parquet(tmp_path / "u.parquet")
    with pytest.raises(UsageError, match="lists of 1 to 2 losses"):
        read_table(str(tmp_path / "u.parquet"))
    frame.with_columns(int4_batch_nll_nats=pl.col("int4_nll_nats")).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(UsageError, match="wanted a list"):
        read_table(str(tmp_path / "v.parquet"))


@pytest.mark.parametrize("mark", [";", "\t"])
def test_another_separator_than_a_comma_is_named(tmp_path: Path, mark: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(mark.join(["step", "fp32_nll_nats", "int4_nll_nats"]) + "\n" + mark.join("123") + "\n")
    with pytest.raises(UsageError, match="commas"):
        read_table(str(table))
