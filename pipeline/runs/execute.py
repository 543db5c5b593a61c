"""One call of any kind of work in a straight line: plan, folder status, tasks, driver, failures, summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from pipeline.base.retry import retry_while_away
from pipeline.driver import running_workers
from pipeline.runs.folder_status import FolderStatus, folder_status
from pipeline.runs.kind_of_work import kinds_of_work
from pipeline.runs.progress import Progress, RunSummary
from pipeline.runs.worker import TaskWorker


def execute(
    request: Any,
    on_status: Callable[[FolderStatus], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> RunSummary:
    """Run the tasks of ``request`` (``kind_of_work.Request``) that have no valid shard yet.

    A rerun resumes. Raises StaleShardsError, FolderLockedError or OutputError; a task that fails is in the summary
    and does not stop the others.
    """
    start, out = time.monotonic(), request.out
    work = kinds_of_work.find(out.kind.name)
    with out.lock(), out.event_log() as events, ExitStack() as stack:
        plan = work.plan(request)
        asked, listed = work.asked(request, plan), out.shards.list_keys()

        def workers_for(tasks: int) -> Any:
            return stack.enter_context(
                running_workers(request.resources, tasks, TaskWorker, events, long_tasks=work.long_tasks)
            )

        checking = stack.enter_context(ThreadPoolExecutor(1)).submit(folder_status, out, plan, listed)
        # There is work, whatever the folder holds: Ray and the workers start while the shards are checked.
        left = asked - set(listed) - plan.duplicates().keys()
        workers = workers_for(len(left)) if left else None
        found = checking.result()
        if request.replace_stale:
            for key in found.stale:
                out.shards.remove(key)
            found = folder_status(out, plan)
        found.refuse_stale(out)
        out.prepare()
        work.write_inputs(request)
        out.write_plan(plan)
        mine = found.only(asked)
        tracker = work.tracker()(out, mine, on_progress, events)
        tasks = tracker.arranged(work.tasks(request, plan, mine), plan, found)
        on_status(mine)
        tracker.begin()
        if tasks:
            workers = workers or workers_for(len(tasks))
            on_progress(tracker.progress(None))
            placed = tracker.placed(tasks, workers.layout)
            workers.drive(placed, tracker.record, on_tick=tracker.look, label=plan.suite)
        tracker.check_complete(asked)
        summary = tracker.summary(time.monotonic() - start)
        ended = plan.after(summary.wall_s, summary.busy_s, summary.idle_s)
        retry_while_away(lambda: out.write_plan(ended))
        return summary
