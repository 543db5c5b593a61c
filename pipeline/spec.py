"""The specification of a measurement: frozen values with checks and a fingerprint.

``Variant`` names a way of quantizing a model (``pipeline.quantize``), ``ProbeSpec`` names everything that can change a
measured number, and ``Checkpoint`` names one set of weights of a trajectory.
Nothing here reads a file, touches a device or knows about Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.fingerprints import (
    ALWAYS,
    OPTIONAL,
    WANTED,
    fingerprint,
    pinned,
    plain_json,
)
from pipeline.quantize.controls import DEFAULT_CONTROLS, ControlSettings
from pipeline.quantize.variant import (
    ALIASES,
    DEFAULT_VARIANTS,
    Variant,
    column_of,
    parse_variants,
    variant_label,
)

__all__ = [
    "ALIASES", "ARITHMETICS", "CALIBRATION", "DEFAULT_VARIANTS", "FLATNESS", "MEASUREMENTS", "PROBE_VERSION",
    "Checkpoint", "ProbeSpec", "TokenShape", "Variant", "column_of", "measured_at", "swappable",
    "swapped_with", "parse_variants", "variant_label",
]  # fmt: skip

PROBE_VERSION = 1
"""Increased by hand whenever the probe's arithmetic or definitions change, so that old shards become stale."""

MEASUREMENTS = ("loss", "divergence", "agreement", "moments", "grid_fit")
"""Names of the measurements that every probe makes (``pipeline.measurements``); others are optional."""

FLATNESS = "flatness"
"""The measurement of curvature, which takes so long that it is asked for at some steps only."""

CALIBRATION = "calibration"
"""The measurement that every probe of a calibrated variant takes too: what calibrating each matrix gave."""

ARITHMETICS = ("ieee", "split", "tf32")
"""How a probe may compute products (``ProbeSpec.arithmetic``)."""


@dataclass(frozen=True)
class TokenShape:
    """Shape of the evaluation tokens."""

    batches: int = 32
    """Number of batches; gaps are paired per batch, so this is the n of their standard error."""
    batch_size: int = 4
    """Sequences per batch."""
    seq_len: int = 512
    """Tokens per sequence; ``seq_len - 1`` are predicted."""

    def __post_init__(self) -> None:
        for name, least in (("batches", 1), ("batch_size", 1), ("seq_len", 2)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)}: wanted at least {least}")

    @property
    def n_tokens(self) -> int:
        return self.batches * self.batch_size * self.seq_len


