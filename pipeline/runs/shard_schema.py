"""The kinds of shard and their columns."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.base.errors import UsageError
from pipeline.measurements import Column, pooled_columns, score_columns, tensor_columns
from pipeline.runs.control_column import FIELDS
from pipeline.runs.plans import ForkPlan, RunPlan, WorkPlan
from pipeline.runs.shard_validity import WhatIsWrong, nothing_is_wrong, wrong_audit, wrong_fork
from pipeline.runs.swap_column import FIELD as SWAPS_FIELD
from pipeline.spec import MEASUREMENTS, ProbeSpec
from pipeline.train.fork_spec import ForkSpec

_TYPES = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "list<float64>": pa.list_(pa.float64()),
    "string": pa.string(),
}


def _fields(columns: Iterable[Column], *, nullable: bool) -> list[pa.Field]:
    return [pa.field(column.name, _TYPES[column.dtype], nullable=nullable) for column in columns]


def _tensors(measurements: Sequence[str]) -> pa.Field:
    """Statistics of each quantized weight matrix."""
    identity = [pa.field("name", pa.string(), nullable=False), pa.field("n", pa.int64(), nullable=False)]
    struct = pa.struct([*identity, *_fields(tensor_columns(measurements), nullable=True)])
    return pa.field("tensors", pa.list_(struct), nullable=False)


_SCORES = [
    pa.field("variant", pa.string(), nullable=False),
    *_fields((column for column in score_columns(MEASUREMENTS) if not column.late), nullable=False),
]


def _always(**types: str) -> list[pa.Field]:
    return [pa.field(name, _TYPES[dtype], nullable=False) for name, dtype in types.items()]


def _if_known(**types: str) -> list[pa.Field]:
    return [pa.field(name, _TYPES[dtype]) for name, dtype in types.items()]


AUDIT_SCHEMA = pa.schema(
    [
        *_always(suite="string", revision="string", step="int64"),
        *_if_known(tokens_seen="int64", learning_rate="float64"),
        *_always(weights_sha256="string"),
        *_if_known(duplicate_of="string"),
        *_SCORES,
        _tensors(MEASUREMENTS),
        *_always(load_s="float64", probe_s="float64", peak_bytes="int64", device="string"),
    ]
)
"""Columns that every shard of an audit has; further measurements add theirs (``Kind.schema``)."""

FORK_SCHEMA = pa.schema(
    [
        *_always(suite="string", revision="string", run_id="string", arm="string", schedule="string"),
        *_always(parameters="string", optimizer="string", seed="int64", status="string"),
        *_always(step="int64", tokens="int64", learning_rate="float64", phase_label="string"),
        *_if_known(train_loss_nats="float64"),
        *_always(weights="string"),
        *_SCORES,
        *_always(gap="float64"),
        *_if_known(kurtosis="float64", relative_error="float64"),
        *_always(wall_s="float64", probe_s="float64", device="string"),
    ]
)
"""``step`` and ``tokens`` count from the fork; ``learning_rate`` and ``phase_label`` belong to the update before
the probe; ``train_loss_nats`` is the mean since the last probe (null at the start); ``weights`` is live, ema or
lawa; ``status`` is that of the run, ``ok`` or ``diverged``; ``wall_s`` counts from the start of the run."""


@dataclass(frozen=True)
class Kind:
    """A kind of work in an output folder; a folder may hold one of each."""

    name: str
    """Name of its command and of its sub-folders of shards, failures and states."""
    core: pa.Schema
    """Columns that every shard has."""
    plan_type: type[WorkPlan]
    spec_type: type
    """Class of the settings of its plans and shards."""
    plan_file: str
    tokens_file: str
    adds: bool
    """Whether a variant or measurement can be added to a shard; if not, the shard is made again."""
    what_is_wrong: WhatIsWrong = nothing_is_wrong
    """Why a shard's rows contradict its metadata (``pipeline.runs.shard_validity``); such a shard is redone."""

    def schema(
        self, measurements: Iterable[str], there: pa.Schema | None = None, columns: Container[str] = ()
    ) -> pa.Schema:
        """The columns of a shard with ``measurements``: the core columns, then those of the measurements.

        ``there``: columns of the former shard, which stay, even those of measurements that are not installed here.
        ``columns``: names that its rows have, of which those of controls and swaps are added.
        """
        schema = self.core if there is None else there.remove_metadata()
        names = tuple(measurements)
        found = score_columns(names)
        if "tensors" not in self.core.names:
            # Many probes of one run: columns that only the choice of a checkpoint needs are left out.
            found = [column for column in found if not column.late] + pooled_columns(names)
        of_controls = [field for field in (*FIELDS, SWAPS_FIELD) if field.name in columns]
        for field in (*_fields(found, nullable=True), *of_controls):
            if field.name not in schema.names:
                schema = schema.append(field)
        if "tensors" in self.core.names:
            schema = _with_tensor_fields(schema, tensor_columns(names))
        return schema


def _with_tensor_fields(schema: pa.Schema, columns: Iterable[Column]) -> pa.Schema:
    index = schema.get_field_index("tensors")
    struct = schema.field(index).type.value_type
    there = [struct.field(i) for i in range(struct.num_fields)]
    known = {field.name for field in there}
    there += [field for field in _fields(columns, nullable=True) if field.name not in known]
    return schema.set(index, schema.field(index).with_type(pa.list_(pa.struct(there))))


def checkpoint_kind(
    name: str, settings: type, columns: Mapping[str, Literal["float64", "int64", "string", "bool"]]
) -> Kind:
    """Make the kind ``name``, whose shards hold ``columns`` of one checkpoint and the columns that identify it.

    settings: a frozen dataclass of everything that can change a number, each field with a default. A value may be
    null.
    """
    if not re.fullmatch("[a-z][a-z_]*", name):
        raise UsageError(f"kind of work {name!r}: wanted small letters and _, a letter first")
    core = pa.schema(
        [
            *_always(suite="string", revision="string", step="int64"),
            *(pa.field(column, pa.type_for_alias(dtype)) for column, dtype in columns.items()),
            *_always(probe_s="float64"),
        ]
    )
    return Kind(name, core, RunPlan, settings, f"{name}.json", f"{name}_tokens.npy", adds=False)


AUDIT = Kind("audit", AUDIT_SCHEMA, RunPlan, ProbeSpec, "run.json", "tokens.npy", True, wrong_audit)
FORK = Kind("fork", FORK_SCHEMA, ForkPlan, ForkSpec, "fork.json", "fork_tokens.npy", False, wrong_fork)
