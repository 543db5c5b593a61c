"""Result files of a reduction: tables, figures, report.json and pages."""

from __future__ import annotations

from typing import TypeVar

from pipeline.base.errors import UnreadableError, UsageError
from pipeline.base.files import JSON_BYTES
from pipeline.runs.json_record import json_record
from pipeline.store import Store

T = TypeVar("T")

TABLES, FIGURES = "tables", "figures"
REPORT, SCHEDULES = "report.json", "tables/schedules.json"
RESULT_BYTES = 2**32
"""Largest table or page that is read, bytes."""


class ResultFiles:
    """The results of an output folder, shared by its kinds of work."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write_table(self, name: str, data: bytes) -> None:
        """Writes ``data`` at ``tables/name``."""
        self._write(f"{TABLES}/{name}", data)

    def write_figure(self, name: str, data: bytes) -> None:
        """Writes ``data`` at ``figures/name``."""
        self._write(f"{FIGURES}/{name}", data)

    def write(self, name: str, text: str) -> None:
        """Writes ``report.json``, ``tables/schedules.json`` or an HTML page."""
        self._write(name, text.encode())

    def read(self, name: str) -> bytes | None:
        """Contents of a result such as ``report.json`` or ``tables/trajectory.parquet``; None if it does not exist."""
        return self._store.read(name, RESULT_BYTES)

    def read_as(self, kind: type[T], name: str) -> T | None:
        """``report.json`` or ``tables/schedules.json`` as the dataclass ``kind``; None if the file does not exist.

        Raises UsageError, which names the field, if the file holds something else.
        """
        try:
            data = self._store.read(name, JSON_BYTES)
        except UnreadableError as error:
            raise UsageError(str(error)) from error
        if data is None:
            return None
        return json_record(kind, self._store.place(name), data, f"reduce {self._store.place('')}")

    def has(self, name: str) -> bool:
        return self._store.exists(name)

    def _write(self, name: str, data: bytes) -> None:
        self._store.make_folder(name.rpartition("/")[0])
        self._store.write(name, data)
