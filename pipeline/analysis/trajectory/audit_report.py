"""The contents of report.json: everything that the reduction of an audit found, for pages, commands and sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.analysis.trajectory.mechanism.mechanism_report import Mechanism
from pipeline.analysis.trajectory.mechanism.swapping import Swap
from pipeline.analysis.trajectory.method_repair import AffectedMatrices, MethodRepair
from pipeline.analysis.trajectory.shipping import ShippingDecision
from pipeline.analysis.trajectory.square_law import SquareLaw
from pipeline.analysis.trajectory.summary import Summary
from pipeline.base.typed_json import INLINE, UNLESS_NONE


@dataclass(frozen=True)
class CalibrationText:
    """The text that calibrated variants were made with."""

    text: str
    """Its name, as ``--calibration`` takes it."""
    tokens_sha256: str


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The contents of report.json. A field with a default may be absent from a report of an earlier release."""

    suite: str
    n_checkpoints: int | None = None
    variants: dict[str, str] = field(default_factory=dict)
    """Column prefix -> name of the variant."""
    summary: Summary = field(default=Summary(), metadata=INLINE)
    decision: ShippingDecision | None = None
    """None where only fp32 was measured."""
    mechanism: Mechanism | None = None
    """None where no variant has controls."""
    swap: tuple[Swap, ...] | None = field(default=None, metadata=UNLESS_NONE)
    """By variant; None where nothing was swapped."""
    methods: tuple[MethodRepair, ...] = ()
    calibration_problems: tuple[AffectedMatrices, ...] = ()
    square_law: SquareLaw | None = None
    duplicates: dict[str, str] = field(default_factory=dict)
    """Key of a checkpoint -> key of the earlier one with the same weights."""
    failures: dict[str, str] = field(default_factory=dict)
    """Key -> reason."""
    missing: tuple[str, ...] = ()
    """Keys that have no shard."""
    skipped: tuple[str, ...] = ()
    """Folders of the suite that hold no checkpoint."""
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Key -> notes of its measurement."""
    corpus: str
    calibration: CalibrationText | None = None
    """None where no variant is calibrated."""
    config: dict[str, Any]
    """Settings of the measurement, as resolved."""
    fingerprint: str
    wall_s: float
    idle_share: float | None = None
    versions: dict[str, str]
    """Packages that measured."""
    reduced_with: dict[str, str] = field(default_factory=dict)

    def missing_sentence(self) -> str:
        """What is not in the report because it has no shard; empty if all is there."""
        if not self.missing:
            return ""
        named = ", ".join(self.missing[:8]) + (", ..." if len(self.missing) > 8 else "")
        plural = "checkpoint is" if len(self.missing) == 1 else "checkpoints are"
        return f"Incomplete: {len(self.missing)} expected {plural} missing from this report ({named})."
