"""The probe of one checkpoint on a GPU: skeleton, path, numbers.

Two paths compute the same thing. The *walk* (``neox.py``) runs GPT-NeoX on fused kernels. The *modules* path runs any
architecture through transformers' own modules around :class:`ProbeLinear`, and scores their logits, whatever they
do to them. Which one is taken is a rule: the walk where the structure is GPT-NeoX, the arithmetic is split, and on
the skeleton's first checkpoint both paths gave the same logits for a few tokens; otherwise the modules, and where
the walk would have been expected a note says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.probe.evaluate import TokenResults
from pipeline.probe.gpu import neox, ops
from pipeline.probe.gpu.linear import Plan
from pipeline.probe.gpu.reading import DeviceWeights
from pipeline.probe.gpu.skeleton import Skeleton, signature
from pipeline.probe.loading import check_fit, read_config
from pipeline.probe.quantized import TensorStatistics, refuse_range
from pipeline.quantize.launch import compiling
from pipeline.sizing import module_chunk, walk_chunk
from pipeline.spec import ProbeSpec, Variant

AGREEMENT = 1e-4
"""Largest difference between the two paths' logits, relative to the largest logit, that counts as the same."""
FEW, FEW_TOKENS = 2, 32
"""Sequences and their tokens that the two paths are compared on, and that kernels are compiled with: a multiple of 16,
as whole sequences mostly are, because Triton compiles anew for one that is not."""


