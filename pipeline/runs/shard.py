"""One shard: rows with a schema, and metadata about their identity and measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pyarrow as pa

from pipeline.base.errors import OtherSchemaError, ShardError
from pipeline.base.files import parse_json
from pipeline.base.fingerprints import canonical_json, comparable
from pipeline.base.json_files import checked
from pipeline.measurements import of_fp32
from pipeline.runs.control_column import lacking
from pipeline.runs.shard_schema import Kind
from pipeline.runs.swap_column import lacking as lacking_swaps
from pipeline.spec import CALIBRATION, MEASUREMENTS, ProbeSpec, Variant


class Settings(Protocol):
    """A frozen dataclass of everything that can change a number of a shard."""

    def config(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        ...

    def fingerprint(self) -> str:
        """sha256 (hex) of its pinned part (``pipeline.spec.pinned``)."""
        ...


class ShardTask(Protocol):
    """The task's description of the shard that it writes."""

    @property
    def key(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def measurements(self) -> tuple[str, ...]:
        """Names of the measurements that the shard has columns for, beside those of its kind."""
        ...

    def identity(self) -> dict[str, Any]:
        """Identity of the contents; a shard with another one is stale."""
        ...

    def marks(self) -> dict[str, str]:
        """Further metadata, including ``identity`` as JSON."""
        ...


@dataclass(frozen=True)
class Origin:
    """Origin of the rows of a shard."""

    versions: dict[str, str]
    """Versions of the packages."""
    notes: tuple[str, ...] = ()
    measured: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """See :class:`Shard`; empty: the task's measurements, for every row."""


@dataclass(frozen=True)
class Lacks:
    """The wanted variants and measurements that a shard lacks."""

    variants: tuple[str, ...] = ()
    measurements: tuple[str, ...] = ()
    """Measurements that at least one of its wanted variants lacks."""
    controls: tuple[str, ...] = ()
    """Variants whose controls it lacks."""
    swapped: tuple[str, ...] = ()
    """Variants that lack the errors of the other step of a swap."""

    def __bool__(self) -> bool:
        return bool(self.variants or self.measurements or self.controls or self.swapped)

    def __str__(self) -> str:
        controls = (f"the controls of {name}" for name in self.controls)
        swaps = (f"the swap of {name}" for name in self.swapped)
        return "lacks " + ", ".join((*self.variants, *self.measurements, *controls, *swaps))

    def part_of(self, probe: ProbeSpec) -> ProbeSpec:
        """The part of ``probe`` that is lacking; fp32 is always measured again."""
        controls = tuple(each for each in probe.mechanism if str(each) in self.controls)
        of_one = of_fp32(probe.measurements)
        measurements = (
            each for each in probe.measurements if each not in of_one or each in self.measurements
        )
        part = replace(
            probe,
            mechanism=controls,
            by_layer=probe.by_layer and bool(controls),
            measurements=tuple(measurements),
            swapped=tuple(each for each in probe.swapped if str(each) in self.swapped),
        )
        if not of_one.issuperset(self.measurements):
            return part
        wanted = {"fp32", *self.variants}
        return replace(part, variants=tuple(each for each in part.variants if str(each) in wanted))


@dataclass(frozen=True)
class Shard:
    """One shard as read: its rows and the metadata about their origin."""

    key: str
    table: pa.Table
    fingerprint: str
    """Fingerprint as written; releases hashed different fields, so shards are compared by ``config``."""
    config: dict[str, Any]
    """Resolved settings of its measurement (``ProbeSpec.config``, ``ForkSpec.config``)."""
    identity: dict[str, Any]
    """Identity of its contents: the weights of a checkpoint, or the arm and seed of a run."""
    notes: tuple[str, ...]
    versions: dict[str, str]
    """Versions of the packages that measured it."""
    measured: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Variant -> names of its measurements."""

    def rows(self, *names: str) -> dict[str, dict[str, Any]]:
        """The rows by variant, with those of the columns ``names`` that are there."""
        there = [name for name in ("variant", *names) if name in self.table.column_names]
        return {row["variant"]: row for row in self.table.select(there).to_pylist()}

    def only(self, variants: Sequence[str]) -> Shard:
        """The shard reduced to the rows of ``variants``, in their order."""
        there = self.table["variant"].to_pylist()
        if there == list(variants):
            return self
        rows = [there.index(variant) for variant in variants]
        measured = {variant: self.measured[variant] for variant in variants}
        return replace(self, table=self.table.take(rows), measured=measured)

    def lacks(self, config: Mapping[str, Any]) -> Lacks:
        """The variants and measurements of a probe with the settings ``config`` that it lacks."""
        wanted = tuple(config.get("measurements", MEASUREMENTS))
        variants = config.get("variants", ())
        there = {variant: self.measured[variant] for variant in variants if variant in self.measured}
        uncalibrated = {variant for variant in there if not Variant.parse(variant).needs}
        of_all = set(wanted) - of_fp32(wanted)
        return Lacks(
            tuple(variant for variant in variants if variant not in self.measured),
            tuple(
                name
                for name in wanted
                if not all(
                    name in names
                    or (name == CALIBRATION and variant in uncalibrated)
                    or (name not in of_all and variant != "fp32")
                    for variant, names in there.items()
                )
            ),
            lacking(self.table, config),
            lacking_swaps(self.table, config),
        )

    def is_of(self, spec: Settings) -> bool:
        """Whether its numbers are comparable with those of ``spec``, whatever variants either has."""
        return comparable(type(spec), self.config, spec.config())


def shard_table(schema: pa.Schema, task: ShardTask, rows: list[dict[str, Any]], origin: Origin) -> pa.Table:
    """Make the table of a shard: ``rows`` of ``task`` with ``schema`` and the metadata that :func:`shard_from` reads.

    Arrow silently drops unknown columns and fills missing ones with null; here an unknown column, or a missing one
    that may not be null, raises ValueError.
    """
    known = set(schema.names)
    for row in rows:
        lost = {field.name for field in schema if not field.nullable} - row.keys()
        if lost or not row.keys() <= known:
            raise ValueError(f"row of {task.key}: columns differ: {sorted(lost | (row.keys() - known))}")
    by_variant = "variant" in known
    measured = origin.measured or {row["variant"]: task.measurements for row in rows if by_variant}
    metadata = {
        "fingerprint": task.settings.fingerprint(),
        "config": canonical_json(task.settings.config()),
        "versions": canonical_json(origin.versions),
        "notes": canonical_json(list(origin.notes)),
        "measured": canonical_json(measured),
        **task.marks(),
    }
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata))
    table.validate(full=True)
    return table


def shard_from(table: pa.Table, kind: Kind, key: str, place: str) -> Shard:
    """Make the shard ``key`` of ``kind`` from the table that was read at ``place``.

    Raises OtherSchemaError if it lacks a core column of the kind; ShardError if its metadata is malformed or its
    rows do not match it (``pipeline.runs.shard_validity``).
    """
    if missing := _lacking(table.schema, kind.core):
        raise OtherSchemaError(f"{place} has another schema ({missing}): it was written by another version")

    def broken(what: str) -> ShardError:
        return ShardError(f"{place} is not what was written: {what}")

    found = checked(
        _Metadata, {name: _value(name, text, broken) for name, text in _texts(table).items()}, broken
    )
    checked(kind.spec_type, found.config, broken, "config")
    if found.identity is None and found.content_id is None:
        raise broken("content_id is missing")
    variants = table["variant"].to_pylist() if "variant" in table.column_names else ()
    shard = Shard(
        key=key,
        table=table,
        fingerprint=found.fingerprint,
        config=found.config,
        identity={"weights": found.content_id} if found.identity is None else found.identity,
        notes=found.notes,
        versions=found.versions,
        measured=dict.fromkeys(variants, MEASUREMENTS) if found.measured is None else found.measured,
    )
    if wrong := kind.what_is_wrong(table, key, shard.config, shard.measured):
        raise broken(wrong)
    return shard


@dataclass(frozen=True)
class _Metadata:
    """Metadata of a shard's table."""

    fingerprint: str
    config: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    measured: dict[str, tuple[str, ...]] | None = None
    """None: earlier releases wrote the core measurements and did not list them."""
    identity: dict[str, Any] | None = None
    """None: an audit's shard stores the id of its weights only."""
    content_id: str | None = None


_JSON = ("config", "versions", "notes", "measured", "identity", "duplicates")
"""Metadata keys with JSON values; the others are strings."""


def _texts(table: pa.Table) -> dict[str, bytes]:
    return {name.decode(errors="replace"): text for name, text in (table.schema.metadata or {}).items()}


def _value(name: str, text: bytes, broken: Callable[[str], ShardError]) -> Any:
    try:
        return parse_json(text) if name in _JSON else text.decode()
    except ValueError as error:
        raise broken(f"its {name} is not readable ({error})") from error


def _lacking(schema: pa.Schema, core: pa.Schema) -> str:
    """The columns of ``core`` that ``schema`` lacks or has with another type; empty if it has all."""
    wrong = []
    for wanted in core:
        index = schema.get_field_index(wanted.name)
        if index < 0:
            wrong.append(f"no {wanted.name}")
        elif not _holds(schema.field(index).type, wanted.type):
            wrong.append(f"{wanted.name} of type {schema.field(index).type}")
    return ", ".join(wrong)


def _holds(there: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether the type ``there`` has everything of ``wanted``; structs may have more fields."""
    if pa.types.is_list(there) and pa.types.is_list(wanted):
        return _holds(there.value_type, wanted.value_type)
    if pa.types.is_struct(there) and pa.types.is_struct(wanted):
        return all(
            there.get_field_index(each.name) >= 0
            and _holds(there.field(there.get_field_index(each.name)).type, each.type)
            for each in (wanted.field(i) for i in range(wanted.num_fields))
        )
    return bool(there.equals(wanted))
