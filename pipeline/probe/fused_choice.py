"""Whether a fused pass may take the place of the model's own modules: where both give the same logits."""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.spec import Variant

AGREEMENT = 1e-4
"""Largest difference between the two passes' logits, relative to the largest logit, that counts as equal."""


class FusedChoice:
    """Remembers for each group of variants how far the two passes of one template are apart."""

    def __init__(self) -> None:
        self._apart: dict[tuple[Variant, ...], float] = {}

    def forget(self) -> None:
        """Compare again: there is another template."""
        self._apart.clear()

    def allows(self, variants: tuple[Variant, ...], apart: Callable[[], float], notes: list[str]) -> bool:
        """Whether the fused pass serves ``variants``; ``notes`` gets the reason if not.

        ``apart`` compares the two passes on a few tokens: the relative difference of their logits. It is called once.
        """
        if variants not in self._apart:
            found = apart()
            if math.isnan(found):  # a diverged checkpoint proves nothing; the next one is checked
                notes.append("modules path taken: logits are not finite, so the fused path cannot be checked")
                return False
            self._apart[variants] = found
        if self._apart[variants] > AGREEMENT:
            notes.append(f"modules path taken: the fused path's logits differ by {self._apart[variants]:.1e}")
        return self._apart[variants] <= AGREEMENT
