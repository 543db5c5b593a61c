"""How much GPU memory measuring a model takes, whole or layer by layer, from its config.json and its files' size.

Computed before anything starts, so that the choice between the two is made once for a suite. The sums are upper
bounds on what the code holds at its peak. Legend: S = stored bytes, L = layers, D = hidden size, F = inner size, K
= vocabulary, V = variants at a time (``VARIANTS_AT_ONCE``), M = V x tokens.

* as a whole: this checkpoint and the next one as stored, 2 S; the embedding in float32, 4 K D
* layer by layer: two layers as stored, 2 S / L; embedding and head as stored and the embedding in float32, 12 K D. The
  depth does not count, but for biases and norms
* ``RUNTIME_BYTES``, ``DRAW_BYTES`` if there are controls, and then either way
* GPT-NeoX in split (``probe/gpu/neox.py``): three float32 residual streams of all tokens, 12 M D; and the larger of
  one layer packed for all variants, 6 V (4 D^2 + 3 D F), with a chunk of operands and products, (30 D + 10 F) bytes
  a row up to ``CHUNK_BYTES``; and the packed head, 6 K D for each of its weights, with the logits of ``HEAD_ROWS``
* any other (``probe/forward.py``): the logits of a chunk twice, 2 x ``MODULE_LOGIT_BYTES`` or of one sequence if
  that is more, the float32 activations of its rows, (64 D + 24 F) bytes each, and the largest packed layer; layer by
  layer the hidden states of all tokens, 4 M D

Peak allocation on an H100 with 32 x 4 x 512 tokens and three variants, against this bound: Pythia-160m 5.0 of
6.9 GiB, in ieee 4.5 of 6.5; Pythia-1.4b 13.2 of 16.2. On an H200 with half as many tokens Pythia-6.9b: layer by layer
12.5 of 16.4, as a whole (without a next checkpoint) 24.1 of 39.6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.quantize.control_variant import ControlVariant
from pipeline.spec import TokenShape, Variant

VARIANTS_AT_ONCE = 16
"""Variants that a GPU measures at a time, including the baseline, which every group repeats. The loss kernel holds
a block of logits of each in registers, and one of its arguments has a bit for each."""
CONTROLS_AT_ONCE = 8
"""Controls that a GPU measures at a time: of fewer variants more rows fit a chunk, so that products are larger (7 at a
time took 2 % less time than 10 on an H200, and 4 GiB less memory; 5 at a time the same time as 10)."""
CHUNK_BYTES = 2**32
"""Bound on the operands and raw products of one chunk in one layer, bytes (GPT-NeoX)."""
HEAD_ROWS = 2048
"""Predictions whose logits exist at a time, for every variant (GPT-NeoX)."""
MODULE_LOGIT_BYTES = 2**31
"""Bound on the logits of a chunk for other architectures, bytes; one sequence is the minimum."""
RUNTIME_BYTES = 2**30
"""Bytes of CUDA's context, the libraries' work space and the scores."""
CPU_CHUNK_LOGIT_BYTES = 2**28
"""Bound on the logits of a chunk on a CPU, bytes; one sequence is the minimum."""
CPU_COMPARED_ROWS = 256
"""Predictions of each variant compared at a time on a CPU."""
CPU_PROCESS_BYTES = 600 * 2**20
"""Bytes of a worker's process before it reads a checkpoint: Python, torch and transformers."""
DRAW_BYTES = 5 * 2**29
"""Bytes of controls' random numbers that a GPU keeps from checkpoint to checkpoint: all of Pythia-160m's."""
USABLE_SHARE = 0.9
"""Usable share of a GPU's memory; the rest is lost to fragmentation or used by other programs."""


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model that its memory bound depends on."""

    stored_bytes: int
    """Bytes of its weight files."""
    layers: int
    """Number of layers; 1 if not stated, which makes the layer-by-layer bound that of one huge layer."""
    hidden: int
    inner: int
    vocabulary: int
    neox: bool
    """Whether it is a GPT-NeoX, which has its own kernels."""

    @classmethod
    def of(cls, config: Mapping[str, Any], stored_bytes: int) -> ModelSize | None:
        """Read the sizes from a config.json; None if it does not state them."""
        hidden = _whole(config, "hidden_size", "n_embd")
        inner = _whole(config, "intermediate_size", "ffn_dim", "n_inner")
        vocabulary = _whole(config, "vocab_size")
        layers = _whole(config, "num_hidden_layers", "n_layer")
        if hidden is None or vocabulary is None:
            return None
        neox = config.get("model_type") == "gpt_neox"
        return cls(stored_bytes, layers or 1, hidden, inner or 4 * hidden, vocabulary, neox)


def whole_bytes(size: ModelSize, variants: Sequence[Variant], shape: TokenShape, arithmetic: str) -> int:
    """Upper bound on the GPU memory of a probe of the whole model, bytes."""
    stored = 2 * size.stored_bytes + 4 * size.vocabulary * size.hidden
    return stored + _kept_bytes(variants) + _work_bytes(size, variants, shape, arithmetic)


def layered_bytes(size: ModelSize, variants: Sequence[Variant], shape: TokenShape, arithmetic: str) -> int:
    """Upper bound on the GPU memory of a probe layer by layer, bytes."""
    stored = 2 * size.stored_bytes // size.layers + 12 * size.vocabulary * size.hidden
    at_once = len(variant_groups(variants)[0])
    states = 0 if _walks(size, arithmetic) else 4 * at_once * shape.n_tokens * size.hidden
    return stored + states + _kept_bytes(variants) + _work_bytes(size, variants, shape, arithmetic)


def calibration_bytes(size: ModelSize, variants: Sequence[Variant], n_tokens: int) -> int:
    """Upper bound on the memory that calibrating takes beside a probe, bytes; 0 if no variant is calibrated.

    n_tokens: calibration tokens. Each calibrated variant has the hidden states of all of them, the activations of its
    widest layer (float32, four deep, unless a smaller chunk is chosen for want of memory) and, in float64, the second
    moments of that layer and their factor.
    """
    count = max(sum(bool(variant.needs) for variant in group) for group in variant_groups(variants))
    states = 4 * n_tokens * size.hidden
    activations = 16 * n_tokens * (size.hidden + size.inner)
    return count * (states + activations + 16 * size.inner**2)


def cpu_logit_bytes(vocabulary: int, variants: int, shape: TokenShape) -> int:
    """Upper bound on the host memory of logits on a CPU, bytes: those of a chunk, and four copies of the rows being
    compared (0.64 GiB were used of a bound of 0.92 at 64,000 ids, 256 tokens and three variants). Before the first
    numbers two sequences of one variant are compared.
    """
    sequence = 4 * max(2, variants) * shape.seq_len * vocabulary
    all_at_once = 4 * variants * shape.n_tokens * vocabulary
    rows = 4 * variants * min(CPU_COMPARED_ROWS, shape.seq_len) * vocabulary
    return max(sequence, min(all_at_once, CPU_CHUNK_LOGIT_BYTES)) + 4 * rows


def cpu_weight_bytes(elements: int, variants: int) -> int:
    """Host memory of a whole model with ``elements`` weights on a CPU, bytes: float32, and once per variant."""
    return 4 * elements * (1 + variants)


def cpu_worker_bytes(
    config: Mapping[str, Any],
    stored_bytes: int,
    variants: Sequence[Variant],
    shape: TokenShape,
    calibration: int = 0,
) -> int | None:
    """Upper bound on the host memory of a CPU worker for a whole checkpoint, bytes; None if ``config`` (a
    config.json) states no vocabulary size. Weights count as two bytes each unless it states four. ``calibration``:
    tokens for calibrated variants.
    """
    vocabulary = _whole(config, "vocab_size")
    if vocabulary is None:
        return None
    four = "float32" in (config.get("dtype"), config.get("torch_dtype"))
    weights = cpu_weight_bytes(stored_bytes // (4 if four else 2), len(variants))
    size = ModelSize.of(config, stored_bytes)
    calibrating = 0 if size is None else calibration_bytes(size, variants, calibration)
    return CPU_PROCESS_BYTES + weights + cpu_logit_bytes(vocabulary, len(variants), shape) + calibrating


def variant_groups(variants: Sequence[Variant]) -> list[tuple[Variant, ...]]:
    """The groups that are measured at a time, each with the baseline first, none larger than the first."""
    baseline, *others = variants
    most = VARIANTS_AT_ONCE - 1
    return [(baseline, *others[start : start + most]) for start in range(0, max(1, len(others)), most)]


def widest(variants: Sequence[Variant], mechanism: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants for bounds on memory: ``variants``, or a group of controls where ``mechanism`` has more."""
    if not mechanism:
        return tuple(variants)
    most = VARIANTS_AT_ONCE if any(each.needs for each in mechanism) else CONTROLS_AT_ONCE
    if len(variants) >= most:
        return (*variants, ControlVariant())
    return (ControlVariant(head=any(each.head for each in (*variants, *mechanism))),) * most


