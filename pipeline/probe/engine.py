"""The engine: measures one checkpoint, on every device and with weights from any source.

Two passes compute the same thing. A *fused* pass runs a whole model on the backend's kernels (GPT-NeoX in Triton). The
*modules* pass (``forward.py``) runs any architecture through its own modules around :class:`ProbeLinear`, and scores
their logits, whatever they do to them. A rule chooses: the fused pass if the backend has one for the structure and,
on the template's first checkpoint, both gave the same logits for a few tokens; otherwise the modules, with a note
if the fused pass was expected.

Either goes through the layers once, with all weights in memory or one layer at a time (``weights.py``). The first
comparison is a separate pass, so the first checkpoint of a suite that is read layer by layer is read twice.

Many variants are measured in groups (``Backend.groups``), each with the baseline and each in a pass; layer by
layer, the layers are read once per group.

Variants whose quantizers need a layer's inputs are calibrated on the way (``calibration.py``).

Controls (``pipeline.quantize.controls``) are measured after them in separate groups, on the same tokens; only their
losses are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.base.errors import UsageError
from pipeline.measurements import HiddenMeasurement, selected
from pipeline.models.arithmetic import float32_products
from pipeline.models.experts import SeparateExperts
from pipeline.models.layer_walk import walkable
from pipeline.models.loading import check_fit
from pipeline.models.memory import control_groups
from pipeline.models.out_of_memory import Result, in_smaller_chunks
from pipeline.models.template import ModelTemplate
from pipeline.models.variant_linear import Plan, ProbeLinear
from pipeline.probe.backend import Backend
from pipeline.probe.calibration import Calibrator
from pipeline.probe.checks import ForwardCheck, forward_of
from pipeline.probe.control_runs import broken_notes, controls_of, swap_groups, uncalibrated
from pipeline.probe.forward import Forward, LayeredForward, Pass, logits_apart
from pipeline.probe.found import Numbers
from pipeline.probe.fused_choice import FusedChoice
from pipeline.probe.hidden_states import ResidualStream
from pipeline.probe.notes import tied_notes
from pipeline.probe.tensor_statistics import TensorStatistics, with_outcomes
from pipeline.probe.weights import Filled, Weights
from pipeline.quantize.control_variant import ControlVariant
from pipeline.spec import ProbeSpec, Variant

FEW, FEW_TOKENS = 2, 32
"""Sequences, and their tokens, with which the two passes are compared and kernels are compiled: a multiple of 16,
like most whole sequences, because Triton compiles other kernels for other lengths."""


class Engine:
    """Measures checkpoints on one device; keeps its template."""

    def __init__(
        self,
        spec: ProbeSpec,
        sequences: np.ndarray,
        device: torch.device,
        backend: Backend,
        calibration: np.ndarray | None = None,
        *,
        losses_only: bool = False,
    ) -> None:
        """``sequences``: int64 (N, T), the evaluation tokens. ``calibration``: int64 (M, T), for calibrated
        variants. ``losses_only``: of all values only ``nll_nats``, and no statistics.
        """
        needy = [str(variant) for variant in (*spec.variants, *spec.mechanism) if variant.needs]
        if needy and calibration is None:
            raise UsageError(
                f"variant {needy[0]} needs calibration tokens: give some beside the evaluation tokens"
            )
        self.spec, self.device = spec, device
        self._backend = backend
        self._tokens = torch.from_numpy(sequences).to(device)
        self._few = self._tokens[:FEW, :FEW_TOKENS].contiguous()
        self._calibration = (
            torch.from_numpy(calibration).to(device) if needy and calibration is not None else None
        )
        self._hidden = bool(selected(spec.measurements, HiddenMeasurement))
        self._plan = Plan(spec, backend, losses_only)
        self._template: ModelTemplate | None = None
        self._controls: tuple[tuple[Variant, ...], ...] = ()
        """Controls of the template's model, in groups."""
        self._fusing = FusedChoice()
        self._notes: list[str] = []
        self._check = ForwardCheck(sequences)

    @torch.inference_mode()
    def run(self, weights: Weights, beside: Weights | None = None) -> Numbers:
        """Measure ``weights``: per-token values and tensor statistics. ``beside``: weights whose rounding errors they
        get too (``ProbeSpec.swapped``).
        """
        with float32_products(self.device, tf32=self.spec.arithmetic == "tf32"):
            template = self._prepare(weights)
            swaps = () if beside is None else swap_groups(self.spec, template, beside)
            return self._measure(weights.fill(template), swaps)

    def _prepare(self, weights: Weights) -> ModelTemplate:
        """The template for weights like these; kept until weights of another kind come."""
        signature = weights.signature
        if self._template is None or self._template.signature != signature:
            for tokens in (self._tokens, self._calibration):
                if tokens is not None:
                    check_fit(weights.config, tokens.cpu().numpy())
            self._template = None  # until the new one is known to work
            self._fusing.forget()
            template = weights.template(self._plan, self.device)
            self._controls = tuple(control_groups(controls_of(self.spec, template)))
            try:
                self._rehearse(weights, template)
            except BaseException:
                template.release()
                raise
            self._template = template
        return self._template

    def _measure(self, filled: Filled, swaps: tuple[tuple[Variant, ...], ...]) -> Numbers:
        """Measure all variants of the loaded weights, then release the weights."""
        template = filled.template
        self._notes = list(template.notes)
        parts: list[dict[str, np.ndarray]] = []
        statistics: dict[Variant, tuple[TensorStatistics, ...]] = {}
        hidden: dict[str, Any] = {}
        try:
            self._refuse_unsuited(filled)
            self._notes.extend(tied_notes(template.model, template.head))
            for variants in self._backend.groups(self.spec.variants):
                fused = self._may_fuse(filled, variants)
                self._plan.begin(variants)
                found, seen = self._evaluate(filled, fused=fused, observed=self._hidden and not parts)
                hidden |= seen
                parts.append({name: value[1:] for name, value in found.items()} if parts else found)
                if not self._plan.losses_only:
                    measured = self._backend.statistics(list(template.linears.values()))
                    statistics = with_outcomes(measured, self._plan) | statistics
            controls = self._measure_controls(filled, (*self._controls, *swaps))
        finally:
            template.release()
            self._plan.begin(())
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        notes = list(dict.fromkeys([*self._notes, *filled.notes]))
        return Numbers(values, statistics, notes, controls, hidden)

    def _measure_controls(
        self, filled: Filled, groups: tuple[tuple[Variant, ...], ...]
    ) -> dict[ControlVariant, np.ndarray]:
        """The losses of every control in ``groups``."""
        losses: dict[ControlVariant, np.ndarray] = {}
        for group in groups:
            fused = self._may_fuse(filled, group)
            self._plan.begin(group)
            found, _ = self._evaluate(filled, fused=fused)
            for variant, nll_NP in zip(group, found["nll_nats"], strict=True):
                if isinstance(variant, ControlVariant):
                    losses[variant] = np.where(np.isfinite(nll_NP), nll_NP, np.nan)
        self._notes.extend(broken_notes(losses))
        return losses

    def _rehearse(self, weights: Weights, template: ModelTemplate) -> None:
        """Compile all kernels that probes of this template launch."""
        with self._backend.compiling() as compiles:
            if not compiles:
                return
            filled = weights.fill(template)
            # The layers are alike, but a fused pass enters all except the first with products that are not added yet.
            passes = (True, False) if self._backend.may_fuse(template.model) else (False,)
            checked = [self.spec.variants[:1]] if self._is_to_be_checked(template) else []
            for variants in (*checked, *self._backend.groups(self.spec.variants), *self._controls):
                self._plan.begin(uncalibrated(variants))
                few = [self._pass(filled, self._few, fused=fused) for fused in passes]
                self._go(few, filled, len(self._few), most=2)
                self._score(few[0])
                for each in few[1:]:
                    list(each.logits())

    def _evaluate(
        self, filled: Filled, *, fused: bool, observed: bool = False
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Every value of the token level for the variants at hand; if ``observed``, columns of the hidden level."""
        variants, (sequences, length) = len(self._plan.variants), self._tokens.shape
        usual = self._backend.chunk(filled.template.config, variants, sequences, length, fused=fused)

        def work(chunk: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            one = self._pass(filled, self._tokens, fused=fused, layered=observed)
            seen = ResidualStream(one, self.spec, filled.template) if observed else None
            self._go([seen or one], filled, chunk, calibrator=self._calibrator(filled, chunk / usual))
            return self._score(one), {} if seen is None else seen.columns()

        return self._in_room(work, usual)

    def _calibrator(self, filled: Filled, share: float) -> Calibrator | None:
        """For the variants at hand, where some need it; with ``share`` of its usual chunk."""
        if self._calibration is None or not any(variant.needs for variant in self._plan.variants):
            return None
        return Calibrator(filled.template, self._plan, self._calibration, share)

    def _in_room(self, work: Callable[[int], Result], chunk: int) -> Result:
        """Run ``work`` with chunks of ``chunk`` sequences, or of as many as fit the memory."""
        what = f"one sequence of {self._tokens.shape[1]} tokens in {len(self._plan.variants)} variants"
        return in_smaller_chunks(work, chunk, what, self._notes)

    def _refuse_unsuited(self, filled: Filled) -> None:
        """Raise CheckpointError for a model that must not be measured. A model with a fused pass is known to be
        causal.
        """
        if not self._is_to_be_checked(filled.template):
            return
        model, config = filled.template.model, filled.template.config
        self._plan.begin(self.spec.variants[:1])
        ids, length = self._check.sequences.to(self.device), self._tokens.shape[1]
        # Alone a product may round otherwise, and the token of a mixture then take another expert: the same rows again.
        again = ids[:-1] if any(isinstance(part, SeparateExperts) for part in model.modules()) else ids[-1:]

        def judge(chunk: int) -> None:
            passes = [self._pass(filled, part, fused=False) for part in (ids[:-1], again)]
            with forward_of(model):
                self._go(passes, filled, chunk)
                parts = itertools.chain.from_iterable(each.logits() for each in passes)
                rows = itertools.chain.from_iterable(logits[0].split(length) for logits, _ in parts)
                self._check.judge(model, config, rows)

        self._in_room(judge, self._backend.chunk(config, len(self._plan.variants), 3, length, fused=False))

    def _is_to_be_checked(self, template: ModelTemplate) -> bool:
        """Whether models like this one still have to be checked."""
        return not self._backend.may_fuse(template.model) and self._check.needed(template.config)

    def _pass(self, filled: Filled, tokens: Tensor, *, fused: bool, layered: bool = False) -> Pass:
        """A new pass of ``tokens``."""
        model, variants = filled.template.model, len(self._plan.variants)
        if fused:
            found: Pass = self._backend.fused(model, variants, tokens)
            return found
        layered = layered or filled.one_by_one or any(variant.needs for variant in self._plan.variants)
        # Packed weights of controls are released after their use: those of all layers together are too many.
        many = self._plan.of_controls and not self._backend.keeps_packed
        if layered or (many and walkable(model, filled.template.layers, self._few)):
            return LayeredForward(model, variants, tokens, filled.template.layers)
        return Forward(model, variants, tokens)

    def _score(self, one: Pass) -> dict[str, np.ndarray]:
        """Every token-level value from the logits of a pass that has gone through the layers."""
        scores = self._backend.scores(
            one.tokens, len(self._plan.variants), losses_only=self._plan.losses_only
        )
        for logits, scale in one.logits():
            scores.add(logits, scale)
        return scores.values()

    def _may_fuse(self, filled: Filled, variants: tuple[Variant, ...]) -> bool:
        """Whether to use the fused pass; if unknown yet, both passes are compared on a few tokens."""
        if not self._backend.may_fuse(filled.template.model):
            return False
        variants = uncalibrated(variants)

        def apart() -> float:
            self._plan.begin(variants)
            few = [self._pass(filled, self._few, fused=fused) for fused in (True, False)]
            self._go(few, filled, len(self._few))
            return logits_apart(*few)

        return self._fusing.allows(variants, apart, self._notes)

    def _go(
        self,
        passes: Sequence[Pass],
        filled: Filled,
        chunk: int,
        *,
        most: int | None = None,
        calibrator: Calibrator | None = None,
    ) -> None:
        """Advance ``passes`` through the first ``most`` layers (None: all), ``chunk`` sequences at a time; then
        their logits are available.
        """
        for each in passes:
            each.begin(chunk)
        layers = iter(filled.layers)
        try:
            for layer in itertools.islice(layers, most):
                if calibrator is not None:
                    calibrator.advance(layer)
                for each in passes:
                    each.advance(layer)
                if all(each.takes_layers for each in passes):
                    self._plan.let_go(part.name for part in layer.modules() if isinstance(part, ProbeLinear))
            if calibrator is not None:
                calibrator.finish()
        finally:
            if isinstance(layers, Generator):  # ends the prefetching thread before its buffers are reused
                layers.close()
