"""Download one file of a commit: resume an earlier attempt, check every byte.

The hub client's own download restarts every file from zero and gives up at the first 5xx answer to a weight file;
over hundreds of gigabytes both matter. Here the bytes go to ``NAME.part``, which survives a killed process and is
continued with a range request. The file gets its name only when its hash is the listed one, so a file that has its
name is whole. Requests go through the hub client's session: its endpoint, token, proxies and offline switch hold.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from pipeline.base.errors import CheckpointError, OutputError
from pipeline.base.retry import RetryPolicy
from pipeline.suites.hub.hub_requests import HUB_RETRIES, passing, reason, retry_after_s
from pipeline.suites.hub.listing import HubFile

CHUNK_BYTES = 2**20
WRONG_HASHES = 2
"""How often a complete file with a wrong hash is discarded before the download fails."""


class _DamagedError(Exception):
    """The complete file differs from the listed one."""


class _CutShortError(ConnectionError):
    """The response body ended early."""


def download_file(
    repository: str, commit: str, file: HubFile, folder: Path, retries: RetryPolicy = HUB_RETRIES
) -> Path:
    """Make ``folder/file.name`` with exactly the listed bytes; sends no request if it exists.

    Raises CheckpointError if the hub does not deliver the listed bytes, OutputError if the disk cannot be written.
    Two callers must not fetch the same file at once.
    """
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.is_file() and path.stat().st_size == file.size:
        return path
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repository, file.name, revision=commit)
    failures = damaged = 0
    while True:
        before = _size(part)
        try:
            _continue(url, file, part)
            part.rename(path)
            return path
        except _DamagedError as error:
            part.unlink(missing_ok=True)
            damaged += 1
            if damaged >= WRONG_HASHES:
                raise CheckpointError(f"{file.name} {error}") from None
        except OSError as error:
            if _of_the_disk(error):
                raise OutputError(
                    f"cannot write {part}: {error.strerror}; give less to --cache-gb, or set HF_HOME elsewhere"
                ) from error
            failures = _wait(error, file, failures, retries, progressed=_size(part) > before)
        except Exception as error:  # noqa: BLE001 (the client library's own errors, classified by what they are)
            failures = _wait(error, file, failures, retries, progressed=_size(part) > before)


def _wait(error: Exception, file: HubFile, failures: int, retries: RetryPolicy, *, progressed: bool) -> int:
    """Wait before the next attempt and return the failures in a row; raises CheckpointError if no attempt is left."""
    failures = 1 if progressed else failures + 1
    if not passing(error):
        raise CheckpointError(f"{file.name} cannot be fetched: {reason(error)}") from error
    if retries.tries is not None and failures >= retries.tries:
        raise CheckpointError(
            f"{file.name} cannot be fetched: {reason(error)}, {failures} times in a row"
        ) from error
    asked_s = retry_after_s(error)
    time.sleep(retries.wait_s(failures) if asked_s is None else asked_s)
    return failures


def _continue(url: str, file: HubFile, part: Path) -> None:
    """Append the missing bytes to ``part`` and check the whole file."""
    digest = _Digest(file)
    if _size(part) > file.size:
        part.unlink()
    part.touch()
    with part.open("r+b") as opened:
        while known := opened.read(CHUNK_BYTES):
            digest.update(known)
        start = opened.tell()
        if start < file.size:
            _receive(url, file, start, opened, digest)
    wrong = digest.wrong()
    if wrong:
        raise _DamagedError(wrong)


def _receive(url: str, file: HubFile, start: int, opened: Any, digest: _Digest) -> None:
    from huggingface_hub import constants, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream(
        "GET", url, headers=headers, timeout=timeout, follow_redirects=True
    ) as response:
        if response.status_code == 416:
            raise _DamagedError(f"ends after {start} bytes; the hub lists {file.size}")
        if response.status_code >= 400:
            response.read()
            hf_raise_for_status(response)
        if start and response.status_code != 206:  # the server sends the whole file: start again
            opened.seek(0)
            opened.truncate()
            digest.restart()
        for chunk in response.iter_bytes(CHUNK_BYTES):
            opened.write(chunk)
            digest.update(chunk)
    if opened.tell() < file.size:
        raise _CutShortError(f"{opened.tell()} of {file.size} bytes")


class _Digest:
    """Running hash of a file, in the form that the hub lists."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self.restart()

    def restart(self) -> None:
        self._size = 0
        if self._file.sha256 is not None:
            self._hash = hashlib.sha256()
        else:  # git's blob id of a file that is not in LFS
            self._hash = hashlib.sha1(f"blob {self._file.size}\0".encode(), usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._size += len(data)
        self._hash.update(data)

    def wrong(self) -> str | None:
        """The difference from the listing; None if there is none."""
        if self._size != self._file.size:
            return f"has {self._size} bytes; the hub lists {self._file.size}"
        found, listed = self._hash.hexdigest(), self._file.identity
        if found == listed:
            return None
        return f"was sent with hash {found[:12]}...; the hub lists {listed[:12]}...: it is damaged or was replaced"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _of_the_disk(error: OSError) -> bool:
    return error.errno is not None and not isinstance(error, ConnectionError | TimeoutError)
