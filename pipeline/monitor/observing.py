"""The monitor: measures a model in memory during training and judges its losses so far.

A plain loop needs three lines::

    monitor = Monitor(["int4"], tokens, plan_steps=10_000)
    verdict = monitor.observe(step, model, learning_rate=scheduler.get_last_lr()[0])
    if verdict.alarm: print(verdict.ship, verdict.stop_advice.reason)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.base.errors import UsageError
from pipeline.base.typed_json import from_json, to_json
from pipeline.models.arithmetic import choose_arithmetic
from pipeline.monitor.judging import Judge, RateOutlook, WatchSettings
from pipeline.monitor.live_model import left_as_found, unwrapped
from pipeline.monitor.verdicts import LIVE, Observed, Verdict, finite_or_nan
from pipeline.probe.engine import Engine
from pipeline.probe.memory_weights import ModelWeights
from pipeline.probe.prober import choose_backend
from pipeline.spec import ProbeSpec, TokenShape, Variant, parse_variants

STATE_VERSION = 1

Weights = nn.Module | Mapping[str, torch.Tensor]
"""A model, or a state dict of one."""


class Monitor:
    """Watches one training run; the first variant decides, others are measured beside it.

    An observation reads the parameters in place and packs one layer's variants at a time, then frees them. The first
    one also builds the model's structure and, on a GPU, compiles; a model on another device or with another structure
    starts again. On a GPU products are split on tensor cores if it has them (``models.arithmetic``): float32 accuracy,
    several times faster than float32 units.
    """

    def __init__(
        self,
        variants: str | Sequence[str],
        tokens: np.ndarray | torch.Tensor,
        plan_steps: int,
        *,
        observations: int | None = None,
        margin_nats: float = 0.01,
        alpha: float = 0.05,
        rule: str = "e-detector",
        min_learning_rate: float | None = None,
        planned_rate: Callable[[int], float] | None = None,
    ) -> None:
        """``variants``: names such as ``int4``; ``fp32`` is added. ``tokens``: evaluation text, whole numbers
        (batches, batch_size, seq_len) or (sequences, seq_len), fixed and disjoint from the training text.
        ``plan_steps``: training steps of the whole run. ``min_learning_rate`` or ``planned_rate`` (step -> rate)
        say when the rate can fall no further; without them no stop is advised before it reaches zero. For the
        others see :class:`WatchSettings`. Raises UsageError for impossible arguments.
        """
        self.variants = _quantized([variants] if isinstance(variants, str) else list(variants))
        self.tokens = checked_tokens(tokens)
        content = repr(self.tokens.shape).encode() + self.tokens.tobytes()
        self.tokens_sha256 = hashlib.sha256(content).hexdigest()
        self._engines: dict[tuple[str, tuple[Variant, ...], torch.device], Engine] = {}
        settings = WatchSettings(plan_steps, observations, margin_nats, alpha, rule)  # type: ignore[arg-type]
        outlook = RateOutlook(plan_steps, min_learning_rate, planned_rate)
        self.judge = Judge(settings, outlook, str(self.variants[0]))
        """The observations so far and their verdict."""

    def observe(
        self,
        step: int,
        model: nn.Module,
        learning_rate: float | None = None,
        *,
        averages: Mapping[str, Weights] | None = None,
    ) -> Verdict:
        """Measure ``model`` after ``step`` training steps and return the verdict; the model stays unchanged.

        ``averages``: averages of the weights (EMA, LAWA) by name, each a model or a state dict, as further candidates
        to ship. A model whose weights or losses are not finite is recorded as NaN, with a note. Raises UsageError
        for a step not after the last and for a model that cannot be measured (:func:`live_model.unwrapped`), and
        CheckpointError like ``measure``; nothing is recorded then.
        """
        self.judge.require_later(step)
        return self.judge.observe(self.measured(step, model, learning_rate, averages=averages))

    def measured(
        self,
        step: int,
        model: nn.Module,
        learning_rate: float | None = None,
        *,
        averages: Mapping[str, Weights] | None = None,
    ) -> Observed:
        """Measure the losses only; nothing is judged or recorded."""
        plain = unwrapped(model)
        losses = self._losses(plain, self.variants, LIVE)
        averaged = {name: self._average(plain, each, name) for name, each in (averages or {}).items()}
        rate = None if learning_rate is None else float(learning_rate)
        return Observed(int(step), losses, rate, averaged)

    def rewind(self, step: int) -> None:
        """Discard every observation at ``step`` or later, for a run that continues from an earlier checkpoint."""
        self.judge = self.judge.before(step)

    def to_state(self) -> dict[str, Any]:
        """All observations and settings as JSON values; :meth:`from_state` reads them."""
        outlook = self.judge.outlook
        return {
            "version": STATE_VERSION,
            "variants": [str(each) for each in self.variants],
            "tokens_sha256": self.tokens_sha256,
            "settings": to_json(self.judge.settings),
            "min_learning_rate": outlook.min_learning_rate,
            "has_planned_rate": outlook.planned_rate is not None,
            "observed": to_json(self.judge.seen),
        }

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Any],
        tokens: np.ndarray | torch.Tensor,
        *,
        planned_rate: Callable[[int], float] | None = None,
    ) -> Monitor:
        """Restore the monitor that wrote ``state``; it continues with the same verdicts.

        Raises UsageError for other ``tokens``, for a damaged state, and if it had a ``planned_rate`` and none is given.
        """
        if state.get("version") != STATE_VERSION:
            raise UsageError(
                f"a monitor's state of version {state.get('version')!r}: wanted {STATE_VERSION}, as to_state() writes"
            )
        try:
            kept: _KeptState = from_json(_KeptState, {**state})
            monitor = cls(
                kept.variants,
                tokens,
                **kept.settings,
                min_learning_rate=kept.min_learning_rate,
                planned_rate=planned_rate,
            )
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"a monitor's state is damaged: {error}; wanted one that to_state() made"
            ) from error
        if kept.has_planned_rate and planned_rate is None:
            raise UsageError("the monitor's state was made with a planned_rate: give it to from_state too")
        if monitor.tokens_sha256 != kept.tokens_sha256:
            raise UsageError(
                "the monitor's state was made with other evaluation tokens: losses on different text do not compare; "
                "wanted the same tokens"
            )
        for each in kept.observed:
            monitor.judge.observe(each)
        return monitor

    def _average(self, model: nn.Module, given: Weights, name: str) -> float:
        """The loss of an average of the weights of ``model`` under the variant that decides."""
        if name == LIVE:
            raise UsageError(
                f"an average called {LIVE!r}: wanted another name, this name means the weights in training"
            )
        decides = self.variants[:1]
        if isinstance(given, nn.Module):
            found = self._losses(unwrapped(given), decides, name)
        else:
            try:
                found = self._losses(model, decides, name, dict(given))
            except UsageError as error:
                raise UsageError(f"average {name!r}: {error}") from error
        return found[decides[0].column]

    def _losses(
        self,
        model: nn.Module,
        variants: Sequence[Variant],
        weights: str,
        instead: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, float]:
        """Column prefix of ``fp32`` and each variant -> mean loss in nats; all NaN for weights that are not finite.

        ``weights``: their name, under which structures are kept. ``instead``: a state dict with values in place of
        the model's.
        """
        self._refuse_foreign_tokens(model)
        every = (Variant(), *variants)
        with left_as_found(model):
            current = ModelWeights(model, instead=instead)
            if not current.are_finite:
                return {variant.column: math.nan for variant in every}
            engine = self._engine(weights, every, next(model.parameters()).device)
            nll_VNP = engine.run(current).values["nll_nats"]
        means = (finite_or_nan(float(nll.mean())) for nll in nll_VNP)
        return {variant.column: mean for variant, mean in zip(every, means, strict=True)}

    def _engine(self, weights: str, variants: tuple[Variant, ...], device: torch.device) -> Engine:
        key = (weights, variants, device)
        if key not in self._engines:
            shape, arithmetic = TokenShape(*self.tokens.shape), choose_arithmetic(str(device))
            spec = ProbeSpec(variants, shape, self.tokens_sha256, arithmetic=arithmetic)
            sequences, backend = self.tokens.reshape(-1, shape.seq_len), choose_backend(spec, device)
            self._engines[key] = Engine(spec, sequences, device, backend, losses_only=True)
        return self._engines[key]

    def _refuse_foreign_tokens(self, model: Any) -> None:
        config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
        vocabulary, largest = getattr(config, "vocab_size", None), int(self.tokens.max())
        if vocabulary is not None and largest >= vocabulary:
            raise UsageError(
                f"token {largest} is outside the vocabulary of {vocabulary} of {type(model).__name__}: wanted text "
                "from this model's tokenizer"
            )


@dataclass(frozen=True)
class _KeptState:
    """A state as ``to_state`` writes it; lists have become tuples."""

    variants: tuple[str, ...]
    tokens_sha256: str
    settings: dict[str, Any]
    has_planned_rate: bool
    observed: tuple[Observed, ...]
    min_learning_rate: float | None = None


def checked_tokens(tokens: np.ndarray | torch.Tensor) -> np.ndarray:
    """``tokens`` as int64 (batches, batch_size, seq_len); raises UsageError for anything else."""
    array = tokens.detach().cpu().numpy() if isinstance(tokens, torch.Tensor) else np.asarray(tokens)
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or array.dtype.kind not in "iu" or 0 in array.shape or array.shape[-1] < 2:
        raise UsageError(
            f"tokens of {array.dtype} {array.shape}: wanted whole numbers (batches, batch_size, seq_len) or "
            "(sequences, seq_len), 2 per sequence at least"
        )
    if array.min() < 0:
        raise UsageError(f"token {array.min()}: wanted 0 or more; padding and ignored labels are not text")
    return np.ascontiguousarray(array, dtype=np.int64)


def _quantized(names: list[str]) -> tuple[Variant, ...]:
    variants = tuple(each for each in parse_variants(names) if not each.is_fp32)
    if not variants:
        raise UsageError(f"variants {names}: wanted at least one quantized variant, such as int4")
    for variant in variants:
        if variant.needs:
            raise UsageError(
                f"variant {variant} needs calibration text, which the monitor does not take: wanted one without"
            )
    return variants
