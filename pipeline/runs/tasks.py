"""The units of work as plain functions, for a REPL or for the driver's workers.

The driver imports this module too, to copy duplicates, so torch is imported only inside functions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import CheckpointError, ShardError
from pipeline.base.fingerprints import canonical_json
from pipeline.base.retry import retry_while_away
from pipeline.base.signals import termination
from pipeline.base.versions import versions
from pipeline.runs.calibration_tokens import read_calibration
from pipeline.runs.control_column import CONTROLS
from pipeline.runs.folder import RunFolder
from pipeline.runs.shard import Origin, Shard
from pipeline.runs.shard_merge import disagreement, merged
from pipeline.runs.shard_schema import FORK
from pipeline.runs.swap_column import SWAPS
from pipeline.runs.task_values import ForkTask, ProbeTask
from pipeline.spec import Checkpoint, ProbeSpec
from pipeline.suites import Fetcher, checkout

if TYPE_CHECKING:
    from pipeline.probe import LayeredProber, Measurement, Prober
    from pipeline.runs.fork_run import ForkRun, Starts


@dataclass(frozen=True)
class TaskDone:
    """A finished task's result for the driver; the numbers are in the shard."""

    key: str
    seconds: float
    notes: tuple[str, ...] = ()
    busy_s: float = 0.0
    """Seconds from the start of the measurement to its end."""
    idle_s: float = 0.0
    """Seconds without a measurement before it, since the last one ended or this one was requested."""


