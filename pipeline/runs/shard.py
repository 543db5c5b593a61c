"""One shard: rows with a schema, and metadata that says what they are of and how they were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from pipeline.base.errors import OtherSchemaError, ShardError
from pipeline.base.files import parse_json
from pipeline.base.json_fields import Fields
from pipeline.runs.plan_values import settings_of, text_by_name, texts
from pipeline.spec import CALIBRATION, MEASUREMENTS, Variant, canonical_json, pinned

if TYPE_CHECKING:
    from pipeline.runs.shard_schema import Kind


class Settings(Protocol):
    """A frozen dataclass of everything that can change a number of a shard."""

    def config(self) -> dict[str, Any]:
        """As plain JSON values."""
        ...

    def fingerprint(self) -> str:
        """sha256 (hex) of what is pinned of it (``pipeline.spec.pinned``)."""
        ...


class ShardTask(Protocol):
    """What a task says of the shard that it writes."""

    @property
    def key(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def measurements(self) -> tuple[str, ...]:
        """Names of what the shard has columns of, beside those of its kind."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the contents are of; a shard with another one is stale."""
        ...

    def marks(self) -> dict[str, str]:
        """Further metadata; ``identity`` among them, as JSON."""
        ...


@dataclass(frozen=True)
class Origin:
    """How the rows of a shard came about."""

    versions: dict[str, str]
    """Of the packages."""
    notes: tuple[str, ...] = ()
    measured: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """As in :class:`Shard`; empty: what the task asks for, of every row."""


@dataclass(frozen=True)
class Lacks:
    """What of that which is wanted a shard does not hold."""

    variants: tuple[str, ...] = ()
    measurements: tuple[str, ...] = ()
    """Of at least one of the wanted variants that it holds."""

    def __bool__(self) -> bool:
        return bool(self.variants or self.measurements)

    def __str__(self) -> str:
        return "lacks " + ", ".join((*self.variants, *self.measurements))


@dataclass(frozen=True)
class Shard:
    """One shard as read: its rows and what its metadata says of their origin."""

    key: str
    table: pa.Table
    fingerprint: str
    """As it was written; releases hashed different fields, so what it is compared by is ``config``."""
    config: dict[str, Any]
    """Settings of its measurement, resolved (``ProbeSpec.config``, ``ForkSpec.config``)."""
    identity: dict[str, Any]
    """What its contents are of: the weights of a checkpoint, or the arm and seed of a run."""
    notes: tuple[str, ...]
    versions: dict[str, str]
    """Of the packages it was measured with."""
    measured: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the measurements of each of its variants."""

    def only(self, variants: Sequence[str]) -> Shard:
        """The same shard with the rows of ``variants`` alone, in their order."""
        there = self.table["variant"].to_pylist()
        if there == list(variants):
            return self
        rows = [there.index(variant) for variant in variants]
        measured = {variant: self.measured[variant] for variant in variants}
        return replace(self, table=self.table.take(rows), measured=measured)

    def lacks(self, config: Mapping[str, Any]) -> Lacks:
        """What is missing of that which the probe with the settings ``config`` is to give."""
        wanted = tuple(config.get("measurements", MEASUREMENTS))
        variants = config.get("variants", ())
        there = {variant: self.measured[variant] for variant in variants if variant in self.measured}
        uncalibrated = {variant for variant in there if not Variant.parse(variant).needs}
        return Lacks(
            tuple(variant for variant in variants if variant not in self.measured),
            tuple(
                name
                for name in wanted
                if not all(
                    name in names or (name == CALIBRATION and variant in uncalibrated)
                    for variant, names in there.items()
                )
            ),
        )

    def is_of(self, spec: Settings) -> bool:
        """Whether its numbers are comparable with those of ``spec``, whatever either holds of them."""
        return pinned(type(spec), self.config) == pinned(type(spec), spec.config())


def shard_table(
    schema: pa.Schema,
    task: ShardTask,
    rows: list[dict[str, Any]],
    origin: Origin,
) -> pa.Table:
    """``rows`` of ``task`` with ``schema`` and the metadata that :func:`shard_from` reads.

    Arrow itself drops unknown columns and fills missing ones with null, silently: here an unknown one, and a missing
    one that may not be null, is a ValueError.
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
    """The shard ``key`` of ``kind`` that was read from ``place``.

    OtherSchemaError where it lacks a column of the kind's core; ShardError where its metadata is not what a writer
    puts there, or its rows are not those that it says (``pipeline.runs.shard_validity``).
    """
    if missing := _lacking(table.schema, kind.core):
        raise OtherSchemaError(f"{place} has another schema ({missing}): it was written by another version")

    def broken(what: str) -> ShardError:
        return ShardError(f"{place} is not what was written: {what}")

    metadata = Fields({name: _value(name, text, broken) for name, text in _texts(table).items()}, broken)
    metadata.need("config", dict)
    shard = Shard(
        key=key,
        table=table,
        fingerprint=metadata.need("fingerprint", str),
        config=settings_of(kind.spec_type, metadata.child("config")),
        identity=_identity(metadata),
        notes=texts(metadata, "notes"),
        versions=text_by_name(metadata, "versions"),
        measured=_measured(metadata, table),
    )
    if wrong := kind.what_is_wrong(table, key, shard.config, shard.measured):
        raise broken(wrong)
    return shard


_JSON = ("config", "versions", "notes", "measured", "identity", "duplicates")
"""Metadata that is JSON; everything else is a text."""


def _texts(table: pa.Table) -> dict[str, bytes]:
    return {name.decode(errors="replace"): text for name, text in (table.schema.metadata or {}).items()}


def _value(name: str, text: bytes, broken: Callable[[str], ShardError]) -> Any:
    try:
        return parse_json(text) if name in _JSON else text.decode()
    except ValueError as error:
        raise broken(f"its {name} is not readable ({error})") from error


def _lacking(schema: pa.Schema, core: pa.Schema) -> str:
    """The columns of ``core`` that ``schema`` has not, or has of another type; empty where it has all."""
    wrong = []
    for wanted in core:
        index = schema.get_field_index(wanted.name)
        if index < 0:
            wrong.append(f"no {wanted.name}")
        elif not _holds(schema.field(index).type, wanted.type):
            wrong.append(f"{wanted.name} of type {schema.field(index).type}")
    return ", ".join(wrong)


def _holds(there: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of the type ``there`` have all that ``wanted`` has; structs may have more fields."""
    if pa.types.is_list(there) and pa.types.is_list(wanted):
        return _holds(there.value_type, wanted.value_type)
    if pa.types.is_struct(there) and pa.types.is_struct(wanted):
        return all(
            there.get_field_index(each.name) >= 0
            and _holds(there.field(there.get_field_index(each.name)).type, each.type)
            for each in (wanted.field(i) for i in range(wanted.num_fields))
        )
    return bool(there.equals(wanted))


def _measured(metadata: Fields, table: pa.Table) -> dict[str, tuple[str, ...]]:
    """Earlier releases did not say it: they had the core measurements and no other."""
    if "measured" in metadata.value:
        measured = metadata.child("measured")
        return {variant: texts(measured, variant) for variant in measured.value}
    return dict.fromkeys(
        table["variant"].to_pylist() if "variant" in table.column_names else (), MEASUREMENTS
    )


def _identity(metadata: Fields) -> dict[str, Any]:
    """As a task's ``identity()``; an audit's shard keeps the id of its weights alone."""
    if "identity" in metadata.value:
        return metadata.need("identity", dict)
    return {"weights": metadata.need("content_id", str)}
