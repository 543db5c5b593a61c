"""The fork experiment in a straight line: plan, survey, tasks, driver, failures, summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.corpus import EvaluationTokens
from pipeline.driver import Resources, staffed
from pipeline.errors import OutputError
from pipeline.events import EventLog
from pipeline.ledger import Ledger, Progress, RunSummary
from pipeline.patience import patiently
from pipeline.shards import ForkPlan, RunFolder
from pipeline.shards.plans import PlannedRun
from pipeline.spec import Checkpoint
from pipeline.survey import Survey, survey
from pipeline.train.arms import Arm
from pipeline.train.fork_spec import ForkSpec, ForkTask
from pipeline.versions import versions
from pipeline.worker import TaskWorker

LOOK_EVERY_S = 10.0
"""Least time between two looks at how far the unfinished runs are."""


@dataclass(frozen=True, eq=False)
class ForkRequest:
    """What to train and measure, and where the shards go."""

    suite: str
    checkpoint: Checkpoint
    start_rule: str
    """Why this checkpoint, as a sentence."""
    spec: ForkSpec
    arms: tuple[Arm, ...]
    """Resolved."""
    seeds: int
    """Runs per arm: seeds 0 to ``seeds - 1``, the same data order for every arm."""
    tokens: EvaluationTokens
    train: np.ndarray
    """1-D training tokens."""
    corpus: str
    train_corpus: str
    out: RunFolder
    """Of kind ``FORK``."""
    resources: Resources
    state_every: int
    state_after_s: float = 0.0
    """Least seconds between two states of a run."""
    train_made_of: dict[str, Any] | None = None
    """Of which text and tokenizer ``train`` is (``pipeline.train.kept_tokens``); None = they are never used again."""
    train_kept: bool = False
    """Whether ``train`` was read from ``out``, where an earlier call had kept it."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What is known to be wrong with some of the suite's checkpoints."""
    replace_stale: bool = False

    def runs(self) -> tuple[PlannedRun, ...]:
        """Every run, the first seeds of all arms before the second: a look half-way sees all arms."""
        return tuple(PlannedRun(arm, seed) for seed in range(self.seeds) for arm in self.arms)


def fork(
    request: ForkRequest,
    on_survey: Callable[[Survey], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> RunSummary:
    """Trains and probes every run of the experiment that has no valid shard yet.

    A rerun resumes, unfinished runs from their saved state; a rerun with more seeds or schedules adds to the
    experiment. Raises StaleShardsError, FolderLockedError or OutputError; a run that fails is a failure in the
    summary and does not stop the others.
    """
    start = time.monotonic()
    out = request.out
    with out.lock(), out.event_log() as events:
        plan = _record_plan(request)
        found = survey(out, plan)
        if request.replace_stale:
            for key in found.stale:
                out.remove_shard(key)
            found = survey(out, plan)
        found.refuse_stale(out)
        out.prepare()
        out.write_tokens(request.tokens.array)
        if out.holds_training_tokens(request.spec.train_sha256, checked=request.train_kept):
            out.write_train_note(_note(request))
        else:
            out.write_training_tokens(request.train, _note(request))
        out.write_plan(plan)
        on_survey(found)
        ledger = Ledger(out, found, len(plan.runs), on_progress, events)
        tasks = _tasks(request, plan, found)
        look = UnderWay(request, {task.key for task in tasks}, ledger, events)
        if tasks:
            with staffed(request.resources, len(tasks), TaskWorker, events, long_tasks=True) as crew:
                on_progress(ledger.progress(None))
                placed = [replace(task, device=crew.layout.device) for task in tasks]
                crew.drive(placed, ledger.record, on_tick=look, label=request.suite)
        wall_s = time.monotonic() - start
        ended = replace(plan, wall_s=plan.wall_s + wall_s)
        patiently(lambda: out.write_plan(ended))
        return ledger.summary(wall_s)


def _note(request: ForkRequest) -> dict[str, Any]:
    """What is kept beside the training tokens."""
    return {**(request.train_made_of or {}), "tokens_sha256": request.spec.train_sha256}


class UnderWay:
    """Tells the ledger how far the unfinished runs are, by the states that they keep; costs one listing a time."""

    def __init__(self, request: ForkRequest, keys: Container[str], ledger: Ledger, events: EventLog) -> None:
        self._out, self._steps, self._keys = request.out, request.spec.rates.steps, keys
        self._ledger, self._events = ledger, events
        self._looked, self._made = time.monotonic(), self._list()
        ledger.resume(self._shares())

    def __call__(self) -> None:
        """Looks, unless it has just done so; says what has changed, if anything."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        before = self._made
        with suppress(OutputError):  # what is wrong with the folder is for those who need it to say
            self._made = self._list()
        self._looked = time.monotonic()
        changed = {key: made for key, made in self._made.items() if made != before.get(key)}
        for key, made in changed.items():
            self._events("advanced", key=key, updates=made, of=self._steps)
        if changed:
            self._ledger.advance(self._shares())

    def _list(self) -> dict[str, int]:
        return {key: made for key, made in self._out.updates_made().items() if key in self._keys}

    def _shares(self) -> dict[str, float]:
        return {key: made / self._steps for key, made in self._made.items()}


def _record_plan(request: ForkRequest) -> ForkPlan:
    """The plan of this request, and of earlier requests of the same experiment in the same folder."""
    plan = ForkPlan(
        suite=request.suite,
        checkpoint=request.checkpoint,
        start_rule=request.start_rule,
        runs=request.runs(),
        config=request.spec.config(),
        fingerprint=request.spec.fingerprint(),
        corpus=request.corpus,
        train_corpus=request.train_corpus,
        versions=versions(),
        notes=request.notes,
    )
    if not request.out.has_plan():
        return plan
    before: ForkPlan = request.out.read_plan()
    if not before.is_comparable(plan) or before.suite != plan.suite:
        return plan
    asked = {run.key for run in plan.runs}
    kept = tuple(run for run in before.runs if run.key not in asked)
    return replace(plan, runs=plan.runs + kept, wall_s=before.wall_s)


def _tasks(request: ForkRequest, plan: ForkPlan, found: Survey) -> list[ForkTask]:
    missing = set(found.to_measure)
    return [
        ForkTask(
            suite=plan.suite,
            checkpoint=plan.checkpoint,
            spec=request.spec,
            arm=run.arm,
            seed=run.seed,
            out=request.out.location,
            state_every=request.state_every,
            state_after_s=request.state_after_s,
        )
        for run in plan.runs
        if run.key in missing
    ]
