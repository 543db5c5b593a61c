"""Parse the output folder that a user typed."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.runs.folder import RunFolder
from pipeline.runs.shard_schema import AUDIT, Kind
from pipeline.store import is_url

SUBMITTED_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the environment of a job's entry point."""


def run_folder(text: str | Path, kind: Kind = AUDIT) -> RunFolder:
    """The output folder at a path or URL; raises UsageError for a malformed one."""
    return RunFolder(text if is_url(str(text)) else absolute_out(str(text)), kind)


def absolute_out(text: str, option: str = "--out") -> Path:
    """The folder of ``option`` as an absolute path; raises UsageError for a URL, which only output folders may be."""
    return _absolute(text, option, file=False)


def absolute_file(text: str, option: str, ending: str) -> Path:
    """The file that ``option`` names, to be written, as an absolute path.

    Raises UsageError for a name without ``ending``, for a folder or URL, and where a file is in the way of its folder.
    """
    if not text.endswith(ending):
        raise UsageError(f"{option} {text}: wanted a name that ends in {ending}")
    return _absolute(text, option, file=True)


def _absolute(text: str, option: str, *, file: bool) -> Path:
    kind, other = ("file", "folder") if file else ("folder", "file")
    if is_url(text):
        raise UsageError(
            f"{option} {text}: this has to be a {kind} of this machine; wanted a path, not a URL"
        )
    try:
        path = Path(text).expanduser()
        usable = bool(text) and (not path.exists() or path.is_dir() != file)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{kind} {text!r} cannot be used: {error}") from error
    if not usable:
        given = f"{text!r} is a {other}" if text else f"{option} '' is empty"
        raise UsageError(f"{given}: wanted a {kind}, or a name for a new one")
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir():
        raise UsageError(f"{option} {text}: {above} is a file; wanted a {kind}, or a name for a new one")
    if SUBMITTED_JOB in os.environ and not path.is_absolute():
        raise UsageError(
            f"{option} {text}: this is a submitted job, whose working directory is a temporary copy; "
            "wanted an absolute path on storage that every node shares, or a URL such as s3://BUCKET/FOLDER"
        )
    return path.absolute()
