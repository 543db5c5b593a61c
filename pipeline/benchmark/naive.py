"""The naive loop: load with transformers, evaluate; load again, quantize in place, evaluate; ...

It measures losses only: no divergences, no weight statistics, no resume. It shares only the definition of the grid
with the probe, so its losses also check the probe's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy.stats import kurtosis
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from pipeline.benchmark.quantize_elsewhere import evaluate
from pipeline.models.experts import fused_experts, routers, separated
from pipeline.quantize import Variant, round_trip


def naive_losses(
    folder: Path,
    variants: tuple[Variant, ...],
    tokens: np.ndarray,
    device: str,
    *,
    inspect: Callable[[Any], object] = lambda _: None,
) -> dict[str, float]:
    """Mean nll in nats of every variant over ``tokens`` (int64 (batches, batch_size, seq_len)).

    ``inspect`` is called once, with the loaded model.
    """
    return losses_of(lambda: naive_model(folder, device).eval(), variants, tokens, device, inspect=inspect)


def naive_model(folder: Path, device: str) -> Any:
    """The checkpoint in ``folder`` as transformers loads it, in float32."""
    transformers.utils.logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)


def losses_of(
    make: Callable[[], Any],
    variants: tuple[Variant, ...],
    tokens: np.ndarray,
    device: str,
    *,
    inspect: Callable[[Any], object] = lambda _: None,
) -> dict[str, float]:
    """Like :func:`naive_losses`, for the model that ``make`` returns, in eval mode and new for every variant."""
    losses: dict[str, float] = {}
    for variant in variants:
        model = make()
        if variant.is_fp32:
            inspect(model)
        else:
            _quantize_in_place(model, variant)
        losses[str(variant)] = evaluate(model, tokens, device)
    return losses


@torch.no_grad()
def scipy_kurtosis(model: Any) -> list[float]:
    """Excess kurtosis of each linear weight except the head's, with SciPy on the CPU in float32, as is usual."""
    return [
        float(kurtosis(weight.cpu().numpy().ravel())) for _, weight, is_head in _weights(model) if not is_head
    ]


@torch.no_grad()
def _quantize_in_place(model: Any, variant: Variant) -> None:
    for name, weight, is_head in _weights(model):
        quantizer = variant.quantizer_of(name, is_head=is_head)
        if quantizer is not None:
            weight.copy_(round_trip(quantizer, weight.contiguous()))


def _weights(model: Any) -> Iterator[tuple[str, Tensor, bool]]:
    """The layer's name, a view (O, I) of each linear weight and each expert's, and whether it is the head's, which
    becomes a copy if it is tied.
    """
    output, routing = model.get_output_embeddings(), set(routers(model))
    for name, module in model.named_modules():
        if module is output and module.weight is model.get_input_embeddings().weight:
            module.weight = nn.Parameter(module.weight.clone(), requires_grad=False)
        if isinstance(module, nn.Linear | Conv1D) and module not in routing:
            weight = module.weight.data
            yield name, weight.T if isinstance(module, Conv1D) else weight, module is output
    for path, fused in fused_experts(model).items():
        tensors = {f"{path}.{name}": parameter.data for name, parameter in fused.named_parameters()}
        for name, matrix in separated(path, tensors):
            yield name.removesuffix(".weight"), matrix, False
