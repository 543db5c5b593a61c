"""The probe of one checkpoint on a GPU: skeleton, path, numbers.

Two paths compute the same thing. The *walk* (``neox.py``) runs GPT-NeoX on fused kernels. The *modules* path
(``modules.py``) runs any architecture through transformers' own modules around :class:`ProbeLinear`, and scores their
logits, whatever they do to them. Which one is taken is a rule: the walk where the structure is GPT-NeoX, the
arithmetic is split, and on the skeleton's first checkpoint both paths gave the same logits for a few tokens; otherwise
the modules, and where the walk would have been expected a note says why.

Either goes through the layers once, whether their weights are all there or come one layer at a time (``layers.py``).
That first comparison is a pass of its own, so the first checkpoint of a suite that comes layer by layer is read twice.

Many variants go through in groups (``sizing.variant_groups``), each with the baseline, to which they are compared: a
pass of its own for each group, and where the layers come one at a time they are read once for each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.probe.checks import ForwardCheck
from pipeline.probe.evaluate import TokenResults
from pipeline.probe.gpu import neox, ops
from pipeline.probe.gpu.layers import Filled, Weights
from pipeline.probe.gpu.linear import Plan
from pipeline.probe.gpu.modules import Forward, LayeredForward
from pipeline.probe.gpu.skeleton import Skeleton, signature
from pipeline.probe.loading import check_fit, read_config, vocabulary
from pipeline.probe.notes import tied_notes
from pipeline.probe.quantized import TensorStatistics, refuse_values
from pipeline.quantize.triton.launch import compiling
from pipeline.sizing import module_chunk, variant_groups, walk_chunk
from pipeline.spec import ProbeSpec, Variant

Result = TypeVar("Result")
AGREEMENT = 1e-4
"""Largest difference between the two paths' logits, relative to the largest logit, that counts as the same."""
FEW, FEW_TOKENS = 2, 32
"""Sequences and their tokens that the two paths are compared on, and that kernels are compiled with: a multiple of 16,
as whole sequences mostly are, because Triton compiles anew for one that is not."""

FUSED = ("nll_nats", "kl_nats", "agrees", "delta_p")
"""Values of the token level that the kernels compute, in their order."""