def control_groups(controls: Sequence[ControlVariant]) -> list[tuple[Variant, ...]]:
    """Split ``controls`` into equal groups that are measured at a time; controls of a calibrated variant are
    measured with it, in few groups because it is calibrated for each, and it comes first in its group.
    """
    groups: list[tuple[Variant, ...]] = []
    by_base: dict[Variant | None, list[ControlVariant]] = {}
    for each in controls:
        by_base.setdefault(each.base if each.base.needs else None, []).append(each)
    for base, own in by_base.items():
        first = () if base is None else (base,)
        count = math.ceil(len(own) / (VARIANTS_AT_ONCE - 1 if first else CONTROLS_AT_ONCE))
        size = math.ceil(len(own) / count)
        groups += [(*first, *own[start : start + size]) for start in range(0, len(own), size)]
    return groups


def _kept_bytes(variants: Sequence[Variant]) -> int:
    """Bytes that stay from checkpoint to checkpoint."""
    return RUNTIME_BYTES + DRAW_BYTES * any(isinstance(each, ControlVariant) for each in variants)


def _walks(size: ModelSize, arithmetic: str) -> bool:
    return size.neox and arithmetic == "split"


def _work_bytes(size: ModelSize, variants: Sequence[Variant], shape: TokenShape, arithmetic: str) -> int:
    """Bytes beside the stored weights: packed weights, activations and logits of ``variants``."""
    return max(_group_bytes(size, group, shape, arithmetic) for group in variant_groups(variants))


