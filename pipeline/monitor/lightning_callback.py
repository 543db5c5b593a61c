"""The monitor inside the Trainer of Lightning: the quantized loss among its validation metrics.

Lightning is imported when this module is: nothing else of the library needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from pipeline.monitor.live_model import on_rank_0
from pipeline.monitor.observing import Monitor
from pipeline.monitor.verdicts import Verdict

LOG = logging.getLogger(__name__)


class Int4LightningCallback(Callback):
    """Logs ``val_int4_loss`` and ``val_int4_gap`` (for other variants, their column's name) at every validation, for
    ``ModelCheckpoint(monitor="val_int4_loss")``, ``EarlyStopping`` and the loggers.

    In a distributed run rank 0 measures and every process gets its numbers. Observations are in Lightning's
    checkpoints, so that a resumed run continues with them.
    """

    def __init__(
        self,
        tokens: np.ndarray | torch.Tensor,
        variants: str | list[str] = "int4",
        *,
        model: Callable[[LightningModule], torch.nn.Module] = lambda module: module.model,
        plan_steps: int | None = None,
        on_alarm: Callable[[Verdict], object] | None = None,
        **settings: Any,
    ) -> None:
        """``tokens``, ``variants`` and ``settings``: as in :class:`Monitor`. ``model``: the causal language model of a
        LightningModule. ``plan_steps``: None = the Trainer's. ``on_alarm``: called once, on rank 0.
        """
        self._make = lambda plan: Monitor(variants, tokens, plan, **settings)
        self._restore = lambda state: Monitor.from_state(
            state, tokens, planned_rate=settings.get("planned_rate")
        )
        self._model, self._plan_steps, self._on_alarm = model, plan_steps, on_alarm
        self._monitor: Monitor | None = None
        self.verdict: Verdict | None = None
        """The latest one."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a run, unless a checkpoint has brought one."""
        if self._monitor is None:
            steps = self._plan_steps or int(trainer.estimated_stepping_batches)
            self._monitor = self._make(max(steps, 1))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the model, log its numbers and judge them."""
        if self._monitor is None or trainer.sanity_checking:
            return
        monitor, step = self._monitor, trainer.global_step
        if monitor.judge.seen and monitor.judge.seen[-1].step == step:
            pl_module.log_dict(monitor.judge.seen[-1].metrics("val"))
            return
        rate = float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else None
        observed = on_rank_0(lambda: monitor.measured(step, self._model(pl_module), rate))
        self.verdict = monitor.judge.observe(observed)
        pl_module.log_dict(observed.metrics("val"))
        if monitor.judge.has_new_alarm and trainer.is_global_zero:
            LOG.warning("the quantized loss is worse than its best: %s", self.verdict.stop_advice.reason)
            if self._on_alarm is not None:
                self._on_alarm(self.verdict)

    def state_dict(self) -> dict[str, Any]:
        """Everything observed, for Lightning's checkpoints."""
        return {} if self._monitor is None else self._monitor.to_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the observations of a checkpoint; UsageError for those of other tokens."""
        if state_dict:
            self._monitor = self._restore(state_dict)
            self.verdict = self._monitor.judge.verdict
