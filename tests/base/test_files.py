"""Sealed files notice every altered byte; atomic writes leave nothing half-written; locks die with their owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.base.errors import FolderLockedError, OutputError, ShardError
from pipeline.base.files import (
    load_json,
    parse_json,
    read_regular,
    sweep_temporaries,
    with_checksum,
    write_atomically,
)
from pipeline.base.locks import exclusive
from tests.run_files import read_checked


@pytest.fixture
def table() -> pa.Table:
    metadata = {"fingerprint": "abc", "notes": "[]"}
    return pa.table(
        {"step": [0, 1], "nll": [1.5, float("nan")], "name": ["a", None]}
    ).replace_schema_metadata(metadata)


def test_a_sealed_table_comes_back_with_its_metadata(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_bytes(with_checksum(table))
    back = read_checked(path)
    assert back.schema.metadata == table.schema.metadata
    assert back.schema.equals(table.schema)
    assert str(back.to_pydict()) == str(table.to_pydict())


def test_any_altered_byte_is_found(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    data = with_checksum(table)
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 0x10
        path.write_bytes(altered)
        with pytest.raises(ShardError):
            read_checked(path)


def test_any_truncation_is_found(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    data = with_checksum(table)
    for length in [0, 1, 8, *range(100, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ShardError):
            read_checked(path)


def test_an_arrow_file_without_a_seal_is_refused(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ShardError, match="checksum"):
        read_checked(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.arrow"
    write_atomically(path, b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match=r"a\.arrow: No space left on device"):
        write_atomically(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["a.arrow"]
    assert path.read_bytes() == b"old"


def test_a_vanished_folder_is_named_and_not_made_again(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(OutputError, match="gone"):
        write_atomically(gone / "a.arrow", b"x")
    assert not gone.exists()


def test_temporaries_match_no_arrow_glob_and_are_swept(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from pathlib import Path
        from pipeline.base import files
        files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        files.write_atomically(Path({str(tmp_path)!r}) / "a.arrow", b"x" * 1000)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.glob("*.arrow")) == []
    sweep_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_holder_is_refused_by_name_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = f"""
        import time
        from pathlib import Path
        from pipeline.base.locks import exclusive
        with exclusive(Path({str(lock)!r})):
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderLockedError, match=f"process {holder.pid} on"), exclusive(lock):
            pass
        holder.kill()
        holder.wait()
    with exclusive(lock):
        pass


def test_only_regular_files_are_read_and_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "tty").symlink_to("/dev/tty")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path / "tty", tmp_path, Path("/proc/self/maps")):
        with pytest.raises(OSError, match=r"it (is|has)|cannot"):
            read_regular(path, 2**20)


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert read_regular(path, 1000) == b"x" * 1000
    with pytest.raises(OSError, match="1,000 bytes, wanted at most 999"):
        read_regular(path, 999)
    os.truncate(path, 30 * 2**30)  # sparse: reading it would take minutes
    with pytest.raises(OSError, match="bytes, wanted at most"):
        read_regular(path, 2**20)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "nested"),
        (b"[" * 80 + b"]" * 80, "nested"),
        (b'{"a":' * 80 + b"1" + b"}" * 80, "nested"),
        (rb'{"a": ["\ud800"]}', "Unicode"),
        (rb'{"\udfff": 1}', "Unicode"),
        (b'"\xff"', "utf-8"),
        (b"{", "Expecting"),
        (b"1" * 5000, "integer"),
    ],
)
def test_json_that_no_reader_can_use_is_a_value_error(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_json_of_few_levels_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"b": [1, 2.5, null, "\\ud83d\\ude00"]}]}')
    assert load_json(path) == {"a": [{"b": [1, 2.5, None, "\U0001f600"]}]}
