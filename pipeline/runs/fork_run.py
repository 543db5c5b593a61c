"""One run of the fork experiment: train from a checkpoint and probe on the way. The caller handles files.

With the state of :meth:`ForkRun.state` a run continues exactly: batches depend on (seed, step) only, and dropout,
if the model has it, is drawn from a generator seeded with both.
"""

from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.base.fingerprints import canonical_json, fingerprint, pinned
from pipeline.measurements import pool, pooled_columns, score_columns, squared_error
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.probe import Measurement, Prober
from pipeline.runs.task_values import ForkTask
from pipeline.spec import MEASUREMENTS, ProbeSpec
from pipeline.suites import Unchanged
from pipeline.suites.optimizer_moments import read_moments
from pipeline.train.arms import make_arm_schedule
from pipeline.train.averages import Averages, checkpoint_model
from pipeline.train.data import Batches
from pipeline.train.fork_spec import DATA_SEED_OFFSET, ForkSpec
from pipeline.train.loop import Trainer, drops
from pipeline.train.optimizers import load_moments

Row = dict[str, Any]
Starts = dict[tuple[str, str, ProbeSpec, str], Measurement]
"""Measurements of starting weights, keyed by weights, probe and device: all runs of an experiment start from the
same weights, and a process measures them once."""

WANTED_FIELDS = ("variants", "measurements", "mechanism", "by_layer")
"""Settings of a probe that decide which rows and columns there are."""
LATER_FIELDS = (
    "measurements", "mechanism", "by_layer", "controls", "calibration_sha256", "flatness", "swap", "swapped",
)  # fmt: skip
"""Settings of a probe that the first releases did not have."""


class ForkRun:
    """One run, from the fork to its end."""

    def __init__(
        self, task: ForkTask, folder: Path, tokens: np.ndarray, prober: Prober, starts: Starts | None = None
    ) -> None:
        """``folder``: the checkpoint's. ``tokens``: 1-D, for training. ``starts``: reused; this run adds its own."""
        spec, device = task.spec, torch.device(task.device)
        files = Unchanged(folder)
        stored = read_weights(folder, task.checkpoint.weights_sha256)
        model = build_model(read_config(folder), stored).requires_grad_(True)
        self.task, self.rows, self.notes = task, list[Row](), list[str]()
        self.diverged = False
        self._prober, self._stored = prober, stored.dtype
        self._starts: Starts = {} if starts is None else starts
        self._start_key = (spec.content_id, stored.sha256, spec.probe, task.device)
        self._schedule = make_arm_schedule(task.arm, spec.rates)
        self._trainer = Trainer(
            model,
            batches=Batches(
                torch.from_numpy(tokens.astype(np.int64)).to(device),
                seq_len=spec.seq_len,
                sequences=spec.sequences,
                seed=DATA_SEED_OFFSET + task.seed,
            ),
            schedule=self._schedule,
            settings=spec.optimizer,
            device=device,
            optimizer=task.arm.optimizer,
            precision=spec.precision,
            compiled=spec.compiled,
        )
        if spec.moments == "suite" and task.arm.optimizer != "muon":
            load_moments(model, self._trainer.optimizer, read_moments(folder))
        self._averages = Averages(model, decay=spec.ema_decay, window=spec.lawa_window)
        files.check()  # the averages hold every weight as read
        self._drops = drops(model)
        self._loss_sum, self._loss_count = torch.zeros((), device=device), 0
        self._probes = set(spec.probe_steps)
        self._began = time.perf_counter()

    @property
    def step(self) -> int:
        return self._trainer.step

    @property
    def done(self) -> bool:
        return self.diverged or self.step >= self.task.spec.rates.steps

    def start(self) -> None:
        """Probe the starting weights, unless the run continues from a state."""
        if not self.rows:
            self._probe()

    def advance(self) -> None:
        """Make one update, and probe if a probe is due."""
        if self._drops:
            torch.manual_seed(self.task.seed * 1_000_003 + self.step)
        self._loss_sum += self._trainer.advance()
        self._loss_count += 1
        self._averages.after_update()
        if self.step in self._probes:
            self._probe()

    def state(self) -> bytes:
        buffer = io.BytesIO()
        value = {
            "config": canonical_json(self.task.spec.config()),
            "identity": json.dumps(self.task.identity()),
            "trainer": self._trainer.state_dict(),
            "averages": self._averages.state_dict(),
            "rows": self.rows,
            "loss": (self._loss_sum, self._loss_count),
            "seconds": time.perf_counter() - self._began,
        }
        torch.save(value, buffer)
        return buffer.getvalue()

    def resume(self, data: bytes) -> bool:
        """Continue from a saved :meth:`state`; False, without a change, if it is unreadable or of another run."""
        try:
            value = torch.load(io.BytesIO(data), map_location=self._trainer.device, weights_only=True)
        except Exception:  # noqa: BLE001 - a damaged file raises anything; the run then starts over
            return False
        if not self._is_of_this_run(value):
            return False
        self._trainer.load_state_dict(value["trainer"])
        self._averages.load_state_dict(value["averages"])
        self.rows, (self._loss_sum, self._loss_count) = value["rows"], value["loss"]
        self._began = time.perf_counter() - value["seconds"]
        return True

    def _is_of_this_run(self, value: dict[str, Any]) -> bool:
        """Whether a state belongs to the same run and has rows of the same variants and measurements."""
        config = self.task.spec.config()
        if "config" in value:
            there = json.loads(value["config"])
            asked_then = {"mechanism": [], "by_layer": False, **there["probe"]}
            wanted = all(asked_then.get(name) == config["probe"][name] for name in WANTED_FIELDS)
            same = wanted and pinned(ForkSpec, there) == pinned(ForkSpec, config)
        else:  # written by a release whose fingerprint held all settings and which had the core measurements only
            former = {**config, "probe": {k: v for k, v in config["probe"].items() if k not in LATER_FIELDS}}
            core = tuple(config["probe"]["measurements"]) == MEASUREMENTS
            same = core and value.get("fingerprint") == fingerprint(former)
        return same and value.get("identity") == json.dumps(self.task.identity())

    def _probe(self) -> None:
        loss = self._loss_sum.item() / self._loss_count if self._loss_count else None
        self._loss_sum.zero_()
        self._loss_count = 0
        self._averages.at_probe()
        if (loss is not None and not math.isfinite(loss)) or not self._finite():
            self.diverged = True
            self.rows += _nan_rows(self.rows, self._common(loss), self.task.spec.probe.measurements)
            return
        still = self.step == 0  # nothing to average yet: all three sets are the same weights
        live = self._measure_start() if still else self._measure(None)
        for name, measured in (
            ("live", live),
            ("ema", live if still else self._measure(self._averages.ema())),
            ("lawa", live if still else self._measure(self._averages.lawa())),
        ):
            self.rows += score_rows(measured, {**self._common(loss), "weights": name})
        self.diverged = not all(math.isfinite(each.nll_nats) for each in live.results)

    @torch.no_grad()
    def _finite(self) -> bool:
        """Whether every weight is finite, also in the suite's stored dtype."""
        weights = self._trainer.model.parameters()
        return all(bool(torch.isfinite(weight.to(self._stored)).all()) for weight in weights)

    def _measure_start(self) -> Measurement:
        known = self._starts.get(self._start_key)
        measured = self._measure(None) if known is None else self._noted(known)
        self._starts[self._start_key] = measured
        return measured

    def _measure(self, weights: list[torch.Tensor] | None) -> Measurement:
        model = checkpoint_model(self._trainer.model, weights, self._stored)
        return self._noted(self._prober.measure_model(model, self._stored))

    def _noted(self, measured: Measurement) -> Measurement:
        self.notes += [note for note in measured.notes if note not in self.notes]
        return measured

    def _common(self, loss: float | None) -> Row:
        """Columns that all rows of a probe share."""
        spec, last = self.task.spec, max(self.step - 1, 0)
        return {
            "step": self.step,
            "tokens": self.step * spec.tokens_per_step,
            "learning_rate": self._schedule(last) if self.step else spec.rates.base_lr,
            "phase_label": self._schedule.phase(last) if self.step else "start",
            "train_loss_nats": loss,
            "wall_s": time.perf_counter() - self._began,
        }


