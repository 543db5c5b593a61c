"""The options of an audit as plain values, before anything is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.suites import Suite


@dataclass(frozen=True)
class AuditOptions:
    """What a user may say of an audit; None = the default that the field or the README states."""

    suite: str | Suite
    """A name, a hub repository or a folder (then opened, or trained at first use), or a suite that is open."""
    out: str
    """Folder or URL that receives the shards."""
    steps: tuple[int, ...] | None = None
    """Only these."""
    limit: int | None = None
    corpus: str | None = None
    variants: tuple[str, ...] = ()
    measurements: tuple[str, ...] = ()
    """Names of further ones, beside those that are always taken."""
    batches: int | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    address: str | None = None
    device: str = "auto"
    workers: int | None = None
    workers_per_gpu: int = 1
    gpus_per_worker: float | None = None
    task_timeout_s: float | None = None
    replace_stale: bool = False
    arithmetic: str = "auto"
    revisions: str | None = None
    cache_gb: float | None = None
    stream: bool = False
