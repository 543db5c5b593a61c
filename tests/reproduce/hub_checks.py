"""What is checked of a suite on a hub before any of its weights are downloaded, and after they were measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.base.errors import ShardError
from pipeline.runs.output import run_folder
from pipeline.runs.shard_files import ShardFiles
from pipeline.spec import Checkpoint
from pipeline.suites import Suite
from pipeline.suites.hub.remote import list_commit
from pipeline.suites.model_config import model_config
from pipeline.suites.suite import HUB
from tests.reproduce.paper import EXPECTED_EQUAL


@dataclass(frozen=True)
class Check:
    """One fact that was looked up."""

    name: str
    wanted: str
    found: str
    holds: bool
    needed: bool = True
    """Whether the experiment would be another one where the check does not hold."""


def check_listing(suite: Suite, steps: Sequence[int], shape: tuple[int, ...]) -> list[Check]:
    """Checks of the revisions, their hashes and the shape; only config.json is downloaded."""
    there = [each.step for each in suite.checkpoints]
    missing = [f"step{step}" for step in steps if step not in set(there)]
    further = [each.revision for each in suite.checkpoints if each.step not in set(steps)]
    unhashed = [each.revision for each in suite.checkpoints if not (each.commit and each.weights_sha256)]
    equal = equal_revisions(suite)
    unexpected = {name: other for name, other in equal.items() if EXPECTED_EQUAL.get(name) != other}
    state = f"{len(there)}{_named(', missing ', missing)}{_named(', further ', further)}"
    measured_shape = _config_shape(suite)
    defects = "; ".join(suite.warnings) or "none"
    return [
        Check("revisions", f"{len(steps)}", state, not missing and not further),
        Check("a commit and a listed sha256 for every revision", "all", _but(unhashed), not unhashed),
        Check(
            "equal revisions", _pairs(EXPECTED_EQUAL), _pairs(equal) or "none", not unexpected, needed=False
        ),
        Check("defects, reported or found", "none", defects, not suite.warnings, needed=False),
        Check("sizes of the model", _sizes(shape), _sizes(measured_shape), measured_shape == shape),
        Check(
            "a tokenizer",
            "there",
            "there" if suite.tokenizer else "none",
            bool(suite.tokenizer),
            needed=False,
        ),
    ]


def check_measured(suite: Suite, out: str) -> Check:
    """Whether every checkpoint of ``suite`` has a shard, with the weights that the hub lists for its revision."""
    shards = run_folder(out).shards
    there = set(shards.list_keys())
    other = [
        each.revision for each in suite.checkpoints if each.key not in there or not _is_listed(each, shards)
    ]
    n = len(suite.checkpoints)
    return Check("weights measured are those that the hub lists", f"all of {n}", _but(other), not other)


def _is_listed(checkpoint: Checkpoint, shards: ShardFiles) -> bool:
    try:
        table = shards.read(checkpoint.key).table
    except ShardError:  # an audit that was interrupted; it says so, and its rerun measures again
        return False
    return set(table["weights_sha256"].to_pylist()) == {checkpoint.weights_sha256}


def download_bytes(suite: Suite) -> int:
    """Bytes of configuration and weights of the distinct checkpoints of ``suite``, by the hub's listing."""
    return sum(
        file.size
        for each in suite.checkpoints
        if each.duplicate_of is None
        for file in list_commit(each.location.removeprefix(HUB), _commit(each)).wanted
    )


def equal_revisions(suite: Suite) -> dict[str, str]:
    """Revision -> the earlier one with the same weights and configuration."""
    names = {each.key: each.revision for each in suite.checkpoints}
    return {
        each.revision: names[each.duplicate_of] for each in suite.checkpoints if each.duplicate_of is not None
    }


def to_json(checks: Sequence[Check]) -> list[dict[str, object]]:
    return [dataclasses.asdict(each) for each in checks]


def _commit(checkpoint: Checkpoint) -> str:
    if not checkpoint.commit:
        raise ValueError(f"{checkpoint.revision} is not pinned to a commit: wanted a suite of a hub")
    return checkpoint.commit


def _config_shape(suite: Suite) -> tuple[int, ...]:
    config = model_config(suite)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    return tuple(int(config.get(name, 0)) for name in names)


def _sizes(shape: Sequence[int]) -> str:
    names = ("hidden", "layers", "heads", "inner", "vocabulary")
    return ", ".join(f"{name} {size}" for name, size in zip(names, shape, strict=True))


def _pairs(equal: dict[str, str]) -> str:
    return ", ".join(f"{name} = {other}" for name, other in equal.items())


def _named(lead: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return lead + shown if names else ""


def _but(names: Sequence[str]) -> str:
    return "all" + _named(" but ", names)
