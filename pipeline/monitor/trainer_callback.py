"""The monitor inside the Trainer of transformers: the quantized loss among its evaluation metrics.

The Trainer logs its metrics before it calls ``on_evaluate`` and passes the same dict on to the choice of the best model
afterwards. Values added to it here therefore serve ``metric_for_best_model="int4_loss"``,
``load_best_model_at_end`` and an ``EarlyStoppingCallback`` after this one, but must be logged here.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from pipeline.base.errors import UsageError
from pipeline.monitor.live_model import on_rank_0
from pipeline.monitor.observing import Monitor, Weights
from pipeline.monitor.verdicts import Observed, Verdict, finite_or_nan

LOG = logging.getLogger(__name__)


class Int4Callback(TrainerCallback):
    """Adds ``eval_int4_loss`` and ``eval_int4_gap`` (for other variants their column's name) to every evaluation.

    Processes of a distributed run get the numbers of rank 0. After a resume the verdicts continue from the
    Trainer's ``state.log_history``.
    """

    def __init__(
        self,
        tokens: np.ndarray | torch.Tensor,
        variants: str | list[str] = "int4",
        *,
        plan_steps: int | None = None,
        on_alarm: Callable[[Verdict], object] | None = None,
        averages: Callable[[], Mapping[str, Weights]] | None = None,
        stop_when_advised: bool = False,
        **settings: Any,
    ) -> None:
        """``tokens``, ``variants``, ``settings``: see :class:`Monitor`. ``plan_steps``: None = the Trainer's.

        ``on_alarm`` is called once, on rank 0. ``averages``: called for the averages of the weights at an
        evaluation. ``stop_when_advised``: end the training when the verdict advises it.
        """
        self._make = lambda plan, **more: Monitor(variants, tokens, plan, **{**settings, **more})
        self._plan_steps, self._on_alarm, self._averages = plan_steps, on_alarm, averages
        self._stop_when_advised = stop_when_advised
        self._has_planned_rate = "planned_rate" in settings
        self._monitor: Monitor = self._make(plan_steps or 1)
        self._training = False
        self.verdict: Verdict | None = None
        """The latest verdict."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start a run, or continue a resumed one."""
        planned = None if self._has_planned_rate else planned_rate(kwargs.get("lr_scheduler"))
        more = {} if planned is None else {"planned_rate": planned}
        self._monitor = self._make(self._plan_steps or max(state.max_steps, 1), **more)
        self.verdict, self._training = None, True
        for observed in _from_history(state.log_history, self._monitor):
            self.verdict = self._monitor.judge.observe(observed)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Later evaluations are of the chosen model: they are measured, not judged."""
        self._training = False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Measure the model once per step, add its numbers to ``metrics`` and log them."""
        monitor, step = self._monitor, state.global_step
        metrics = {} if metrics is None else metrics
        latest = monitor.judge.seen[-1] if self._training and monitor.judge.seen else None
        if latest is not None and latest.step == step:  # several evaluation sets, or resumed at an evaluation
            metrics.update(self._numbers(latest))
            return
        observed = on_rank_0(lambda: self._measured(step, **kwargs))
        numbers = self._numbers(observed)
        if self._training:
            self.verdict = monitor.judge.observe(observed)
            numbers[f"eval_{monitor.judge.variant}_alarm"] = float(self.verdict.alarm)
            self._tell(state, self.verdict)
            if self._stop_when_advised and self.verdict.stop_advice:
                control.should_training_stop = True
        metrics.update(numbers)
        self._log(args, state, control, numbers)

    def _measured(self, step: int, *, model: Any, lr_scheduler: Any = None, **_: Any) -> Observed:
        rate = None if lr_scheduler is None else float(lr_scheduler.get_last_lr()[0])
        averages = None if self._averages is None else self._averages()
        return self._monitor.measured(step, model, rate, averages=averages)

    def _numbers(self, observed: Observed) -> dict[str, float]:
        decides = self._monitor.judge.variant
        averages = {f"eval_{name}_{decides}_loss": loss for name, loss in observed.averages.items()}
        return observed.metrics("eval") | averages

    def _tell(self, state: Any, verdict: Verdict) -> None:
        if not state.is_world_process_zero:
            return
        for note in verdict.notes:
            LOG.warning(note)
        if self._monitor.judge.has_new_alarm:
            LOG.warning(
                "%s has been worse than at step %s since about step %s; %s",
                self._monitor.judge.label,
                verdict.best_step,
                verdict.worse_since,
                verdict.stop_advice.reason,
            )
            if self._on_alarm is not None:
                self._on_alarm(verdict)

    def _log(self, args: Any, state: Any, control: Any, numbers: Mapping[str, float]) -> None:
        """Log like ``Trainer.log``; numbers for a resume go into the history only."""
        logs = {**numbers, **({} if state.epoch is None else {"epoch": state.epoch})}
        entry: dict[str, Any] = {**logs, "step": state.global_step}
        if self._training:
            entry["monitor_text"] = self._monitor.tokens_sha256
            entry["monitor_learning_rate"] = self._monitor.judge.seen[-1].learning_rate
        state.log_history.append(entry)
        handler = _calling_handler()
        if handler is not None:
            handler.on_log(args, state, control, logs)


def planned_rate(scheduler: Any) -> Callable[[int], float] | None:
    """Step -> learning rate of the first parameter group; None for a scheduler that does not depend on the step
    alone.
    """
    inner = getattr(scheduler, "scheduler", scheduler)  # accelerate's wrapper
    if not isinstance(inner, LambdaLR):
        return None
    first, base = inner.lr_lambdas[0], float(inner.base_lrs[0])
    return lambda step: base * float(first(step))


def _from_history(history: list[dict[str, Any]], monitor: Monitor) -> list[Observed]:
    """The entries of :meth:`Int4Callback._log`, in order."""
    decides, columns = monitor.judge.variant, [each.column for each in monitor.variants]
    average = re.compile(rf"eval_(.+)_{re.escape(decides)}_loss")
    found = []
    for entry in history:
        if "monitor_text" not in entry or f"eval_{decides}_loss" not in entry:
            continue
        if entry["monitor_text"] != monitor.tokens_sha256:
            raise UsageError(
                f"the run that is resumed was measured on other evaluation tokens at step {entry['step']}: losses on "
                "different text do not compare; give Int4Callback the same tokens"
            )
        losses = {name: finite_or_nan(entry.get(f"eval_{name}_loss")) for name in ("fp32", *columns)}
        averages = {
            match[1]: finite_or_nan(loss)
            for name, loss in entry.items()
            if (match := average.fullmatch(name))
        }
        found.append(Observed(int(entry["step"]), losses, entry["monitor_learning_rate"], averages))
    return found


def _calling_handler() -> CallbackHandler | None:
    """The Trainer's callback handler, found on the call stack: callbacks have no other access to the reporters."""
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(handler := frame.f_locals.get("self"), CallbackHandler):
            return handler
        frame = frame.f_back
    return None