class DeviceLock:
    """A first-come-first-served lock for the device; also reports the idle time before each turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._ended: float | None = None

    @contextmanager
    def take(self, asked: float) -> Iterator[float]:
        """Context manager: wait for the lock; gives the idle seconds before it. ``asked``: when (perf_counter)."""
        place = object()
        with self._changed:
            self._line.append(place)
            self._changed.wait_for(lambda: self._line[0] is place)
        try:
            yield time.perf_counter() - (asked if self._ended is None else self._ended)
        finally:
            with self._changed:
                self._line.popleft()
                self._ended = time.perf_counter()
                self._changed.notify_all()


def new_prober(spec: ProbeSpec, folder: RunFolder, device: str) -> Prober:
    """Make the state that all tasks of a probe share: tokens, device, model template."""
    from pipeline.probe import Prober

    wanted = spec.calibration_sha256 if spec.is_calibrated else None
    calibration = None if wanted is None else read_calibration(folder, wanted)
    return Prober(spec, folder.tokens.read(), device, calibration=calibration)


def run_probe(
    task: ProbeTask,
    prober: Prober | None = None,
    fetcher: Fetcher | None = None,
    turn: DeviceLock | None = None,
) -> TaskDone:
    """Measure one checkpoint and write its shard, or add to the existing one (``ProbeTask.adds``).

    ``prober``: reused if given. ``fetcher``: if given, fetches the next checkpoints meanwhile. ``turn``: of several
    threads that share it, one measures while the others fetch and read. Raises CheckpointError for an unusable
    checkpoint and OutputError if the shard cannot be written.
    """
    folder = RunFolder(task.out)
    prober = prober or new_prober(task.measuring, folder, task.device)
    asked = time.perf_counter()
    if fetcher is not None:
        fetcher.ahead(task.ahead, lambda checkpoint: task.adds is None and folder.shards.has(checkpoint.key))
    with ExitStack() as stack:
        weights = stack.enter_context(checkout(task.checkpoint, task.cache_gb))
        other = None if task.beside is None else stack.enter_context(checkout(task.beside, task.cache_gb))
        suited = _suited(prober, task, weights)
        suited.prefetch(weights, task.checkpoint.weights_sha256)
        try:
            with (turn or DeviceLock()).take(asked) as idle_s:
                begun = time.perf_counter()
                measured = suited.measure(weights, task.checkpoint.weights_sha256, beside=other)
                busy_s = time.perf_counter() - begun
        finally:
            # An error may have come before the lock was taken.
            suited.forget(weights, task.checkpoint.weights_sha256)
    rows = shard_rows(task.suite, task.checkpoint, measured)
    if task.adds is not None:
        differing = retry_while_away(lambda: _add(folder, task, rows, measured))
        if differing:
            again = run_probe(replace(task, adds=None), fetcher=fetcher, turn=turn)
            return replace(again, notes=(f"measured again as a whole: {differing}", *again.notes))
    else:
        retry_while_away(lambda: folder.shards.write(task, rows, Origin(versions(), measured.notes)))
    return TaskDone(task.key, measured.load_s + measured.probe_s, measured.notes, busy_s, idle_s)


def _add(folder: RunFolder, task: ProbeTask, rows: list[dict[str, Any]], now: Measurement) -> str:
    """Add ``rows`` and the controls in ``now`` to the shard of ``task``; where they do not match, only return why."""
    try:
        there = folder.shards.read(task.key)
    except ShardError as error:
        return str(error)
    if not there.is_of(task.probe) or there.identity != task.identity():
        return "the existing shard belongs to another measurement"
    if different := disagreement(there, rows):
        return different
    if lacks := there.lacks(task.probe.config()):
        checkpoint = identity(task.suite, task.checkpoint)
        together, measured = merged(
            there,
            rows,
            task.measuring.measurements,
            checkpoint,
            controls=now.control_entries(),
            swaps=now.swap_entries(),
        )
        added = [f"{variant} was added later" for variant in measured if variant not in there.measured]
        added += [f"the controls of {variant} were added later" for variant in lacks.controls]
        all_notes = tuple(dict.fromkeys([*there.notes, *now.notes, *added]))
        task = _calibrated_as(task, there)
        folder.shards.write(task, together, Origin(there.versions, all_notes, measured), there)
    return ""


def _suited(prober: Prober, task: ProbeTask, weights: Path) -> Prober | LayeredProber:
    """``prober``, or one that measures layer by layer if ``task`` asks for it or the checkpoint does not fit whole."""
    from pipeline.probe.fit import fits_whole

    whole = not task.stream and fits_whole(weights, task.probe, prober.device, prober.calibration_tokens)
    return prober if whole else prober.layer_by_layer


def run_fork(
    task: ForkTask,
    prober: Prober | None = None,
    starts: Starts | None = None,
    on_probe: Callable[[list[dict[str, Any]]], object] = lambda _: None,
) -> TaskDone:
    """Train one run of the fork experiment, probe it on the way, and write its shard.

    ``prober`` and the measurements in ``starts`` are reused if given; this run's own is added to ``starts``.
    ``on_probe`` is called after every probe with the rows of all so far, those of a resumed run among them.
    Continues from the state of a killed run. Saves a state every ``state_every`` updates, no sooner than
    ``state_after_s`` seconds after the last one, and on SIGTERM, which then ends the process. Raises
    CheckpointError for an unusable checkpoint and OutputError if the folder cannot be written; a run that diverges
    is written like any other.
    """
    from pipeline.runs.fork_run import ForkRun

    start = time.perf_counter()
    folder = RunFolder(task.out, FORK)
    prober = prober or new_prober(task.spec.probe, folder, task.device)
    with checkout(task.checkpoint) as weights:
        run = ForkRun(task, weights, folder.training_tokens.read(), prober, starts)
    state = folder.states.read(task.key)
    notes = []
    if state is not None:
        resumed = run.resume(state)
        notes = ["continued from its saved state" if resumed else "its saved state is unusable: started over"]
    saved = time.monotonic()
    with termination() as asked_to_stop:
        run.start()
        on_probe(run.rows)
        while not run.done:
            probed = len(run.rows)
            run.advance()
            if len(run.rows) > probed:
                on_probe(run.rows)
            due = run.step % task.state_every == 0 and time.monotonic() - saved >= task.state_after_s
            if asked_to_stop() or (due and not run.done):
                folder.states.write(task.key, run.step, run.state())
                saved = time.monotonic()
            if asked_to_stop():
                break
    if not run.done:
        raise CheckpointError(f"stopped by SIGTERM after {run.step} updates; run it again to continue")
    retry_while_away(
        lambda: folder.shards.write(task, fork_rows(task, run), Origin(versions(), tuple(run.notes)))
    )
    folder.states.remove(task.key)
    return TaskDone(task.key, time.perf_counter() - start, (*notes, *run.notes))


def fork_rows(task: ForkTask, run: ForkRun) -> list[dict[str, Any]]:
    """The rows of a finished run, with exactly the columns of the shard."""
    common = {
        "suite": task.suite,
        "revision": task.checkpoint.revision,
        "run_id": task.key,
        "arm": task.arm.label,
        "schedule": task.arm.schedule,
        "parameters": canonical_json(task.arm.settings()),
        "optimizer": task.arm.optimizer,
        "seed": task.seed,
        "status": "diverged" if run.diverged else "ok",
    }
    return [common | row for row in run.rows]


def copy_probe(task: ProbeTask, source_key: str) -> TaskDone:
    """Write the shard of a duplicate with the numbers of ``source_key``, which has the same content."""
    checkpoint = task.checkpoint
    folder = RunFolder(task.out)
    source = folder.shards.read(source_key)
    alike = source.is_of(task.probe) and source.identity == task.identity()
    if not alike or source.lacks(task.probe.config()):
        raise CheckpointError(
            f"{checkpoint.key} cannot repeat {source.key}: that shard belongs to other weights"
        )
    rows = [row | identity(task.suite, checkpoint) for row in source.table.to_pylist()]
    task = _calibrated_as(task, source)
    folder.shards.write(task, rows, Origin(versions(), source.notes, source.measured), source)
    return TaskDone(checkpoint.key, 0.0, source.notes)


def _calibrated_as(task: ProbeTask, there: Shard) -> ProbeTask:
    """``task`` with the calibration that rows of ``there``, which it keeps, are of."""
    kept = there.config.get("calibration_sha256")
    return task if kept is None else replace(task, probe=replace(task.probe, calibration_sha256=kept))


def shard_rows(suite: str, checkpoint: Checkpoint, measured: Measurement) -> list[dict[str, Any]]:
    """One dict per variant, with exactly the columns of the shard."""
    common = {
        **identity(suite, checkpoint),
        "weights_sha256": measured.weights_sha256,
        "load_s": measured.load_s,
        "probe_s": measured.probe_s,
        "peak_bytes": measured.peak_bytes,
        "device": measured.device,
    }
    controls = measured.control_entries()
    swaps = measured.swap_entries()
    found = []
    for result in measured.results:
        row = common | result.row()
        row |= {CONTROLS: controls.get(result.variant)} if controls else {}
        row |= {SWAPS: swaps.get(result.variant)} if swaps else {}
        found.append(row)
    return found


def identity(suite: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """The columns that identify a row's checkpoint."""
    return {
        "suite": suite,
        "revision": checkpoint.revision,
        "step": checkpoint.step,
        "tokens_seen": checkpoint.tokens_seen,
        "learning_rate": checkpoint.learning_rate,
        "duplicate_of": checkpoint.duplicate_of,
    }
