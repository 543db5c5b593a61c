"""One call of any kind of work in a straight line: plan, survey, tasks, driver, failures, summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pipeline.base.retry import patiently
from pipeline.driver import staffed
from pipeline.runs.kind_of_work import kinds_of_work
from pipeline.runs.status import survey
from pipeline.runs.worker import TaskWorker

if TYPE_CHECKING:
    from pipeline.runs.progress import Progress, RunSummary
    from pipeline.runs.status import Survey


def execute(
    request: Any,
    on_survey: Callable[[Survey], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> RunSummary:
    """Does whatever of ``request`` (``kind_of_work.Request``) has no valid shard yet.

    A rerun resumes. Raises StaleShardsError, FolderLockedError or OutputError; a task that cannot be done is a failure
    in the summary and does not stop the others.
    """
    start, out = time.monotonic(), request.out
    work = kinds_of_work.find(out.kind.name)
    with out.lock(), out.event_log() as events, ExitStack() as stack:
        plan = work.plan(request)
        asked, listed = work.asked(request, plan), out.shard_keys()

        def crew_for(tasks: int) -> Any:
            return stack.enter_context(
                staffed(request.resources, tasks, TaskWorker, events, long_tasks=work.long_tasks)
            )

        checking = stack.enter_context(ThreadPoolExecutor(1)).submit(survey, out, plan, listed)
        # There is work, whatever the survey finds: Ray and the workers start while the shards are checked.
        left = asked - set(listed) - plan.duplicates().keys()
        crew = crew_for(len(left)) if left else None
        found = checking.result()
        if request.replace_stale:
            for key in found.stale:
                out.remove_shard(key)
            found = survey(out, plan)
        found.refuse_stale(out)
        out.prepare()
        work.write_inputs(request)
        out.write_plan(plan)
        ledger = work.ledger(request, plan, found, on_progress, events)
        on_survey(ledger.found)
        ledger.begin()
        if ledger.tasks:
            crew = crew or crew_for(len(ledger.tasks))
            on_progress(ledger.progress(None))
            crew.drive(ledger.placed(crew.layout), ledger.record, on_tick=ledger.look, label=ledger.label)
        ledger.check_complete(asked)
        summary = ledger.summary(time.monotonic() - start)
        ended = plan.after(summary.wall_s, summary.busy_s, summary.idle_s)
        patiently(lambda: out.write_plan(ended))
        return summary
