"""What is measured, as frozen values that check themselves and have a fingerprint.

``Scheme`` and ``Variant`` name a way of quantizing a model, ``ProbeSpec`` names everything that can change a
measured number, ``Checkpoint`` names one set of weights of a trajectory and ``ProbeTask`` is the unit of work.
Nothing here reads a file, touches a device or knows about Ray.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UsageError

PROBE_VERSION = 1
"""Raised by hand whenever the probe's arithmetic or definitions change, so that old shards become stale."""

ALIASES = {"int8": "int8-channel-sym", "int4": "int4-g128-asym"}
"""Short names of the default variants, also used in column names."""

DEFAULT_VARIANTS = ("fp32", ALIASES["int8"], ALIASES["int4"])

ARITHMETICS = ("ieee", "split", "tf32")
"""How a probe may compute products (``ProbeSpec.arithmetic``)."""

GRAMMAR = "fp32, int{2..8}-g{G}-{asym|sym} or int{2..8}-channel-{asym|sym}, each with an optional +head"

_VARIANT = re.compile(
    r"int(?P<bits>[2-8])-(?:g(?P<group>[1-9]\d*)|channel)-(?P<kind>asym|sym)(?P<head>\+head)?"
)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses whatever has no pinned representation.

    Dataclasses become objects, tuples become arrays. A callable, a NaN or any other object is a ``TypeError``
    (an address or a default ``repr`` would make the fingerprint differ between two equal runs).
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"cannot pin {value!r} in a fingerprint: wanted a finite number")
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("cannot pin a mapping whose keys are not all strings in a fingerprint")
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"cannot pin {type(value).__name__} {value!r} in a fingerprint")


def fingerprint(value: Any) -> str:
    """sha256 (hex) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True, order=True)
class Scheme:
    """A uniform integer grid for weights (definitions: ``pipeline.quantize``)."""

    bits: int
    """Width of the grid, 2 to 8."""
    group_size: int | None
    """Consecutive weights along in_features that share a scale; None = the whole row (per output channel)."""
    symmetric: bool
    """True: q in [-(2^(b-1)-1), 2^(b-1)-1], zero point 0. False: q in [0, 2^b-1] with an integer zero point."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UsageError(f"scheme of {self.bits} bits: wanted 2 to 8")
        if self.group_size is not None and self.group_size < 1:
            raise UsageError(f"scheme with group size {self.group_size}: wanted at least 1")

    def __str__(self) -> str:
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        return f"int{self.bits}-{group}-{'sym' if self.symmetric else 'asym'}"


@dataclass(frozen=True, order=True)
class Variant:
    """One way of evaluating a checkpoint: unquantized, or with its linear layers on a grid."""

    scheme: Scheme | None
    """None = the stored weights in float32."""
    head: bool = False
    """Whether the output head is quantized too."""

    def __post_init__(self) -> None:
        if self.scheme is None and self.head:
            raise UsageError("variant 'fp32+head': nothing is quantized in fp32; wanted 'fp32'")

    @classmethod
    def parse(cls, text: str) -> Variant:
        """The variant that ``text`` names; ``int4`` and ``int8`` are short for the default two.

        >>> Variant.parse("int4-g128-asym+head").column
        'int4_g128_asym_head'
        """
        full = ALIASES.get(text, text)
        if full == "fp32":
            return cls(None)
        match = _VARIANT.fullmatch(full)
        if match is None:
            raise UsageError(
                f"unknown variant {text!r}: wanted {GRAMMAR} (such as {', '.join(ALIASES.values())})"
            )
        group = int(match["group"]) if match["group"] else None
        return cls(Scheme(int(match["bits"]), group, match["kind"] == "sym"), bool(match["head"]))

    def __str__(self) -> str:
        return "fp32" if self.scheme is None else f"{self.scheme}{'+head' if self.head else ''}"

    @property
    def column(self) -> str:
        """Prefix of this variant's columns: the alias of a default variant, else the spec with ``_``."""
        for alias, full in ALIASES.items():
            if str(self) == full:
                return alias
        return str(self).replace("-", "_").replace("+", "_")


