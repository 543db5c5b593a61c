"""Locations as people write them: a path, or ``file://``, ``s3://`` and ``gs://`` URLs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.base.errors import UsageError

SCHEMES = ("file", "s3", "gs")


@dataclass(frozen=True)
class Address:
    """A prefix in a bucket."""

    scheme: str
    """``s3`` or ``gs``."""
    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the bucket itself."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key()}"

    def key(self, name: str = "") -> str:
        """``bucket/prefix/name``, the form that pyarrow's file systems take."""
        return "/".join(part for part in (self.bucket, self.prefix, name) if part)


def is_url(text: str) -> bool:
    """Whether ``text`` is a URL and therefore never a path."""
    return "://" in text


def parse_location(text: str) -> Path | Address:
    """Parse a location; raises UsageError for a URL of another kind or with credentials in it.

    >>> parse_location("file:///data/my%20run")
    PosixPath('/data/my run')
    >>> parse_location("s3://bucket/runs/pythia/")
    Address(scheme='s3', bucket='bucket', prefix='runs/pythia')
    """
    if not is_url(text):
        return Path(text)
    scheme = text.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise UsageError(
            f"unknown kind of location {scheme}://: wanted a folder, or a URL that starts with "
            + ", ".join(f"{each}://" for each in SCHEMES)
        )
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query or parts.fragment:  # not repeated: it may be a password
        raise UsageError(
            f"a {scheme}:// location takes no user, password, ?settings or #: wanted {scheme}://BUCKET/FOLDER, with "
            "credentials in the environment (AWS_ACCESS_KEY_ID ..., AWS_ENDPOINT_URL), in ~/.aws, or a role"
        )
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UsageError(f"{text}: wanted file:///ABSOLUTE/PATH")
        return Path(unquote(parts.path))
    prefix = "/".join(part for part in parts.path.split("/") if part)
    if not parts.netloc or ".." in prefix.split("/"):
        raise UsageError(f"{text}: wanted {scheme}://BUCKET/FOLDER")
    return Address(scheme, parts.netloc, prefix)