class Engine:
    """Measures checkpoints on one device; skeletons stay."""

    def __init__(self, spec: ProbeSpec, sequences: np.ndarray, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self._tokens = torch.from_numpy(sequences).to(device)
        self._few = self._tokens[:FEW, :FEW_TOKENS].contiguous()
        self._plan = Plan(spec)
        self._skeleton: Skeleton | None = None
        self._walks: bool | None = None
        self._off = 0.0
        self._notes: list[str] = []

    @torch.inference_mode()
    def run(
        self, folder: Path, weights: DeviceWeights
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        """Per-token results and tensor statistics of the checkpoint in ``folder``."""
        weights.use(self.device)
        skeleton = self.prepare(folder, weights)
        skeleton.fill(weights.tensors)
        return self._measure(skeleton)

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
        return self._measure(self._skeleton)

    @torch.inference_mode()
    def prepare(self, folder: Path, weights: DeviceWeights) -> Skeleton:
        """The skeleton for checkpoints like the one in ``folder``; stays until one of another kind comes."""
        if self._skeleton is None or self._skeleton.signature != signature(folder, weights.tensors):
            check_fit(read_config(folder), self._tokens.cpu().numpy())
            self._skeleton = Skeleton(folder, weights.tensors, self._plan, self.device)
            self._skeleton.fill(weights.tensors)
            self._rehearse(self._skeleton)
            self._walks = None
        return self._skeleton

    def _measure(
        self, skeleton: Skeleton
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        """Of the weights that ``skeleton`` was filled with."""
        self._plan.summaries.clear()
        self._notes = list(skeleton.notes)
        allow_tf32 = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.spec.arithmetic == "tf32"
        try:
            tokens = self._evaluate(skeleton)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allow_tf32
        statistics = self._statistics(skeleton)
        skeleton.release()
        return tokens, statistics

    def _rehearse(self, skeleton: Skeleton) -> None:
        """Compiles what the probes of this skeleton launch, all kernels at once."""
        with compiling():
            if self._may_walk(skeleton):
                neox.Walk(skeleton.model, len(self.spec.variants), self._few).sums(len(self._few))
                self._module_logits(skeleton, self._few)
            else:
                self._module_sums(skeleton, self._few, len(self._few))

    def _evaluate(self, skeleton: Skeleton) -> TokenResults:
        variants, (sequences, length) = len(self.spec.variants), self._tokens.shape
        walks = self._use_walk(skeleton)
        config = skeleton.model.config
        if walks:
            chunk = walk_chunk(config.hidden_size, config.intermediate_size, variants, sequences, length)
        else:
            chunk = module_chunk(config.vocab_size, variants, sequences, length)
        while True:
            try:
                sums = self._sums(skeleton, walks, chunk)
                break
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise CheckpointError(
                        f"one sequence of {length} tokens in {variants} variants does not fit the GPU: "
                        "use a shorter --seq-len or fewer variants"
                    ) from None
            chunk //= 2
            self._notes.append(f"GPU out of memory: chunk reduced to {chunk} sequences")
            torch.cuda.empty_cache()
        nll, kl, agrees, delta_p = (
            number.view(variants, sequences, length)[:, :, :-1].contiguous().cpu().numpy()
            for number in ops.scores(sums)
        )
        return TokenResults(nll, kl, agrees, delta_p, self._notes)

    def _sums(self, skeleton: Skeleton, walks: bool, chunk: int) -> Tensor:
        variants = len(self.spec.variants)
        if walks:
            return neox.Walk(skeleton.model, variants, self._tokens).sums(chunk)
        return self._module_sums(skeleton, self._tokens, chunk)

    def _module_sums(self, skeleton: Skeleton, tokens: Tensor, chunk: int) -> Tensor:
        sums = ops.empty_sums(len(self.spec.variants), tokens.numel(), self.device)
        first = 0
        for part in tokens.split(chunk):
            logits = self._module_logits(skeleton, part)
            targets = part.roll(-1, dims=1).flatten()  # the last token's score means nothing and is dropped
            ops.score(logits, targets, sums, first)
            first += part.numel()
        return sums

    def _module_logits(self, skeleton: Skeleton, tokens: Tensor) -> Tensor:
        """Logits of the whole model, float32 (V, N * T, vocabulary)."""
        variants = len(self.spec.variants)
        logits = skeleton.model(
            input_ids=tokens.repeat(variants, 1), use_cache=False, return_dict=True
        ).logits
        return logits.reshape(variants, tokens.numel(), -1)

    def _may_walk(self, skeleton: Skeleton) -> bool:
        return self.spec.arithmetic == "split" and neox.fits(skeleton.model)

    def _use_walk(self, skeleton: Skeleton) -> bool:
        """Whether the walk is taken; where that is not known yet, both paths are run on a few tokens."""
        if not self._may_walk(skeleton):
            return False
        if self._walks is None:
            exact = self._module_logits(skeleton, self._few)
            blocks = neox.Walk(skeleton.model, len(self.spec.variants), self._few).logits(len(self._few))
            found = torch.cat([logits * scale[:, None] for logits, scale in blocks], dim=1)
            off = ((found - exact).abs().max() / exact.abs().max()).item()
            if math.isnan(off):  # a diverged checkpoint decides nothing; the next one is asked again
                self._notes.append(
                    "modules path taken: logits are not finite, so the fused path cannot be checked"
                )
                return False
            self._walks = off <= AGREEMENT
            self._off = off
        if not self._walks:
            self._notes.append(f"modules path taken: the fused path's logits differ by {self._off:.1e}")
        return self._walks

    def _statistics(self, skeleton: Skeleton) -> dict[Variant, tuple[TensorStatistics, ...]]:
        found: dict[Variant, list[TensorStatistics]] = {variant: [] for variant in self.spec.variants}
        linears = [linear for linear in skeleton.linears if not linear.is_head or len(set(linear.slots)) > 1]
        summaries = torch.cat([self._plan.summaries[linear.name] for linear in linears]).tolist()
        for linear in linears:
            count = self._plan.summaries[linear.name].numel()
            (mean, std, absmax, kurtosis, *fits), summaries = summaries[:count], summaries[count:]
            n = linear.counted_values
            for variant, slot in zip(self.spec.variants, linear.slots, strict=True):
                if linear.is_head and not variant.head:
                    continue
                fit = (None, None) if variant.scheme is None else fits[2 * slot : 2 * slot + 2]
                if variant.scheme is not None and not all(map(math.isfinite, fit)):
                    refuse_range(linear.name, variant, absmax)
                found[variant].append(TensorStatistics(linear.name, n, mean, std, absmax, kurtosis, *fit))
        return {variant: tuple(rows) for variant, rows in found.items()}
