"""Who is handed which task, what a loss costs, and when a second copy is made."""

from __future__ import annotations

import pytest

from pipeline.driver.task_queue import (
    HUNG_AFTER_S,
    MAX_ATTEMPTS,
    MAX_LOSSES,
    STRAGGLER_AFTER_S,
    Attempt,
    TaskQueue,
)
from pipeline.spec import Checkpoint, ProbeSpec, ProbeTask, TokenShape, parse_variants


def board(n: int, **options: object) -> TaskQueue:
    probe = ProbeSpec(parse_variants(()), TokenShape(1, 1, 2), "x")
    tasks = [ProbeTask("s", Checkpoint(step, f"step{step}", "x"), probe, "x") for step in range(n)]
    return TaskQueue(tasks, **options)  # type: ignore[arg-type]


def give(board: TaskQueue, holder: str, now: float = 0.0, behind: Attempt | None = None) -> Attempt:
    given = board.next(holder, now, behind)
    assert given is not None
    return given[0]


def step(hold: Attempt) -> int:
    return int(hold.task.key[-1])


def test_tasks_go_out_in_order_and_each_is_settled_once() -> None:
    tasks = board(3)
    holds = [give(tasks, name) for name in "abc"]
    assert [step(hold) for hold in holds] == [0, 1, 2]
    assert all(tasks.settle(hold, 1.0) for hold in holds)
    assert not tasks.unsettled


def test_a_task_whose_worker_dies_is_tried_again_first_and_not_for_ever() -> None:
    tasks = board(2)
    for attempt in range(MAX_ATTEMPTS):
        hold = give(tasks, f"worker {attempt}")
        assert step(hold) == 0
        word = tasks.lost(hold, tried=True, node=False)
    assert word == "failed"
    assert [key[-1] for key in tasks.unsettled] == ["1"]


def test_a_node_that_leaves_is_not_its_tasks_fault() -> None:
    tasks = board(1)
    for _ in range(MAX_LOSSES - 1):
        assert tasks.lost(give(tasks, "a"), tried=True, node=True) == "retried"
    assert not tasks.deaths
    assert tasks.lost(give(tasks, "a"), tried=True, node=True) == "failed", "unless it takes down every node"


def test_what_was_queued_behind_the_task_that_killed_its_worker_is_not_blamed() -> None:
    tasks = board(2)
    for _ in range(2 * MAX_LOSSES):
        assert tasks.lost(give(tasks, "a"), tried=False, node=False) == "retried"


def test_a_task_that_a_worker_died_on_runs_alone() -> None:
    tasks = board(3)
    first = give(tasks, "a")
    behind = give(tasks, "a", behind=first)
    tasks.lost(behind, tried=False, node=False)
    tasks.lost(first, tried=True, node=False)
    other = give(tasks, "b")
    assert other.task is first.task
    assert tasks.next("b", 0.0, other) is None
    assert give(tasks, "c").task is behind.task


def test_a_straggler_is_copied_once_and_its_first_outcome_counts() -> None:
    tasks = board(3)
    slow, quick, other = (give(tasks, name) for name in "abc")
    tasks.settle(quick, 1.0)
    tasks.settle(other, 1.0)
    assert tasks.next("b", STRAGGLER_AFTER_S - 1) is None, "not late yet"
    late = 2 * STRAGGLER_AFTER_S
    given = tasks.next("b", late)
    assert given is not None
    copy, copied = given
    assert copied
    assert copy.task is slow.task
    assert tasks.next("c", late) is None, "two are enough"
    assert tasks.lost(slow, tried=True, node=False) is None, "the other one is at it"
    assert tasks.settle(copy, late + 1)
    assert not tasks.unsettled


def test_only_the_first_of_two_outcomes_counts() -> None:
    tasks = board(2)
    slow, quick = give(tasks, "a"), give(tasks, "b")
    tasks.settle(quick, 1.0)
    copy = give(tasks, "b", 100.0)
    assert [tasks.settle(hold, 101.0) for hold in (slow, copy)] == [True, False]


def test_what_waits_behind_another_task_is_copied_at_once() -> None:
    tasks = board(3)
    tasks.settle(give(tasks, "b"), 1.0)
    first = give(tasks, "a", 1.0)
    behind = give(tasks, "a", 1.0, first)
    assert give(tasks, "b", 1.0).task is behind.task
    assert tasks.next("c", 1.0, first) is None
    assert first.task.key in tasks.unsettled


def test_training_runs_are_never_copied_nor_taken_for_hung() -> None:
    tasks = board(2, copies=False)
    tasks.settle(give(tasks, "a"), 1.0)
    give(tasks, "b")
    assert tasks.next("a", 1e6) is None
    assert list(tasks.overdue(1e6)) == []


@pytest.mark.parametrize(("timeout_s", "limit"), [(None, HUNG_AFTER_S), (5.0, 5.0), (0.0, float("inf"))])
def test_a_task_is_taken_for_hung_after_its_time_out(timeout_s: float | None, limit: float) -> None:
    tasks = board(3, timeout_s=timeout_s)
    tasks.settle(give(tasks, "a"), 1.0)
    at_it = give(tasks, "a")
    behind = give(tasks, "a", behind=at_it)
    assert list(tasks.overdue(min(limit, 1e9) - 1)) == []
    assert list(tasks.overdue(min(limit, 1e9) + 1)) == ([] if limit == float("inf") else [at_it])
    assert behind.queued
