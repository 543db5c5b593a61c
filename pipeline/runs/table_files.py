"""Read users' tables of losses: csv, parquet and arrow files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.base.errors import UsageError
from pipeline.base.paths import nearest
from pipeline.store import is_url, open_store

TABLE_BYTES = 2**32
"""Largest table that is read, bytes."""
IPC_FILE = b"ARROW1"
"""The first bytes of Arrow's file format; its stream format, which Datasets writes, has none."""


def _csv(data: bytes) -> pl.DataFrame:
    """Read a csv file and infer each column's type from every row: a rate may be whole for a thousand rows, a loss
    NA at the last. A blank line is no row.
    """
    frame = pl.read_csv(data, infer_schema_length=None)
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


def _csv_header(data: bytes) -> list[str]:
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", errors="replace", newline="")
    return next(csv.reader(text), [])


def _ipc(data: bytes) -> pl.DataFrame:
    return pl.read_ipc(data) if data.startswith(IPC_FILE) else pl.read_ipc_stream(data)


def _ipc_header(data: bytes) -> list[str]:
    opened = pa.ipc.open_file if data.startswith(IPC_FILE) else pa.ipc.open_stream
    return list(opened(pa.BufferReader(data)).schema.names)


def _parquet_header(data: bytes) -> list[str]:
    return list(pq.read_schema(pa.BufferReader(data)).names)


READERS: dict[str, tuple[Callable[[bytes], list[str]], Callable[[bytes], pl.DataFrame]]] = {
    ".csv": (_csv_header, _csv),
    ".parquet": (_parquet_header, pl.read_parquet),
    ".arrow": (_ipc_header, _ipc),
    ".feather": (_ipc_header, _ipc),
}
"""Ending of a file name -> how its column names and its contents are read."""


def read_frame(table: str) -> pl.DataFrame:
    """The contents of one file, at a local path or a URL of a store.

    Raises UsageError for a missing or unreadable file, another suffix, or a repeated column.
    """
    suffix = PurePosixPath(table).suffix
    wanted = f"wanted a table ending in {', '.join(READERS)}"
    if suffix not in READERS:
        raise UsageError(f"{table}: {wanted}")
    folder, _, name = table.rpartition("/")
    data = open_store(folder or ("/" if table.startswith("/") else ".")).read(name, TABLE_BYTES)
    if data is None:
        near = "" if is_url(table) else nearest(Path(table), lambda each: each.suffix in READERS)
        raise UsageError(f"{table} does not exist: {wanted}{near}")
    header, read = READERS[suffix]
    try:
        names = header(data)
        twice = [column for column, n in Counter(names).items() if n > 1]
        if twice:
            raise UsageError(
                f"{table} holds the column {twice[0]} more than once: give each a name of its own"
            )
        if len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), None)):
            raise UsageError(f"{table} separates its columns with {other!r}: wanted commas")
        return read(data)
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise UsageError(f"{table} cannot be read as {suffix}: {str(error).splitlines()[0]}") from error