class Engine:
    """Measures checkpoints on one device; skeletons stay."""

    def __init__(self, spec: ProbeSpec, sequences: np.ndarray, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self._tokens = torch.from_numpy(sequences).to(device)
        self._few = self._tokens[:FEW, :FEW_TOKENS].contiguous()
        self._plan = Plan(spec)
        self._skeleton: Skeleton | None = None
        self._off: dict[tuple[Variant, ...], float] = {}
        """How far the two paths' logits were apart, by the variants that were measured."""
        self._notes: list[str] = []
        self._check = ForwardCheck(sequences)

    @torch.inference_mode()
    def run(
        self, folder: Path, weights: Weights
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        """Per-token results and tensor statistics of the checkpoint in ``folder``."""
        return self._measure(weights.fill(self.prepare(folder, weights)))

    @torch.inference_mode()
    def run_model(
        self, state: Mapping[str, Tensor]
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        """As :meth:`run` on a checkpoint like the last one, but holding ``state``: weights by module name, which are
        rounded to the dtypes of that checkpoint's files.
        """
        if self._skeleton is None:
            raise ValueError("no checkpoint was prepared that says how the weights are stored")
        self._skeleton.fill_from_model(state)
        return self._measure(Filled(self._skeleton, self._skeleton.layers, one_by_one=False))

    @torch.inference_mode()
    def prepare(self, folder: Path, weights: Weights) -> Skeleton:
        """The skeleton for checkpoints like the one in ``folder``; stays until one of another kind comes."""
        if self._skeleton is None or self._skeleton.signature != signature(folder, weights.outlines):
            check_fit(read_config(folder), self._tokens.cpu().numpy())
            self._skeleton = None  # until the new one has been seen to work
            self._off.clear()
            skeleton = weights.skeleton(folder, self._plan, self.device)
            try:
                self._rehearse(weights.fill(skeleton))
            except BaseException:
                skeleton.release()
                raise
            self._skeleton = skeleton
        return self._skeleton

    def _measure(self, filled: Filled) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        """Of the weights that ``filled`` holds, which it then lets go."""
        self._notes = list(filled.skeleton.notes)
        found: list[list[np.ndarray]] = []
        statistics: dict[Variant, tuple[TensorStatistics, ...]] = {}
        allow_tf32 = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.spec.arithmetic == "tf32"
        try:
            self._refuse_unsuited(filled)
            self._notes.extend(tied_notes(filled.skeleton.model, filled.skeleton.head))
            for variants in variant_groups(self.spec.variants):
                self._plan.begin(variants)
                numbers = self._evaluate(filled)
                found.append([number[1:] for number in numbers] if found else numbers)  # the baseline once
                statistics = self._statistics(filled.skeleton) | statistics
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allow_tf32
            filled.skeleton.release()
        notes = list(dict.fromkeys([*self._notes, *filled.notes]))
        values = map(np.concatenate, zip(*found, strict=True))
        return TokenResults(dict(zip(FUSED, values, strict=True)), notes), statistics

    def _rehearse(self, filled: Filled) -> None:
        """Compiles what the probes of this skeleton launch, all kernels at once."""
        # The layers are alike, but the walk enters every one but the first with products that have yet to be added.
        walks = self._may_walk(filled.skeleton)
        with compiling():
            for variants in variant_groups(self.spec.variants):
                self._plan.begin(variants)
                few = [
                    self._passage(filled, self._few, walk) for walk in ((True, False) if walks else (False,))
                ]
                _go(few, filled, len(self._few), most=2)
                self._score(few[0])
                for passage in few[1:]:
                    list(passage.logits())

    def _evaluate(self, filled: Filled) -> list[np.ndarray]:
        """The values named in ``FUSED`` for the variants at hand."""
        variants, (sequences, length) = len(self._plan.variants), self._tokens.shape
        walks = self._use_walk(filled)
        config = filled.skeleton.model.config
        if walks:
            chunk = walk_chunk(config.hidden_size, config.intermediate_size, variants, sequences, length)
        else:
            chunk = module_chunk(vocabulary(config), variants, sequences, length)
        sums = self._in_room(lambda chunk: self._sums(filled, walks, chunk), chunk)
        return [
            number.view(variants, sequences, length)[:, :, :-1].contiguous().cpu().numpy()
            for number in ops.scores(sums)
        ]

    def _in_room(self, work: Callable[[int], Result], chunk: int) -> Result:
        """``work`` with chunks of ``chunk`` sequences, or of as many as there is memory for."""
        while True:
            try:
                return work(chunk)
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise CheckpointError(
                        f"one sequence of {self._tokens.shape[1]} tokens in {len(self._plan.variants)} variants does "
                        "not fit the GPU: use a shorter --seq-len, fewer variants or fewer batches"
                    ) from None
            chunk //= 2
            self._notes.append(f"GPU out of memory: chunk reduced to {chunk} sequences")
            torch.cuda.empty_cache()

    def _refuse_unsuited(self, filled: Filled) -> None:
        """CheckpointError for a model that is not to be measured. One that the walk fits is GPT-NeoX: causal."""
        model = filled.skeleton.model
        if self._may_walk(filled.skeleton) or not self._check.needed(model.config):
            return
        self._plan.begin(variant_groups(self.spec.variants)[0])
        ids, length = self._check.sequences.to(self.device), self._tokens.shape[1]

        def judge(chunk: int) -> None:
            passages = [self._passage(filled, part, walks=False) for part in (ids[:-1], ids[-1:])]
            _go(passages, filled, chunk)
            parts = itertools.chain.from_iterable(passage.logits() for passage in passages)
            rows = itertools.chain.from_iterable(logits[0].split(length) for logits, _ in parts)
            self._check.judge(model, rows)

        self._in_room(judge, module_chunk(vocabulary(model.config), len(self._plan.variants), 3, length))

    def _sums(self, filled: Filled, walks: bool, chunk: int) -> Tensor:
        passage = self._passage(filled, self._tokens, walks)
        _go([passage], filled, chunk)
        return self._score(passage)

    def _passage(self, filled: Filled, tokens: Tensor, walks: bool) -> neox.Walk | Forward:
        """A pass of ``tokens`` that has not begun."""
        model, variants = filled.skeleton.model, len(self._plan.variants)
        if walks:
            return neox.Walk(model, variants, tokens)
        if filled.one_by_one:
            return LayeredForward(model, variants, tokens, filled.skeleton.layers)
        return Forward(model, variants, tokens)

    def _score(self, passage: neox.Walk | Forward) -> Tensor:
        """``ops.score``'s sums (6, V, sequences * T); the last token of a sequence has no target: its mean nothing."""
        targets = passage.tokens.roll(-1, dims=1).flatten()
        sums = ops.empty_sums(len(self._plan.variants), targets.numel(), self.device)
        first = 0
        for logits, scale in passage.logits():
            ops.score(logits, targets[first : first + logits.shape[1]], sums, first, scale)
            first += logits.shape[1]
        return sums

    def _may_walk(self, skeleton: Skeleton) -> bool:
        return self.spec.arithmetic == "split" and neox.fits(skeleton.model)

    def _use_walk(self, filled: Filled) -> bool:
        """Whether the walk is taken; where that is not known yet, both paths are run on a few tokens."""
        if not self._may_walk(filled.skeleton):
            return False
        variants = self._plan.variants
        if variants not in self._off:
            few = [self._passage(filled, self._few, walk) for walk in (True, False)]
            _go(few, filled, len(self._few))
            found, exact = (
                torch.cat(
                    [part if scale is None else part * scale[:, None] for part, scale in each.logits()], 1
                )
                for each in few
            )
            off = ((found - exact).abs().max() / exact.abs().max()).item()
            if math.isnan(off):  # a diverged checkpoint decides nothing; the next one is asked again
                self._notes.append(
                    "modules path taken: logits are not finite, so the fused path cannot be checked"
                )
                return False
            self._off[variants] = off
        if self._off[variants] > AGREEMENT:
            self._notes.append(
                f"modules path taken: the fused path's logits differ by {self._off[variants]:.1e}"
            )
        return self._off[variants] <= AGREEMENT

    def _statistics(self, skeleton: Skeleton) -> dict[Variant, tuple[TensorStatistics, ...]]:
        found: dict[Variant, list[TensorStatistics]] = {variant: [] for variant in self._plan.variants}
        linears = [
            linear for linear in skeleton.linears.values() if not linear.is_head or len(set(linear.slots)) > 1
        ]
        summaries = torch.cat([self._plan.summaries[linear.name] for linear in linears]).tolist()
        for linear in linears:
            count = self._plan.summaries[linear.name].numel()
            (mean, std, absmax, kurtosis, *fits), summaries = summaries[:count], summaries[count:]
            n = linear.counted_values
            for variant, slot in zip(self._plan.variants, linear.slots, strict=True):
                quantizer = linear.packing.quantizers[slot]
                moments = (linear.name, n, mean, std, absmax, kurtosis)
                if quantizer is None:
                    if variant.is_fp32 and not linear.is_head:
                        found[variant].append(TensorStatistics(*moments, None, None))
                    continue
                error, boundary = fits[2 * slot : 2 * slot + 2]
                if not math.isfinite(error):
                    refuse_values(linear.name, quantizer, absmax)
                fit = (error, None if math.isnan(boundary) else boundary)
                found[variant].append(TensorStatistics(*moments, *fit))
        return {variant: tuple(rows) for variant, rows in found.items()}


def _go(passages: Sequence[neox.Walk | Forward], filled: Filled, chunk: int, most: int | None = None) -> None:
    """Takes ``passages`` through the first ``most`` layers (None: all), ``chunk`` sequences at a time; their logits are
    then to be had.
    """
    for passage in passages:
        passage.begin(chunk)
    layers = iter(filled.layers)
    try:
        for layer in itertools.islice(layers, most):
            for passage in passages:
                passage.advance(layer)
    finally:
        if isinstance(
            layers, Generator
        ):  # ends the thread that reads ahead before anything else uses its buffers
            layers.close()
