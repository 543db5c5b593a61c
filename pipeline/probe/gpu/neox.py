"""GPT-NeoX on hand-written kernels: all variants, layer by layer, with every product split.

The layer loop. The residual streams of all tokens stay on the GPU and each layer is visited once: a layer's four
weights are packed for all variants, every chunk of tokens passes through it, and the packed weights are dropped. So
a checkpoint's weights are read and packed once, and memory does not grow with depth. Per chunk and layer three
kernels run beside the products (``rows.py``, ``attention.py``); each turns raw products into the next operands.

The powers of two. An operand must not exceed 2^15, and its largest value should not be far below. Every bound here
follows from the weights alone, so no pass over the data looks for a maximum:

    |LayerNorm(x)|_2 <= sqrt(width) max|gain| + |shift|_2 =: L      (the normalised row has norm <= sqrt(width))
    |W LayerNorm(x) + b| <= L max_row |W_row|_2 + max|b|            for queries, keys, values (rotation: times sqrt 2)
    |attention| <= max|value|, |GELU(h)| <= |h|

Such bounds are 2^3 to 2^8 above typical values and an operand keeps 22 bits over a range of 2^18 (``product.py``).

Truncation. Tensor cores do not round when they accumulate, they truncate, so products come out too small by about
1e-6, all in the same direction: random errors vanish in a mean over 65,536 tokens, this one does not. So in each
product, the shrinkage of a few rows against a plain float32 product is measured and taken out by the scale
(:meth:`_Weights.grown`).

Cost, Pythia-160m, 65,536 tokens, 3 variants (flops of float16 products; H100 at 650 TFLOP/s of them): blocks 78 TFLOP
= 0.12 s with the third product of the group-wise variant, head 30 TFLOP = 0.05 s, attention 6 TFLOP = 0.03 s; row
kernels 100 GB = 0.04 s, loss 40 GB written and read = 0.03 s.

Legend: V = variants, N = sequences of a chunk, T = tokens of a sequence, D = width, M = V * N * T rows; in a sample:
R = rows, O = outputs, I = inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.models.memory import HEAD_ROWS
from pipeline.models.variant_linear import ProbeLinear
from pipeline.probe.gpu import ops
from pipeline.probe.gpu.ops import Norm, Raw
from pipeline.probe.gpu.product import multiply
from pipeline.quantize.triton.packing import PackedWeight

SAMPLE_ROWS, SAMPLE_OUTS = 128, 1024
"""Rows and outputs of a product on which its truncation is measured."""
LARGEST_SHRINKAGE = 3e-5
"""Largest shrinkage that counts as truncation; beyond it (a product of zeros, non-finite values) nothing is
corrected."""


def fits(model: Any) -> bool:
    """Whether :class:`FusedNeox` supports the structure of ``model``."""
    return type(model).__name__ == "GPTNeoXForCausalLM" and model.config.hidden_act == "gelu"


@dataclass
class _Chunk:
    """The residual stream of some sequences under all variants, and the products that are not added yet."""

    x: Tensor
    """float32 (M, D)"""
    pending: tuple[Raw, ...] = ()


@dataclass
class _Weights:
    """One layer's linear for all variants, ready for use."""

    linear: ProbeLinear
    packed: PackedWeight
    true_scale: Tensor | None = None
    """float32 (V, out): :meth:`scale`, corrected for truncation on the first chunk."""

    @property
    def three(self) -> int:
        """Bit v is set if variant v needs the operand's first block."""
        return sum(1 << v for v, slot in enumerate(self.linear.slots) if self.packed.three[slot])

    def scale(self, power: Tensor) -> Tensor:
        """float32 (V, out): factor of raw products, for operands multiplied by ``power`` (V or 1)."""
        return self._per_variant(self.packed.scale) / power[:, None]

    def norm_powers(self, norm: Any, factor: Tensor) -> tuple[Norm, Tensor]:
        """``norm``, the LayerNorm before it, with its power, and float32 (V): that for ``factor`` times any output."""
        bias = self.linear.bias
        power, power_S = ops.powers(norm.weight, norm.bias, self.packed.row_squares, bias, factor)
        return Norm(norm.weight, norm.bias, power), self._per_variant(power_S)

    def _per_variant(self, by_slot: Tensor) -> Tensor:
        slots = self.linear.slots
        if slots == tuple(range(len(by_slot))):
            return by_slot
        if len(by_slot) == 1:
            return by_slot.expand(len(slots), *by_slot.shape[1:])
        # Not by_slot[slots]: that copies the list to the GPU and waits for everything before it.
        return torch.stack([by_slot[slot] for slot in slots])

    def grown(self, operand: Tensor, raws: Tensor, scale: Tensor) -> Tensor:
        """``scale`` (V, out), corrected for the truncation of ``raws`` (V, M / V, out), the products of ``operand``.

        The factor is the one that brings a sample row nearest to its float32 counterpart, averaged over rows. It is
        1 + (exact - found) found / found^2: so little of 1 that float32 is enough for the second term.
        """
        features = operand.shape[1] // 3
        sample = operand.view(len(raws), -1, 3 * features)[:, :SAMPLE_ROWS]
        rows_VRI = sample[..., features : 2 * features].float().add_(sample[..., 2 * features :])
        found_VRO = raws[:, :SAMPLE_ROWS, :SAMPLE_OUTS]
        excess_VRO = torch.bmm(rows_VRI, self._sampled_weights(features).mT).sub_(found_VRO)
        excess_VR = excess_VRO.mul_(found_VRO).sum(dim=2).div_(found_VRO.square().sum(dim=2))
        excess_VR.masked_fill_((excess_VR.abs() < LARGEST_SHRINKAGE).logical_not_(), 0.0)
        return torch.addcmul(scale, scale, excess_VR.mean(dim=1, keepdim=True))

    def _sampled_weights(self, features: int) -> Tensor:
        """float32 (V, some outputs, I)."""
        low, high, _ = self.packed.operand[:, :SAMPLE_OUTS].split(features, dim=2)
        weight_VOI = self._per_variant(high).to(torch.float32, copy=True)
        if all(self.packed.three):
            return weight_VOI.add_(self._per_variant(low))
        for v, slot in enumerate(self.linear.slots):
            if self.packed.three[slot]:
                weight_VOI[v] += low[slot]
        return weight_VOI

    def product(self, operand: Tensor, power: Tensor) -> Raw:
        """The raw products of all variants with ``operand`` (M, 3 in)."""
        variants, outs = len(self.linear.slots), self.packed.scale.shape[1]
        out = torch.empty(
            variants, operand.shape[0] // variants, outs, dtype=torch.float32, device=operand.device
        )
        for v, (rows, slot) in enumerate(zip(operand.chunk(variants), self.linear.slots, strict=True)):
            multiply(rows, self.packed.operand[slot], self.packed.three[slot], out[v])
        if self.true_scale is None:
            self.true_scale = self.grown(operand, out, self.scale(power))
        return Raw(out.view(-1, outs), self.true_scale, self.linear.bias)


