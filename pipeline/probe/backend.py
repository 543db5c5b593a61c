"""Backends of the engine: packing weights, products, scoring logits. With the backend of plain torch.

The torch backend is the definition, on a CPU and on a GPU without Triton. The Triton backend
(``gpu/triton_backend.py``) is faster and gives the same numbers within float32's accuracy.

Legend: V = variants, N = sequences, T = tokens of a sequence, P = T - 1 predictions, R = rows of a variant,
I = in_features, O = out_features, S = packed weights, K = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.base.errors import CheckpointError
from pipeline.measurements import TensorMeasurement, TokenMeasurement, selected
from pipeline.measurements.hooks import token_values
from pipeline.models.loading import vocabulary
from pipeline.models.memory import CPU_CHUNK_LOGIT_BYTES, CPU_COMPARED_ROWS
from pipeline.models.out_of_memory import room_for
from pipeline.models.variant_linear import ProbeLinear
from pipeline.probe.tensor_statistics import TensorStatistics, measure_weight
from pipeline.quantize import Calibration, Encoded, Quantizer, Variant, decoded
from pipeline.quantize.control_variant import Perturbed
from pipeline.quantize.perturbing import RoundingErrors, perturbed
from pipeline.spec import ProbeSpec

CPU_CHUNK_ROWS = 2048
"""Rows (variants x tokens) of a chunk on the CPU: small enough that activations stay in its caches."""
GPU_CHUNK_ROWS = 65_536
"""Rows of a chunk on a GPU: enough to fill it."""
ROWS_PER_BLOCK = CPU_COMPARED_ROWS
"""Predictions compared at a time: keeps the float32 temporaries of the softmax in the cache."""
ADVICE = "free memory there, or use fewer workers, variants or batches, or a shorter --seq-len"


class Scores(Protocol):
    """Token-level values of one pass, filled as logits arrive."""

    def add(self, logits: Tensor, scale: Tensor | None) -> None:
        """Add the next logits, float32 (V, R, K) in token order, to be multiplied by ``scale`` (V, K) if given."""

    def values(self) -> dict[str, np.ndarray]:
        """Name -> (V, N, P), for every token-level value (``TokenMeasurement.values``)."""


class Backend(Protocol):
    """The computations of an engine on one device."""

    keeps_packed: bool
    """Whether packed weights are kept until their layer is released; if not, they are packed at every use."""

    def groups(self, variants: Sequence[Variant]) -> list[tuple[Variant, ...]]:
        """Split ``variants`` into groups that are measured together, the baseline first in each."""

    def chunk(self, config: Any, variants: int, sequences: int, length: int, *, fused: bool) -> int:
        """Sequences of ``length`` per chunk for a model of ``config``."""

    def encode(
        self,
        quantizer: Quantizer,
        weights: Mapping[str, Tensor],
        calibration: Calibration,
        config: Mapping[str, Any],
    ) -> dict[str, Encoded]:
        """``quantizer.encode_together(weights, calibration, config)``."""

    def sum_of_squares(self, rows_RI: Tensor) -> Tensor:
        """float64 (I, I): the sum of x x^T over float32 rows."""

    def products(self, rows_CRI: Tensor, weights_COI: Tensor, bias: Tensor | None) -> Tensor:
        """float32 (C, R, O): of the rows of each by the weight of each, both float32, with the bias."""

    def pack(self, linear: ProbeLinear) -> Any:
        """Pack the weight of ``linear`` for all variants; its statistics go to ``linear.plan.measured``."""

    def product(self, linear: ProbeLinear, rows_VRI: Tensor) -> Tensor:
        """float32 (V, R, O): each variant's rows times its weight, plus the bias."""

    def scores(self, tokens_NT: Tensor, variants: int, *, losses_only: bool = False) -> Scores:
        """Make the scores of a pass of ``tokens_NT`` (int64, on the device). losses_only: of ``nll_nats`` alone."""

    def statistics(self, linears: Sequence[ProbeLinear]) -> dict[Variant, tuple[TensorStatistics, ...]]:
        """Variant -> statistics of the weights of ``linears``, in their order."""

    def may_fuse(self, model: Any) -> bool:
        """Whether the backend has a fused pass for the structure of ``model``."""

    def fused(self, model: Any, variants: int, tokens_NT: Tensor) -> Any:
        """The fused pass (``probe.forward.Pass``) of ``tokens_NT`` through ``model``."""

    def compiling(self) -> AbstractContextManager[bool]:
        """Context manager: launches compile instead of run; gives whether there is anything to compile."""


