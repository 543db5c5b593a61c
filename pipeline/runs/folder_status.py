"""Status of an output folder: its shards compared with the request. Reads files only; changes nothing.

A rerun takes the status and submits what is not done. ``status`` prints the same.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.base.english import counted
from pipeline.base.errors import IncompleteRunError, OtherSchemaError, ShardError, StaleShardsError
from pipeline.base.fingerprints import compared
from pipeline.runs.folder import RunFolder
from pipeline.runs.plans import WorkPlan
from pipeline.runs.shard import Lacks, Shard


@dataclass(frozen=True)
class FolderStatus:
    """Keys by state; every expected key is in exactly one of done, stale, incomplete, failed and missing."""

    done: tuple[str, ...]
    """Intact shards of this measurement and these weights."""
    stale: dict[str, tuple[str, ...]]
    """Shards of another measurement or other weights, with the differing fields as ``name: found -> wanted``."""
    failed: dict[str, str]
    """Tasks that failed, with the reason."""
    missing: tuple[str, ...]
    """Tasks without a usable shard and without a failure."""
    corrupt: dict[str, str]
    """Failed and missing tasks whose file is truncated or altered, with the fault."""

    to_measure: tuple[str, ...]
    """Incomplete, failed and missing tasks, in the order of the plan."""
    incomplete: dict[str, Lacks] = field(default_factory=dict)
    """Intact shards of these weights that lack a wanted variant or measurement, which a rerun adds."""

    def only(self, keys: Container[str]) -> FolderStatus:
        """The same status of these keys alone."""
        return FolderStatus(
            done=tuple(key for key in self.done if key in keys),
            stale=self.stale,
            failed={key: reason for key, reason in self.failed.items() if key in keys},
            missing=tuple(key for key in self.missing if key in keys),
            corrupt={key: reason for key, reason in self.corrupt.items() if key in keys},
            to_measure=tuple(key for key in self.to_measure if key in keys),
            incomplete={key: lacks for key, lacks in self.incomplete.items() if key in keys},
        )

    def refuse_stale(self, folder: RunFolder) -> None:
        """Raise StaleShardsError if any shard is stale; it names the differing fields and the ways out."""
        if not self.stale:
            return
        key, fields = next(iter(self.stale.items()))
        raise StaleShardsError(
            f"{counted(len(self.stale), 'shard')} of another measurement in {folder} (first: {key}): "
            f"{'; '.join(fields)}. Write elsewhere with --out, or discard them with --replace-stale"
        )


def folder_status(folder: RunFolder, plan: WorkPlan, keys: Sequence[str] | None = None) -> FolderStatus:
    """Read and check every shard in ``folder``, expected or not; ``keys``: a fresh listing of the shards."""
    wanted = plan.expected()
    failures = folder.failures.read()
    done: list[str] = []
    stale: dict[str, tuple[str, ...]] = {}
    corrupt: dict[str, str] = {}
    incomplete: dict[str, Lacks] = {}
    keys = folder.shards.list_keys() if keys is None else keys
    for key, shard in zip(keys, folder.shards.read_many(keys), strict=True):
        if isinstance(shard, OtherSchemaError):
            stale[key] = ("schema: that of another version -> this version's",)
        elif isinstance(shard, ShardError):
            corrupt[key] = str(shard)
        elif differing := _differing_shard(folder, shard, plan, wanted.get(key)):
            stale[key] = differing
        elif key in wanted and (lacks := shard.lacks(plan.wanted(key))):
            if folder.kind.adds:
                incomplete[key] = lacks
            else:
                stale[key] = (f"what is measured: it {lacks}, which means doing all of it again",)
        elif key in wanted:
            done.append(key)
    absent = wanted.keys() - set(done) - stale.keys() - incomplete.keys()
    return FolderStatus(
        done=tuple(done),
        stale=stale,
        failed={key: failures[key] for key in wanted if key in absent and key in failures},
        missing=tuple(key for key in wanted if key in absent and key not in failures),
        corrupt={key: reason for key, reason in corrupt.items() if key in wanted},
        to_measure=tuple(key for key in wanted if key in absent or key in incomplete),
        incomplete=incomplete,
    )


def finished(folder: RunFolder, *, allow_missing: bool = False) -> tuple[Any, FolderStatus]:
    """The plan and the status of a folder in which every expected shard is done; if ``allow_missing``, at least one.

    Raises UsageError if there is no plan, StaleShardsError if shards belong to another measurement, and
    IncompleteRunError, which names the missing ones.
    """
    plan = folder.read_plan()
    found = folder_status(folder, plan)
    found.refuse_stale(folder)
    if not found.done or (found.to_measure and not allow_missing):
        raise IncompleteRunError(_missing_message(folder, plan, found))
    return plan, found


def _missing_message(folder: RunFolder, plan: WorkPlan, found: FolderStatus) -> str:
    names = plan.names()
    absent = [names[key] for key in found.to_measure if key not in found.incomplete]
    said = [f"{len(absent)} of {len(names)} have no shard ({', '.join(absent)})"] if absent else []
    if found.incomplete:
        lacking = (f"{names[key]} {lacks}" for key, lacks in found.incomplete.items())
        said.append(f"{len(found.incomplete)} have one that is incomplete ({'; '.join(lacking)})")
    told = " and ".join(said) or "there is no shard"
    without = ", or pass --allow-missing to report without them" if found.done else ""
    return f"{folder}: {told}; run `int4-collapse {folder.kind.name}` again to finish them{without}"


def _differing_shard(
    folder: RunFolder, shard: Shard, plan: WorkPlan, identity: dict[str, Any] | None
) -> tuple[str, ...]:
    """Differences between ``shard`` and the plan; ``identity``: the wanted one, if the plan has the key."""
    compare = compared(folder.kind.spec_type, shard.config, plan.config)
    if differing := _differing(*compare, told=(shard.config, plan.config)):
        return differing
    # An empty value (weights that cannot be read now) equals any other.
    known = {name for name, value in (identity or {}).items() if "" not in (value, shard.identity.get(name))}
    there, wanted = ({name: each.get(name) for name in known} for each in (shard.identity, identity or {}))
    return _differing(there, wanted, told=(there, wanted))


def _differing(
    there: dict[str, Any], wanted: dict[str, Any], *, told: tuple[dict[str, Any], dict[str, Any]]
) -> tuple[str, ...]:
    """The names in which ``there`` and ``wanted`` differ, nested ones dotted, each with its values in ``told``."""
    flat_there, flat_wanted = _flat(there), _flat(wanted)
    names = sorted(flat_there.keys() | flat_wanted.keys())
    before, now = map(_flat, told)
    return tuple(
        f"{name}: {before.get(name, 'its default')} -> {now.get(name, 'its default')}"
        for name in names
        if flat_there.get(name) != flat_wanted.get(name)
    )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