class FusedNeox:
    """One pass of ``tokens`` (int64 (sequences, T), on the device) through a GPT-NeoX template.

    :meth:`begin`, then :meth:`advance` with every layer in order, then :meth:`logits`; a layer must hold its
    weights only during its own advance.
    """

    takes_layers = True

    def __init__(self, model: Any, variants: int, tokens: Tensor) -> None:
        self.model, self.base, self.variants, self.tokens = model, model.gpt_neox, variants, tokens
        self.heads = model.config.num_attention_heads
        self.parallel = model.config.use_parallel_residual
        self.eps = model.config.layer_norm_eps
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        cos, sin = self.base.rotary_emb(torch.empty(1, device=tokens.device), positions)
        self.cos, self.sin = cos[0].contiguous(), sin[0].contiguous()
        turned = torch.stack([self.cos, self.sin]).abs().max().clamp(min=1.0)
        self._rotation = (math.sqrt(2.0) * turned)[None].float()
        """By how much the rotation makes queries and keys grow."""
        self._one = torch.ones_like(self._rotation)
        self._chunks: list[_Chunk] = []

    def begin(self, chunk: int) -> None:
        """Embed the tokens, ``chunk`` sequences at a time."""
        self._chunks = [self._embed(tokens) for tokens in self.tokens.split(chunk)]

    def advance(self, layer: Any) -> None:
        """Advance all tokens through ``layer``, the next one."""
        qkv, dense, up, down = (
            _Weights(linear, linear.packed())
            for linear in (
                layer.attention.query_key_value, layer.attention.dense, layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h
            )
        )  # fmt: skip
        norm1, attention_power = qkv.norm_powers(layer.input_layernorm, self._rotation)
        norm2, up_power = up.norm_powers(layer.post_attention_layernorm, self._one)
        for piece in self._chunks:
            first = self._operand(piece.x)
            if self.parallel:
                second = self._operand(piece.x)
                self._add_norm(piece, (norm1, norm2), (first, second), qkv.three | up.three)
            else:
                self._add_norm(piece, (norm1,), (first,), qkv.three)
            raw = qkv.product(first, norm1.power)
            attended = first  # same shape, and this is its last use
            ops.attention(
                raw, self.cos, self.sin, attention_power, self.heads, out=attended, three=dense.three
            )
            del raw
            attention = dense.product(attended, attention_power)
            if not self.parallel:
                piece.pending = (attention,)
                second = first
                self._add_norm(piece, (norm2,), (second,), up.three)
            del first, attended
            raw = up.product(second, norm2.power)
            del second
            activated = torch.empty(
                raw.value.shape[0], 3 * raw.value.shape[1], dtype=torch.float16, device=piece.x.device
            )
            ops.gelu(raw, up_power, activated, down.three)
            del raw
            mlp = down.product(activated, up_power)
            del activated
            piece.pending = (attention, mlp) if self.parallel else (mlp,)

    def hidden(self) -> Iterator[Tensor]:
        """The residual stream of the first variant, chunk by chunk, with what has yet to be added to it."""
        for piece in self._chunks:
            rows = len(piece.x) // self.variants
            stream = piece.x[:rows]
            for raw in piece.pending:
                stream = torch.addcmul(stream, raw.value[:rows], raw.scale[0])
                if raw.bias is not None:
                    stream = stream + raw.bias
            yield stream

    def logits(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Raw logits (V, rows, vocabulary) and their scale (V, vocabulary), block by block in token order."""
        last = self.base.final_layer_norm
        norm = Norm(last.weight, last.bias, ops.norm_power(last.weight, last.bias))
        head = _Weights(self.model.get_output_embeddings(), self.model.get_output_embeddings().packed())
        scale = None
        while self._chunks:
            piece = self._chunks.pop(0)
            operand = self._operand(piece.x)
            self._add_norm(piece, (norm,), (operand,), head.three)
            by_variant = operand.view(self.variants, -1, operand.shape[1])
            for start in range(0, by_variant.shape[1], HEAD_ROWS):
                rows = by_variant[:, start : start + HEAD_ROWS]
                vocabulary = head.packed.scale.shape[1]
                logits = torch.empty(*rows.shape[:2], vocabulary, dtype=torch.float32, device=operand.device)
                for v, slot in enumerate(head.linear.slots):
                    multiply(rows[v], head.packed.operand[slot], head.packed.three[slot], logits[v])
                if scale is None:
                    scale = head.grown(operand, logits, head.scale(norm.power))
                yield logits, scale

    def _embed(self, tokens: Tensor) -> _Chunk:
        embedded = self.base.embed_in(tokens).flatten(0, 1)
        return _Chunk(embedded.repeat(self.variants, 1))

    def _operand(self, x: Tensor) -> Tensor:
        return torch.empty(x.shape[0], 3 * x.shape[1], dtype=torch.float16, device=x.device)

    def _add_norm(self, piece: _Chunk, norms: tuple[Norm, ...], outs: tuple[Tensor, ...], three: int) -> None:
        ops.add_norm(piece.x, piece.pending, norms, outs, variants=self.variants, three=three, eps=self.eps)
        piece.pending = ()
