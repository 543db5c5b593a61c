"""The kinds of shard and their columns."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.shards.plans import ForkPlan, RunPlan

_TENSOR = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("mean", "std", "absmax", "kurtosis")),
        pa.field("relative_error", pa.float64()),
        pa.field("boundary_fraction", pa.float64()),
    ]
)

_SCORES = [
    pa.field("variant", pa.string(), nullable=False),
    pa.field("nll_nats", pa.float64(), nullable=False),
    pa.field("perplexity", pa.float64(), nullable=False),
    pa.field("n_tokens", pa.int64(), nullable=False),
    pa.field("batch_nll_nats", pa.list_(pa.float64()), nullable=False),
    pa.field("kl_nats_mean", pa.float64(), nullable=False),
    pa.field("kl_nats_p50", pa.float64(), nullable=False),
    pa.field("kl_nats_p99", pa.float64(), nullable=False),
    pa.field("top1_agreement", pa.float64(), nullable=False),
    pa.field("delta_p_rms", pa.float64(), nullable=False),
]

AUDIT_SCHEMA = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("tokens_seen", pa.int64()),
        pa.field("learning_rate", pa.float64()),
        pa.field("weights_sha256", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string()),
        *_SCORES,
        pa.field("tensors", pa.list_(_TENSOR), nullable=False),
        pa.field("load_s", pa.float64(), nullable=False),
        pa.field("probe_s", pa.float64(), nullable=False),
        pa.field("peak_bytes", pa.int64(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
    ]
)

FORK_SCHEMA = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("schedule", pa.string(), nullable=False),
        pa.field("parameters", pa.string(), nullable=False),
        pa.field("optimizer", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("phase_label", pa.string(), nullable=False),
        pa.field("train_loss_nats", pa.float64()),
        pa.field("weights", pa.string(), nullable=False),
        *_SCORES,
        pa.field("gap", pa.float64(), nullable=False),
        pa.field("kurtosis", pa.float64()),
        pa.field("relative_error", pa.float64()),
        pa.field("wall_s", pa.float64(), nullable=False),
        pa.field("probe_s", pa.float64(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
    ]
)
"""``step`` and ``tokens`` count from the fork; ``learning_rate`` and ``phase_label`` are of the update that led to the
row; ``train_loss_nats`` is the mean since the probe before (null at the start); ``weights`` is live, ema or lawa;
``status`` is that of the run, ``ok`` or ``diverged``; ``wall_s`` counts from the start of the run."""


@dataclass(frozen=True)
class Kind:
    """A kind of work that an output folder can hold; one folder may hold one of each."""

    name: str
    """Of the sub-folder of its shards, failures and states, and of the command that makes them."""
    schema: pa.Schema
    plan_type: type[RunPlan | ForkPlan]
    plan_file: str
    tokens_file: str


AUDIT = Kind("audit", AUDIT_SCHEMA, RunPlan, "run.json", "tokens.npy")
FORK = Kind("fork", FORK_SCHEMA, ForkPlan, "fork.json", "fork_tokens.npy")