def parse_variants(texts: tuple[str, ...]) -> tuple[Variant, ...]:
    """Variants in the order given, without repeats, with ``fp32`` (the baseline of every gap) always first."""
    given = [Variant.parse(text) for text in texts]
    return tuple(dict.fromkeys([Variant(None), *given]))


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
    """Everything that can change a number of a probe, and nothing that cannot."""

    variants: tuple[Variant, ...]
    """fp32 first."""
    shape: TokenShape
    """How the evaluation tokens are cut."""
    tokens_sha256: str
    """Content hash of the evaluation tokens."""
    vocab_rows: int | None = None
    """Real rows of the output head; rows beyond pad the vocabulary and count in no weight statistic. None: all."""
    arithmetic: str = "ieee"
    """How products are computed. ``ieee``: float32 throughout. ``split``: on tensor cores, every float32 operand as two
    float16 halves, as accurate as ieee. ``tf32``: on tensor cores with operands of 11 bits, for comparison only."""
    version: int = PROBE_VERSION
    """Version of the probe's definitions."""

    def __post_init__(self) -> None:
        if not self.variants or self.variants[0] != Variant(None):
            raise UsageError("a probe needs fp32 as its first variant: every gap is measured against it")
        if self.arithmetic not in ARITHMETICS:
            raise UsageError(f"unknown arithmetic {self.arithmetic!r}: wanted {', '.join(ARITHMETICS)}")
        if len(set(self.variants)) != len(self.variants):
            raise UsageError(f"variants repeat: {', '.join(map(str, self.variants))}")

    def config(self) -> dict[str, Any]:
        """The resolved settings as plain JSON values; what :meth:`fingerprint` hashes."""
        plain: dict[str, Any] = _plain(self)
        plain["variants"] = [str(variant) for variant in self.variants]
        return plain

    def fingerprint(self) -> str:
        """sha256 (hex) of :meth:`config`: two shards are comparable exactly when theirs are equal."""
        return fingerprint(self.config())


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of a trajectory, before anything of it is loaded."""

    step: int
    """Optimizer steps taken (the number in the folder or revision name)."""
    revision: str
    """Folder or branch name, such as ``step1000``."""
    location: str
    """Where ``pipeline.suites.fetch`` finds it: an absolute folder, or ``hf://org/name``."""
    content_id: str = ""
    """Identifies the weights without loading them; equal content has equal ids. Empty: not known yet."""
    stage: str = ""
    """Prefix of the key where step numbers repeat between the stages of one run."""
    tokens_seen: int | None = None
    """Training tokens consumed at this step; None where the suite does not say."""
    learning_rate: float | None = None
    """Learning rate of the step that led here; None where the suite does not say."""
    weights_sha256: str | None = None
    """What the suite says the weights hash to; checked when they are loaded."""
    duplicate_of: str | None = None
    """Key of the earlier checkpoint with the same content, if any."""
    commit: str | None = None
    """Hub commit that the revision stood for when the suite was opened; what is fetched, even if it moves."""

    @property
    def key(self) -> str:
        """Name of this checkpoint's shard: ``step000001000``, after its stage where there is one."""
        return f"{self.stage}-step{self.step:09d}" if self.stage else f"step{self.step:09d}"


@dataclass(frozen=True)
class ProbeTask:
    """One checkpoint to measure into one shard."""

    suite: str
    checkpoint: Checkpoint
    probe: ProbeSpec
    out: str
    """Output folder (or URL) that holds the tokens and receives the shard."""
    device: str = "cpu"
    """torch device; on a Ray GPU worker always ``cuda``."""
    duplicates: tuple[str, ...] = ()
    """Keys of later checkpoints with the same content; they are written from this one's shard."""
    ahead: tuple[Checkpoint, ...] = ()
    """What will be measured after this one on the same node, soonest first: fetched while this one computes."""
    cache_gb: float | None = None
    """Disk that downloaded weights may take on a node, in 10^9 bytes; None = half of what is free there."""
    stream: bool = False
    """Whether to measure layer by layer even where the whole model fits; the numbers are the same."""

    @property
    def key(self) -> str:
        return self.checkpoint.key

    def identity(self) -> dict[str, Any]:
        """What the shard's contents are of; a shard with another one is stale."""
        return {"weights": self.checkpoint.content_id}
