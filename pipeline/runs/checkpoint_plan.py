"""The plan of an audit folder: the checkpoints of this call and of earlier calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from pipeline.base.errors import StaleShardsError, UsageError
from pipeline.base.fingerprints import comparable
from pipeline.base.versions import versions
from pipeline.runs.folder import RunFolder
from pipeline.runs.kind_of_work import Request
from pipeline.runs.plans import RunPlan
from pipeline.runs.shard import Settings
from pipeline.spec import Checkpoint
from pipeline.suites import Suite


def checkpoint_plan(
    request: Request, suite: Suite, settings: Settings, *, corpus: str = "", calibration: str = ""
) -> RunPlan:
    """The plan of ``request``, merged with earlier requests of comparable settings in the same folder.

    A folder's set of expected checkpoints only grows: a trial with ``--limit 5`` and the full run are one run, in
    either order. Raises StaleShardsError if the folder holds another run.
    """
    plan = RunPlan(
        suite=suite.name,
        location=suite.location,
        checkpoints=merge_checkpoints((), suite.checkpoints),
        config=settings.config(),
        fingerprint=settings.fingerprint(),
        corpus=corpus,
        calibration=calibration,
        versions=versions(),
        recipe=dict(suite.recipe),
        skipped=suite.skipped,
    )
    before = _plan_before(request.out)
    kind = type(settings)
    if before is None or not comparable(kind, before.config, plan.config):
        return plan
    if before.location != plan.location and not _same_weights(before, plan):
        if not request.replace_stale:
            raise StaleShardsError(
                f"{request.out} holds the run of {before.location}, this is {plan.location}: write elsewhere with "
                "--out, or discard what is there with --replace-stale"
            )
        for checkpoint in before.checkpoints:
            request.out.shards.remove(checkpoint.key)
        return plan
    checkpoints = merge_checkpoints(before.checkpoints, suite.checkpoints)
    return replace(
        plan,
        checkpoints=checkpoints,
        calibration=plan.calibration or before.calibration,
        wall_s=before.wall_s,
        busy_s=before.busy_s,
        idle_s=before.idle_s,
    )


def _plan_before(out: RunFolder) -> RunPlan | None:
    if not out.has_plan():
        return None
    try:
        plan: RunPlan = out.read_plan()
    except UsageError:  # damaged: this call rewrites it, and the shards identify themselves
        return None
    return plan


def _same_weights(before: RunPlan, plan: RunPlan) -> bool:
    """Whether both share a checkpoint: the suite's folder was then moved, not replaced."""
    ids = {checkpoint.key: checkpoint.content_id for checkpoint in before.checkpoints}
    return any(each.content_id and ids.get(each.key) == each.content_id for each in plan.checkpoints)


def merge_checkpoints(before: Sequence[Checkpoint], asked: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Both sets in order of stage and step; requested checkpoints replace equal ones, and duplicates are linked.

    Every duplicate points to the first checkpoint of the result with its content, which points to none.
    """
    merged = {checkpoint.key: checkpoint for checkpoint in (*before, *asked)}
    group = {key: key for key in merged}
    for checkpoint in (*before, *asked):
        original = checkpoint.duplicate_of
        if original in merged and checkpoint.content_id == merged[checkpoint.key].content_id:
            old, new = group[checkpoint.key], group[original]
            group = (
                {key: new if each == old else each for key, each in group.items()} if old != new else group
            )
    first: dict[str, str] = {}
    linked = []
    for checkpoint in sorted(merged.values(), key=_order):
        root = first.setdefault(group[checkpoint.key], checkpoint.key)
        linked.append(replace(checkpoint, duplicate_of=None if root == checkpoint.key else root))
    return tuple(linked)


def _order(checkpoint: Checkpoint) -> tuple[list[tuple[bool, int, str]], int]:
    """Sort key: stage, with its numbers as numbers, then step."""
    parts = re.findall(r"\d+|\D+", checkpoint.stage)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts], checkpoint.step