def _group_bytes(size: ModelSize, variants: Sequence[Variant], shape: TokenShape, arithmetic: str) -> int:
    hidden, inner, vocabulary, count = size.hidden, size.inner, size.vocabulary, len(variants)
    sequences, rows = shape.n_tokens // shape.seq_len, count * shape.n_tokens
    head = 6 * (1 + sum(variant.head for variant in variants)) * vocabulary * hidden
    if _walks(size, arithmetic):
        at_once = count * shape.seq_len * walk_chunk(hidden, inner, count, sequences, shape.seq_len)
        layer = 6 * count * (4 * hidden**2 + 3 * hidden * inner)
        logits = 4 * count * vocabulary * min(HEAD_ROWS, shape.n_tokens)
        return 12 * rows * hidden + max(layer + row_bytes(hidden, inner) * at_once, head + logits)
    at_once = count * shape.seq_len * module_chunk(vocabulary, count, sequences, shape.seq_len)
    activations = (8 * vocabulary + 64 * hidden + 24 * inner) * at_once
    return activations + max(head, 6 * count * hidden * inner)


def walk_chunk(hidden: int, inner: int, variants: int, sequences: int, length: int) -> int:
    """Sequences of ``length`` per chunk (GPT-NeoX): chunks of nearly equal size within ``CHUNK_BYTES``."""
    most = max(1, CHUNK_BYTES // (row_bytes(hidden, inner) * variants * length))
    return math.ceil(sequences / math.ceil(sequences / most))


def row_bytes(hidden: int, inner: int) -> int:
    """Bytes of operands and raw products per row of a chunk (GPT-NeoX)."""
    return 30 * hidden + 10 * inner


def module_chunk(vocabulary: int, variants: int, sequences: int, length: int) -> int:
    """Sequences of ``length`` per chunk for other architectures, within ``MODULE_LOGIT_BYTES``."""
    return max(1, min(sequences, MODULE_LOGIT_BYTES // (4 * variants * length * vocabulary)))


def usable_bytes(memory: int, workers_per_gpu: int = 1) -> int:
    """Bytes of a GPU's ``memory`` that each worker sharing it can use."""
    return int(USABLE_SHARE * memory / workers_per_gpu)


def _whole(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of ``names`` whose setting is a positive whole number."""
    for name in names:
        value = config.get(name)
        if type(value) is int and value > 0:
            return value
    return None
