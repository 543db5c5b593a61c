"""Random numbers that depend on a seed and a place only: equal on every device and in every execution mode.

Bits are those of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
number k of a stream is a mix of start + (k + 1) * golden, so that any part of a stream is computed by itself, in
integer operations that every device has. The start is a hash of the seed, the matrix's name and the use.

Normal numbers are made of them in float64 and rounded to float32, where devices' logarithms and cosines no longer
differ but for a tie in a thousand million.

All checkpoints of a run get the same draws, so :class:`Draws` can keep them: on a GPU they take a tenth of the time of
the controls.

Legend: N = numbers, W = words of 64 bits, R = rows of a matrix of blocks, S = block size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_PLACE_BITS = 20
"""Lower bits of a sort key that hold its place, so that no two keys are equal."""


@dataclass(frozen=True)
class Stream:
    """A sequence of random words."""

    start: int
    """0 to 2^64 - 1"""
    device: torch.device

    @classmethod
    def of(cls, seed: int, use: str, name: str, device: torch.device) -> Stream:
        """The stream of the matrix called ``name`` for ``use``."""
        digest = hashlib.sha256(f"{seed}/{use}/{name}".encode()).digest()
        return cls(int.from_bytes(digest[:8], "little"), device)

    def words(self, count: int) -> Tensor:
        """int64 (W,): the first ``count`` words, each of 64 random bits."""
        import torch

        z = torch.arange(1, count + 1, dtype=torch.int64, device=self.device)
        z.mul_(_signed(_GOLDEN)).add_(_signed(self.start))
        for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, None), strict=True):
            z.bitwise_xor_(_shifted(z, shift))
            if multiplier is not None:
                z.mul_(_signed(multiplier))
        return z

    def coins(self, count: int) -> Tensor:
        """``count`` fair coins, bool (N,): 64 per word, from its lowest bit on."""
        import torch

        eights = self.words(-(-count // 64)).view(torch.uint8)
        bits = torch.arange(8, dtype=torch.uint8, device=self.device)
        return (eights[:, None] >> bits).bitwise_and_(1).bool().flatten()[:count]

    def normals(self, count: int) -> Tensor:
        """float32 (N,): ``count`` standard normal numbers, two per word (Box and Muller 1958)."""
        import torch

        words = self.words(-(-count // 2))
        radius = (_shifted(words, 32) + 1).double().mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = (words & 0xFFFFFFFF).double().mul_(2.0 * math.pi * 2.0**-32)
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        return pairs.flatten()[:count].to(torch.float32)

    def permutations(self, rows: int, size: int) -> Tensor:
        """int64 (R, S): ``rows`` independent permutations of 0 to ``size`` - 1, ``size`` up to 2^20."""
        import torch

        if size > 1 << _PLACE_BITS:
            raise ValueError(f"permutations of {size}: wanted {1 << _PLACE_BITS} at most")
        keys = _shifted(self.words(rows * size), _PLACE_BITS + 1).view(rows, size)
        keys = (keys << _PLACE_BITS) | torch.arange(size, dtype=torch.int64, device=self.device)
        return keys.argsort(dim=1)


class Draws:
    """The draws for matrices, kept for the next checkpoint while there is room.

    Arguments: the seed, the use and the matrix' name, on which the numbers depend, and a tensor like which they are.
    """

    def __init__(self, room_bytes: int = 0) -> None:
        self._room_bytes = room_bytes
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def coins(self, seed: int, use: str, matrix: str, like: Tensor) -> Tensor:
        """Fair coins, bool, of the shape of ``like``. Not to be changed in place."""
        return self._drawn(
            seed, use, matrix, like, lambda stream: stream.coins(like.numel()).view(like.shape)
        )

    def normals(self, seed: int, use: str, matrix: str, like: Tensor) -> Tensor:
        """Standard normal numbers, float32, of the shape of ``like``. Not to be changed in place."""
        return self._drawn(
            seed, use, matrix, like, lambda stream: stream.normals(like.numel()).view(like.shape)
        )

    def permutations(self, seed: int, use: str, matrix: str, like_RS: Tensor) -> Tensor:
        """int64 (R, S): a permutation of 0 to S - 1 for each row of ``like_RS``."""
        import torch

        narrow = torch.uint8 if like_RS.shape[1] <= 256 else torch.int32
        drawn = self._drawn(
            seed, use, matrix, like_RS, lambda stream: stream.permutations(*like_RS.shape).to(narrow)
        )
        return drawn.long()

    def _drawn(
        self, seed: int, use: str, matrix: str, like: Tensor, draw: Callable[[Stream], Tensor]
    ) -> Tensor:
        place = (seed, use, matrix, like.device, like.shape)
        if place in self._kept:
            return self._kept[place]
        drawn = draw(Stream.of(seed, use, matrix, like.device))
        if drawn.nbytes <= self._room_bytes:
            self._room_bytes -= drawn.nbytes
            self._kept[place] = drawn
        return drawn


def _signed(word: int) -> int:
    """The int64 with the bits of ``word``."""
    return word - (1 << 64) if word >= 1 << 63 else word


def _shifted(words: Tensor, bits: int) -> Tensor:
    """``words`` shifted to the right, zeros following: torch repeats the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
