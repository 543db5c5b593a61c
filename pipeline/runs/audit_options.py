"""The options of an audit as plain values, before anything is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.measurements import registered
from pipeline.quantize.lookup import grammar
from pipeline.spec import CALIBRATION, DEFAULT_VARIANTS, MEASUREMENTS

if TYPE_CHECKING:
    from pipeline.suites import Suite


@dataclass(frozen=True)
class AuditOptions:
    """The options of an audit; None = the default that the field or ``int4-collapse audit --help`` states."""

    suite: str | Suite
    """A name, a hub repository or a folder, which is opened or trained at first use; or an open suite."""
    out: str
    """Folder or URL that receives the shards."""
    steps: tuple[int, ...] | None = None
    """Steps to measure; None = all."""
    limit: int | None = None
    corpus: str | None = None
    variants: tuple[str, ...] = ()
    measurements: tuple[str, ...] = ()
    """Names of further measurements, beside those that every probe makes."""
    mechanism: tuple[str, ...] = ()
    """Variants whose controls are evaluated too, ``all`` of them, and ``layers`` for those of each layer alone."""
    flatness: tuple[int, ...] = ()
    """Steps of the checkpoints whose Hessian is measured (``pipeline.measurements.flatness``)."""
    swap: tuple[int, ...] = ()
    """Two steps whose rounding errors are swapped (``pipeline.quantize.swapped_error``)."""
    batches: int | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    address: str | None = None
    device: str = "auto"
    workers: int | None = None
    workers_per_gpu: int = 1
    gpus_per_worker: float | None = None
    task_timeout_s: float | None = None
    calibration: str | None = None
    """Calibration text: a corpus, or ``self``; None = the suite's training text, else ``self``."""
    calibration_sequences: int = 128
    """Sequences of ``seq_len`` calibration tokens."""
    replace_stale: bool = False
    arithmetic: str = "auto"
    revisions: str | None = None
    cache_gb: float | None = None
    stream: bool = False


def variant_help() -> str:
    """The help text of ``--variant``: the grammar of the registered quantizers."""
    return f"{grammar()}; repeatable. Default: {' '.join(DEFAULT_VARIANTS)}."


def measure_help() -> str:
    """The help text of ``--measure``: what can be asked for, and what is measured anyway."""
    always = {*MEASUREMENTS, CALIBRATION}
    names = ", ".join(each.name for each in registered() if each.name not in always)
    return f"A further measurement: {names}; repeatable. Always measured: {', '.join(MEASUREMENTS)}."
