"""The file system behind an address. Settings come from the environment variables that the stores' own tools read."""

from __future__ import annotations

import functools
import os
from typing import Any
from urllib.parse import urlsplit

from pipeline.base.errors import UsageError

ATTEMPTS = 3
"""Attempts that the client itself makes at one request, within a few seconds; ``objects`` retries for longer."""


def endpoint() -> str | None:
    """URL of an S3 server other than Amazon's; None for Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


@functools.cache
def file_system(scheme: str, bucket: str, server: str | None) -> Any:
    """The ``pyarrow.fs`` file system of a bucket, one per process. ``server``: :func:`endpoint`.

    Raises OSError if the bucket's region cannot be found out.
    """
    from pyarrow import fs

    if scheme == "gs":
        from datetime import timedelta

        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=10))
    options: dict[str, Any] = {}
    if server is not None:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise UsageError("AWS_ENDPOINT_URL: wanted http://HOST:PORT or https://HOST, without a password")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise UsageError(
                "AWS_ENDPOINT_URL has a path after the server's name, which the client cannot use; wanted "
                f"{parts.scheme}://{parts.netloc} alone, and the bucket in the location (s3://BUCKET/FOLDER)"
            )
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    elif not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        options["region"] = fs.resolve_s3_region(bucket)
    # Delayed open makes an object of up to 10 MiB one PUT; otherwise every object is a multi-part upload.
    return fs.S3FileSystem(
        allow_delayed_open=True,
        background_writes=False,
        connect_timeout=5,
        request_timeout=30,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **options,
    )
