"""Controls: perturbed weights that are evaluated beside a variant to explain its damage.

With W the weights that a variant quantizes, Q its quantizer and D = Q(W) - W, f(P) the change of the loss where P is
added to W:

* ``line``: P = a D, a = -1, -1/2, 1/2 and 2 (a = 1 is the variant itself): the shape of the loss along the error
* ``signs``: D with independent random signs: the same magnitudes, none of the direction
* ``permuted``: D shuffled within each group of weights that share a scale
* ``gaussian``: normal numbers with the root mean square of D in each such group
* ``relative``: normal numbers with a share (2 and 5 %) of each matrix' root mean square, which no quantizer enters;
  they are controls of fp32, on all matrices of the blocks

The random numbers depend on the seed and the matrix's name only (``draws``), so all checkpoints of a run have the
same signs and orders, and comparisons of two checkpoints are paired over the draws too. This module names the
controls; ``perturbing`` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.base.errors import UsageError
from pipeline.quantize.variant import Variant

ControlKind = Literal["line", "signs", "permuted", "gaussian", "relative"]


@dataclass(frozen=True, order=True)
class Control:
    """One perturbation of the weights."""

    kind: ControlKind
    amount: float = 1.0
    """Factor of the perturbation; for ``relative`` the share of the matrix' root mean square."""
    seed: int = 0
    """Seed of the draw; a line has none."""
    layer: int | None = None
    """The only perturbed decoder layer, counted from 0; None: all matrices that the variant quantizes."""

    def __str__(self) -> str:
        size = f" x {self.amount:g}" if self.kind in ("line", "relative") else ""
        draw = "" if self.kind == "line" else f", seed {self.seed}"
        return f"{self.kind}{size}{draw}" + ("" if self.layer is None else f", layer {self.layer}")


@dataclass(frozen=True)
class ControlSettings:
    """The controls to evaluate; every field can change a number."""

    sign_seeds: int = 8
    permuted_seeds: int = 2
    gaussian_seeds: int = 2
    relative_seeds: int = 2
    layer_seeds: int = 2
    """Draws of signs for each single layer."""
    first_seed: int = 0
    """First seed."""

    def __post_init__(self) -> None:
        for name in ("sign_seeds", "permuted_seeds", "gaussian_seeds", "relative_seeds", "layer_seeds"):
            if getattr(self, name) < 2:
                raise UsageError(
                    f"controls with {name} {getattr(self, name)}: wanted at least 2, to measure their scatter"
                )

    def of(self, variant: Variant) -> tuple[Control, ...]:
        """The controls of the whole ``variant``; those of fp32 use no quantizer."""
        if variant.is_fp32:
            shares = (0.02, 0.05)
            return tuple(
                Control("relative", each, seed)
                for each in shares
                for seed in self._seeds(self.relative_seeds)
            )
        line = [Control("line", amount) for amount in (-1.0, -0.5, 0.5, 2.0)]
        drawn: tuple[tuple[ControlKind, int], ...] = (
            ("signs", self.sign_seeds), ("permuted", self.permuted_seeds), ("gaussian", self.gaussian_seeds),
        )  # fmt: skip
        return (*line, *(Control(kind, 1.0, seed) for kind, seeds in drawn for seed in self._seeds(seeds)))

    def of_layer(self, layer: int) -> tuple[Control, ...]:
        """The controls of a quantized variant in decoder layer ``layer`` alone: its own error, and that with signs."""
        signs = [Control("signs", 1.0, seed, layer) for seed in self._seeds(self.layer_seeds)]
        return (Control("line", 1.0, 0, layer), *signs)

    def _seeds(self, count: int) -> range:
        return range(self.first_seed, self.first_seed + count)


DEFAULT_CONTROLS = ControlSettings()