def score_rows(measured: Measurement, common: Row) -> list[Row]:
    """One row per variant: its scores, its gap to fp32, and its tensors' statistics pooled."""
    baseline, controls = measured.results[0].nll_nats, measured.control_entries()
    # No shard of a run has the late columns.
    late = {each.name for each in score_columns(measured.measurements) if each.late}
    rows = []
    for result in measured.results:
        scores = {name: value for name, value in result.row().items() if name not in late}
        tensors = scores.pop("tensors")
        with np.errstate(over="ignore", invalid="ignore"):
            gap = float(np.expm1(result.nll_nats - baseline))
        rows.append(
            {
                **common,
                **scores,
                "batch_nll_nats": list(result.batch_nll_nats),
                "gap": gap,
                **{each.name: pool(each, tensors) for each in pooled_columns(measured.measurements)},
                **(_of_controls(controls, result.variant, tensors) if controls else {}),
                "probe_s": measured.probe_s,
                "device": measured.device,
            }
        )
    return rows


def _of_controls(controls: dict[str, list[Row]], variant: str, tensors: list[Row]) -> Row:
    """The columns of ``variant`` where some variants have controls (``pipeline.runs.control_column``)."""
    own = controls.get(variant)
    return {
        "controls": own,
        "error_size": None if own is None or variant == "fp32" else squared_error(tensors),
    }


def _nan_rows(before: list[Row], common: Row, measurements: tuple[str, ...]) -> list[Row]:
    """Rows of a run whose loss is not finite: the scores of the last probe, replaced by NaN."""
    scores = {each.name for each in score_columns(measurements) if each.dtype != "int64"} | {"gap"}
    nothing: Row = {**{each.name: None for each in pooled_columns(measurements)}, **common, "probe_s": 0.0}
    step = before[-1]["step"]
    template = [row for row in before if row["step"] == step]
    return [
        {**row, **{name: _as_nan(row[name]) for name in scores & row.keys()}, **_nan_controls(row), **nothing}
        for row in template
    ]


def _nan_controls(row: Row) -> Row:
    """The columns of ``row`` that controls need, of a run that has diverged."""
    if "controls" not in row:
        return {}
    entries = [{**each, "batch_nll_nats": _as_nan(each["batch_nll_nats"])} for each in row["controls"] or ()]
    return {"controls": entries or None, "error_size": _as_nan(row["error_size"])}


def _as_nan(value: Any) -> Any:
    if value is None:
        return None
    return [math.nan] * len(value) if isinstance(value, list) else math.nan