@dataclass(frozen=True)
class ProbeSpec:
    """The wanted variants and measurements, and everything that can change their numbers."""

    variants: tuple[Variant, ...] = field(metadata=WANTED)
    """Variants to measure; fp32 is the first."""
    shape: TokenShape
    """Shape of the evaluation tokens."""
    tokens_sha256: str
    """Content hash of the evaluation tokens."""
    vocab_rows: int | None = None
    """Rows of the output head that stand for tokens; padding rows beyond count in no weight statistic. None: all."""
    arithmetic: str = "ieee"
    """How products are computed. ``ieee``: float32 throughout. ``split``: on tensor cores, every float32 operand as two
    float16 halves, as accurate as ieee. ``tf32``: on tensor cores with operands of 11 bits, for comparison only."""
    version: int = field(default=PROBE_VERSION, metadata=ALWAYS)
    """Version of the probe's definitions."""
    measurements: tuple[str, ...] = field(default=MEASUREMENTS, metadata=WANTED)
    """Names (``pipeline.measurements``), those that are always measured first; ``CALIBRATION`` is added where a variant
    is calibrated."""
    mechanism: tuple[Variant, ...] = field(default=(), metadata=WANTED)
    """The quantized variants whose controls are evaluated too (``pipeline.quantize.controls``), and with them those of
    fp32."""
    by_layer: bool = field(default=False, metadata=WANTED)
    """Whether the controls of each layer alone are among them."""
    controls: ControlSettings = DEFAULT_CONTROLS
    """Which controls there are."""
    flatness: tuple[int, ...] = field(default=(), metadata=WANTED)
    """Steps of the checkpoints that the measurement ``FLATNESS`` is taken of, beside those of all."""
    swap: tuple[int, ...] = field(default=(), metadata=WANTED)
    """The two steps between which rounding errors are swapped; of one checkpoint, the step whose errors it gets."""
    swapped: tuple[Variant, ...] = field(default=(), metadata=WANTED)
    """The variants whose errors this checkpoint gets (``quantize.swapped_error``)."""
    calibration_sha256: str | None = field(default=None, metadata=OPTIONAL)
    """Content hash of the calibration tokens; None where no variant is calibrated."""

    def __post_init__(self) -> None:
        if any(variant.is_fp32 for variant in self.mechanism) or (self.by_layer and not self.mechanism):
            raise UsageError("the mechanism of fp32: wanted quantized variants, whose damage has one")
        if not self.variants or not self.variants[0].is_fp32:
            raise UsageError("a probe needs fp32 as its first variant: every gap is measured against it")
        if self.arithmetic not in ARITHMETICS:
            raise UsageError(f"unknown arithmetic {self.arithmetic!r}: wanted {', '.join(ARITHMETICS)}")
        if len(set(self.variants)) != len(self.variants):
            raise UsageError(f"variants repeat: {', '.join(map(str, self.variants))}")
        by_column: dict[str, Variant] = {}
        for variant in self.variants:
            other = by_column.setdefault(variant.column, variant)
            if other != variant:
                raise UsageError(
                    f"variants {other} and {variant} would share the column name {variant.column}"
                )
        if self.measurements[: len(MEASUREMENTS)] != MEASUREMENTS:
            raise UsageError(f"measurements {self.measurements}: wanted {', '.join(MEASUREMENTS)} first")
        if any(variant.needs for variant in self.variants) and CALIBRATION not in self.measurements:
            object.__setattr__(self, "measurements", (*self.measurements, CALIBRATION))

    @property
    def is_calibrated(self) -> bool:
        """Whether a variant needs calibration tokens."""
        return any(variant.needs for variant in (*self.variants, *self.mechanism))

    def at(self, steps: Collection[int]) -> ProbeSpec:
        """The spec for a checkpoint with the weights of ``steps``."""
        measurements = measured_at(self.measurements, self.flatness, steps)
        swap = swapped_with(self.swap, steps)
        variants = swappable(self.variants) if swap else ()
        return dataclasses.replace(self, measurements=measurements, flatness=(), swap=swap, swapped=variants)

    def config(self) -> dict[str, Any]:
        """The resolved settings as plain JSON values."""
        plain: dict[str, Any] = plain_json(self)
        for name in ("variants", "mechanism", "swapped"):
            plain[name] = [str(variant) for variant in getattr(self, name)]
        return plain

    def fingerprint(self) -> str:
        """sha256 (hex) of the settings that can change a number and are not at their default; equal if shards are
        comparable.
        """
        return fingerprint(pinned(ProbeSpec, self.config()))


def measured_at(
    measurements: Sequence[str], flatness: Collection[int], steps: Collection[int]
) -> tuple[str, ...]:
    """The measurements of a checkpoint with the weights of ``steps``: ``FLATNESS`` too where ``flatness`` has one."""
    named = FLATNESS not in measurements and any(step in flatness for step in steps)
    return (*measurements, *([FLATNESS] if named else []))


def swappable(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Those of ``variants`` whose errors can be swapped: that of a calibrated one needs a calibration of its own."""
    return tuple(each for each in variants if not each.is_fp32 and not each.needs)


def swapped_with(swap: Sequence[int], steps: Collection[int]) -> tuple[int, ...]:
    """The step whose errors a checkpoint with the weights of ``steps`` gets, where ``swap`` has one of them."""
    return next(((swap[1 - index],) for index, step in enumerate(swap) if step in steps), ())


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of a trajectory, not loaded yet."""

    step: int
    """Optimizer steps taken (the number in the folder or revision name)."""
    revision: str
    """Folder or branch name, such as ``step1000``."""
    location: str
    """Its location for ``pipeline.suites.fetch``: an absolute folder, or ``hf://org/name``."""
    content_id: str = ""
    """Identifies the weights without loading them; equal content has equal ids. Empty: not known yet."""
    stage: str = ""
    """Prefix of the key where step numbers repeat between the stages of one run."""
    tokens_seen: int | None = None
    """Training tokens consumed at this step; None if the suite does not state it."""
    learning_rate: float | None = None
    """Learning rate of the last step; None if the suite does not state it."""
    weights_sha256: str | None = None
    """Hash of the weights that the suite states; checked when they are loaded."""
    duplicate_of: str | None = None
    """Key of the earlier checkpoint with the same content, if any."""
    commit: str | None = None
    """Hub commit of the revision when the suite was opened; this commit is fetched even if the revision moves."""

    @property
    def key(self) -> str:
        """Name of this checkpoint's shard: ``step000001000``, prefixed by its stage if it has one."""
        return f"{self.stage}-step{self.step:09d}" if self.stage else f"step{self.step:09d}"
