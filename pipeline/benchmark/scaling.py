"""Time and money of an audit, from what was measured: plain arithmetic.

::

    seconds per checkpoint = max(stored bytes / load_bytes_per_s,
                                 variants x tokens x 2 x active weights / useful_flop_per_s) + store_s
    wall                   = start_s + ceil(checkpoints / GPUs) x seconds per checkpoint
    money                  = wall x GPUs x price per GPU hour

Reading the next checkpoint overlaps computing this one, hence the maximum. *Active weights* are those of the matrix
products: the blocks' and the output head's, not the embedding. Attention is not counted, as in the useful TFLOP/s that
were measured. The price is an argument because it is the reader's: nothing here knows one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

VARIANTS = 3
TOKENS = 32 * 4 * 512
STORE_S = 0.005
"""To write and fsync a shard."""
START_S = 35.0
"""From the command to the first checkpoint on a fresh machine, kernels compiled: Ray, imports. Measured on an H200."""
GPUS = (1, 8, 64)


@dataclass(frozen=True)
class Shape:
    """A model as far as its cost goes."""

    name: str
    checkpoints: int
    active_weights: float
    """Weights of the blocks and the output head."""
    embedding_weights: float
    """Read, but not computed with."""
    bytes_per_weight: int = 2

    @property
    def stored_bytes(self) -> float:
        return self.bytes_per_weight * (self.active_weights + self.embedding_weights)


@dataclass(frozen=True)
class Rates:
    """What one GPU and its share of disk or network do."""

    useful_flop_per_s: float
    load_bytes_per_s: float


@dataclass(frozen=True)
class Cost:
    """Of a whole audit."""

    wall_s: float
    gpu_hours: float

    def money(self, price_per_gpu_hour: float) -> float:
        """In the currency of ``price_per_gpu_hour``."""
        return self.gpu_hours * price_per_gpu_hour


def gpt_neox(name: str, hidden: int, layers: int, checkpoints: int = 154, vocab: int = 50304) -> Shape:
    """A shape of Pythia's kind: 12 x hidden^2 weights to a layer, an untied head and embedding."""
    return Shape(name, checkpoints, 12.0 * layers * hidden**2 + vocab * hidden, float(vocab * hidden))


PYTHIAS = (
    gpt_neox("pythia-14m", 128, 6),
    gpt_neox("pythia-70m", 512, 6),
    gpt_neox("pythia-160m", 768, 12),
    gpt_neox("pythia-410m", 1024, 24),
    gpt_neox("pythia-1b", 2048, 16),
    gpt_neox("pythia-1.4b", 2048, 24),
    gpt_neox("pythia-2.8b", 2560, 32),
    gpt_neox("pythia-6.9b", 4096, 32, vocab=50432),
    gpt_neox("pythia-12b", 5120, 36, vocab=50688),
)
_OLMO_HIDDEN, _OLMO_LAYERS, _OLMO_INNER, _OLMO_KV = 5120, 64, 27648, 1024
OLMO_32B = Shape(
    "olmo-2-32b",
    40,
    _OLMO_LAYERS * _OLMO_HIDDEN * (2.0 * _OLMO_HIDDEN + 2 * _OLMO_KV + 3 * _OLMO_INNER)
    + 100_352 * _OLMO_HIDDEN,
    100_352.0 * _OLMO_HIDDEN,
)
"""64 layers of 5120, 40 heads of which 8 for keys, an inner size of 27,648, vocabulary 100,352."""

READ_BYTES_PER_S, READ_LAYERS_BYTES_PER_S = 1.2e9, 2.4e9
"""Measured, from the page cache with checksums: whole checkpoints as fast as Pythia-1.4b's shape was measured (an
audit reads the next one meanwhile), and the layers of Pythia-6.9b's, whose files are hashed side by side. Whole ones
are hashed two at a time since, so the first is on the safe side."""
SPLIT_SMALL, SPLIT_LARGE = Rates(149e12, READ_BYTES_PER_S), Rates(218e12, READ_BYTES_PER_S)
"""H100, arithmetic ``split``. Measured: 0.332 s per checkpoint of Pythia-160m's shape, 2.36 s of Pythia-1.4b's."""
STREAMED = Rates(231e12, READ_LAYERS_BYTES_PER_S)
"""H200, layer by layer in ``split``. Measured: 5,804 tokens/s in three variants at 6.9 B weights."""
LARGE_FROM, WHOLE_UP_TO = 1e9, 12e9
"""Weights from which the faster rate holds, and up to which three copies of them as stored fit 80 GB."""


def rates(shape: Shape, load_bytes_per_s: float | None = None) -> Rates:
    """The measured rates that come nearest to ``shape``; with ``load_bytes_per_s`` another disk or a network."""
    weights = shape.active_weights + shape.embedding_weights
    measured = SPLIT_SMALL if weights < LARGE_FROM else SPLIT_LARGE if weights <= WHOLE_UP_TO else STREAMED
    if load_bytes_per_s is None:
        return measured
    return dataclasses.replace(measured, load_bytes_per_s=load_bytes_per_s)


def cost(shapes: Sequence[Shape], gpus: int, load_bytes_per_s: float | None = None) -> Cost:
    """Of auditing ``shapes`` one after the other on ``gpus`` GPUs, each reading at ``load_bytes_per_s`` (None: as
    measured).
    """
    wall_s = START_S
    for shape in shapes:
        wall_s += math.ceil(shape.checkpoints / gpus) * checkpoint_s(shape, rates(shape, load_bytes_per_s))
    return Cost(wall_s, gpus * wall_s / 3600)


def checkpoint_s(shape: Shape, rates: Rates, tokens: int = TOKENS) -> float:
    """Seconds per checkpoint.

    >>> round(checkpoint_s(PYTHIAS[2], SPLIT_SMALL), 2)
    0.33
    """
    compute_s = VARIANTS * tokens * 2 * shape.active_weights / rates.useful_flop_per_s
    return max(shape.stored_bytes / rates.load_bytes_per_s, compute_s) + STORE_S


def table(load_bytes_per_s: float | None = None) -> list[tuple[str, list[Cost]]]:
    """The costs on each of ``GPUS`` of what people ask about."""
    return [
        (name, [cost(shapes, gpus, load_bytes_per_s) for gpus in GPUS])
        for name, shapes in (
            ("Pythia-160m, 154 checkpoints", PYTHIAS[2:3]),
            ("all nine Pythias, 154 each", PYTHIAS),
            ("OLMo-2 32B, 40 checkpoints", (OLMO_32B,)),
        )
    ]