class TorchBackend:
    """Plain torch, in float32 on any device."""

    keeps_packed = True

    def __init__(self, spec: ProbeSpec, device: torch.device) -> None:
        self._spec, self._device = spec, device
        self._token_level = selected(spec.measurements, TokenMeasurement)
        self._tensor_level = selected(spec.measurements, TensorMeasurement)

    def groups(self, variants: Sequence[Variant]) -> list[tuple[Variant, ...]]:
        """One group: no kernel limits the number of variants."""
        return [tuple(variants)]

    def chunk(self, config: Any, variants: int, sequences: int, length: int, *, fused: bool) -> int:
        """Chunk size by the device's best number of rows and the bytes of the logits."""
        del fused
        rows = GPU_CHUNK_ROWS if self._device.type == "cuda" else CPU_CHUNK_ROWS
        by_logits = CPU_CHUNK_LOGIT_BYTES // (4 * variants * length * vocabulary(config))
        return max(1, min(rows // (variants * length), by_logits, sequences))

    def encode(
        self,
        quantizer: Quantizer,
        weights: Mapping[str, Tensor],
        calibration: Calibration,
        config: Mapping[str, Any],
    ) -> dict[str, Encoded]:
        """Encode by the definition."""
        return quantizer.encode_together(weights, calibration, config)

    def sum_of_squares(self, rows_RI: Tensor) -> Tensor:
        """In float64."""
        wide_RI = rows_RI.double()
        return wide_RI.T @ wide_RI

    def products(self, rows_CRI: Tensor, weights_COI: Tensor, bias: Tensor | None) -> Tensor:
        """In float32."""
        return float_products(rows_CRI, weights_COI, bias)

    def pack(self, linear: ProbeLinear) -> Tensor:
        """Pack as float32 (S, O, I)."""
        with room_for(f"all variants of {linear.name}", ADVICE):
            return self._pack(linear)

    def _pack(self, linear: ProbeLinear) -> Tensor:
        weight, quantizers = linear.float_weight(), linear.packing.quantizers
        calibrated = linear.plan.calibrated.get(linear.name, {})
        packed = weight.new_empty(len(quantizers), *weight.shape)
        steps: list[Tensor | None] = []
        errors = RoundingErrors(weight, quantizers, calibrated)
        for slot, quantizer in enumerate(quantizers):
            if isinstance(quantizer, Perturbed):
                packed[slot] = perturbed(errors, quantizer.control, quantizer.quantizer, quantizer.matrix)
                continue
            if quantizer is None:
                packed[slot] = weight
                steps.append(None)
                continue
            encoded = calibrated[slot] if slot in calibrated else quantizer.encode(weight)
            packed[slot] = decoded(quantizer, encoded, weight)
            steps.append(quantizer.grid_steps(weight, encoded))
        if linear.name not in linear.plan.measured and not linear.plan.losses_only:
            rows = measure_weight(linear, weight, list(packed), steps, self._tensor_level)
            linear.plan.measured[linear.name] = rows
        _refuse_changed(linear.name, weight, packed, quantizers)
        return packed

    def product(self, linear: ProbeLinear, rows_VRI: Tensor) -> Tensor:
        """V products into one buffer: no concatenation afterwards."""
        packed: Tensor = linear.packed()
        if len(packed) == 1:  # all variants share the weight
            return functional.linear(rows_VRI, packed[0], linear.bias)
        out_VRO = rows_VRI.new_empty(*rows_VRI.shape[:2], packed.shape[1])
        for variant, slot in enumerate(linear.slots):
            weight_IO = packed[slot].T
            if linear.bias is None:
                torch.mm(rows_VRI[variant], weight_IO, out=out_VRO[variant])
            else:
                torch.addmm(linear.bias, rows_VRI[variant], weight_IO, out=out_VRO[variant])
        return out_VRO

    def scores(self, tokens_NT: Tensor, variants: int, *, losses_only: bool = False) -> Scores:
        """Scores by the measurements' own hooks."""
        wanted = selected(("loss",), TokenMeasurement) if losses_only else self._token_level
        return TorchScores(wanted, tokens_NT, variants)

    def statistics(self, linears: Sequence[ProbeLinear]) -> dict[Variant, tuple[TensorStatistics, ...]]:
        """The statistics of ``pack``."""
        plan = linears[0].plan
        found: dict[Variant, list[TensorStatistics]] = {variant: [] for variant in plan.variants}
        for linear in linears:
            for variant, row in plan.measured[linear.name].items():
                found[variant].append(row)
        return {variant: tuple(rows) for variant, rows in found.items()}

    def may_fuse(self, model: Any) -> bool:
        """Never."""
        del model
        return False

    def fused(self, model: Any, variants: int, tokens_NT: Tensor) -> Any:
        """There is none."""
        raise NotImplementedError(f"no fused pass of {type(model).__name__} in torch")

    def compiling(self) -> AbstractContextManager[bool]:
        """Context manager: nothing is compiled."""
        return nullcontext(False)


def _refuse_changed(
    name: str, weight: Tensor, packed: Tensor, quantizers: Sequence[Quantizer | None]
) -> None:
    """Raise CheckpointError if ``weight`` is not what it was when it was ``packed`` for fp32."""
    if quantizers[0] is None and not weight.equal(packed[0]):
        others = ", ".join(str(each) for each in quantizers if each is not None)
        raise CheckpointError(
            f"the weights of {name} were changed in place while they were quantized and measured ({others}): encode, "
            "decode and a measurement's hook have to leave what they are given as it is"
        )


def float_products(rows_CRI: Tensor, weights_COI: Tensor, bias: Tensor | None) -> Tensor:
    """:meth:`Backend.products` in the arithmetic of torch's own."""
    out_CRO = torch.bmm(rows_CRI, weights_COI.mT)
    return out_CRO if bias is None else out_CRO.add_(bias)


class TorchScores:
    """Scores of whole sequences, one at a time, so that they do not depend on the chunk."""

    def __init__(self, measurements: Sequence[TokenMeasurement], tokens_NT: Tensor, variants: int) -> None:
        self._measurements, self._tokens_NT = measurements, tokens_NT
        self._done = 0
        shape = (variants, tokens_NT.shape[0], tokens_NT.shape[1] - 1)
        self._values = {
            name: np.empty(shape, dtype=dtype) for each in measurements for name, dtype in each.values.items()
        }

    def add(self, logits: Tensor, scale: Tensor | None) -> None:
        """Add the logits of the next sequences."""
        assert scale is None
        length = self._tokens_NT.shape[1]
        logits_VNTK = logits.view(logits.shape[0], -1, length, logits.shape[-1])
        ids_NT = self._tokens_NT[self._done : self._done + logits_VNTK.shape[1]]
        compared = [
            compare(logits_VNTK[:, sequence, :-1], ids[1:], self._measurements)
            for sequence, ids in enumerate(ids_NT)
        ]
        for name, value in self._values.items():
            part = torch.stack([each[name] for each in compared], dim=1)
            value[:, self._done : self._done + len(compared)] = part.cpu().numpy()
        self._done += len(compared)

    def values(self) -> dict[str, np.ndarray]:
        """Name -> (V, N, P)."""
        assert self._done == len(self._tokens_NT)
        return self._values


def compare(
    logits_VPK: Tensor, targets_P: Tensor, measurements: Sequence[TokenMeasurement]
) -> Mapping[str, Tensor]:
    """Every value of ``measurements``, (V, P); the others are compared with variant 0."""
    blocks = [
        token_values(
            measurements,
            logits_VPK[:, start : start + ROWS_PER_BLOCK],
            targets_P[start : start + ROWS_PER_BLOCK],
        )
        for start in range(0, targets_P.shape[0], ROWS_PER_BLOCK)
    ]
    return {name: torch.cat([block[name] for block in blocks], dim=1) for name in blocks[0]}
