"""Who is handed which task, what a loss costs, and what counts as hung."""

from __future__ import annotations

import pytest

from pipeline.driver.task_queue import (
    HUNG_AFTER_S,
    MAX_ATTEMPTS,
    MAX_LOSSES,
    Attempt,
    TaskQueue,
)
from pipeline.runs.task_values import ProbeTask
from pipeline.spec import Checkpoint, ProbeSpec, TokenShape, parse_variants


def queue_of(n: int, **options: object) -> TaskQueue:
    probe = ProbeSpec(parse_variants(()), TokenShape(1, 1, 2), "x")
    tasks = [ProbeTask("s", Checkpoint(step, f"step{step}", "x"), probe, "x") for step in range(n)]
    return TaskQueue(tasks, **options)  # type: ignore[arg-type]


def give(tasks: TaskQueue, holder: str, now: float = 0.0, behind: Attempt | None = None) -> Attempt:
    given = tasks.next(holder, now, behind)
    assert given is not None
    return given


def step(attempt: Attempt) -> int:
    return int(attempt.task.key[-1])


def test_tasks_go_out_in_order_and_each_is_settled_once() -> None:
    tasks = queue_of(3)
    holds = [give(tasks, name) for name in "abc"]
    assert [step(hold) for hold in holds] == [0, 1, 2]
    assert tasks.next("d", 0.0) is None
    for hold in holds:
        tasks.settle(hold, 1.0)
    assert not tasks.unsettled


def test_a_task_whose_worker_dies_is_tried_again_first_and_not_for_ever() -> None:
    tasks = queue_of(2)
    for attempt in range(MAX_ATTEMPTS):
        hold = give(tasks, f"worker {attempt}")
        assert step(hold) == 0
        again = tasks.lost(hold, tried=True, node=False)
        assert again is (attempt < MAX_ATTEMPTS - 1)
    assert [key[-1] for key in tasks.unsettled] == ["1"]


def test_a_node_that_leaves_is_not_its_tasks_fault() -> None:
    tasks = queue_of(1)
    for _ in range(MAX_LOSSES - 1):
        assert tasks.lost(give(tasks, "a"), tried=True, node=True)
    assert not tasks.deaths
    assert not tasks.lost(give(tasks, "a"), tried=True, node=True), "unless it takes down every node"


def test_what_was_queued_behind_the_task_that_killed_its_worker_is_not_blamed() -> None:
    tasks = queue_of(2)
    for _ in range(2 * MAX_LOSSES):
        assert tasks.lost(give(tasks, "a"), tried=False, node=False)


def test_a_task_that_a_worker_died_on_runs_alone() -> None:
    tasks = queue_of(3)
    first = give(tasks, "a")
    behind = give(tasks, "a", behind=first)
    tasks.lost(behind, tried=False, node=False)
    tasks.lost(first, tried=True, node=False)
    other = give(tasks, "b")
    assert other.task is first.task
    assert tasks.next("b", 0.0, other) is None
    assert give(tasks, "c").task is behind.task


def test_training_runs_never_count_as_hung() -> None:
    tasks = queue_of(2, detects_hung=False)
    tasks.settle(give(tasks, "a"), 1.0)
    give(tasks, "b")
    assert tasks.overdue(1e6) == []


@pytest.mark.parametrize(("timeout_s", "limit"), [(None, HUNG_AFTER_S), (5.0, 5.0), (0.0, float("inf"))])
def test_a_task_is_taken_for_hung_after_its_time_out(timeout_s: float | None, limit: float) -> None:
    tasks = queue_of(3, timeout_s=timeout_s)
    tasks.settle(give(tasks, "a"), 1.0)
    at_it = give(tasks, "a")
    behind = give(tasks, "a", behind=at_it)
    assert tasks.overdue(min(limit, 1e9) - 1) == []
    assert tasks.overdue(min(limit, 1e9) + 1) == ([] if limit == float("inf") else [at_it])
    assert behind.queued
