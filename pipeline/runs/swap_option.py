"""``--swap``: between which steps, of which variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.base.errors import UsageError
from pipeline.spec import Variant, swappable

if TYPE_CHECKING:
    from pipeline.suites import Suite


def require_swap(steps: Sequence[int], suite: Suite, variants: Sequence[Variant]) -> None:
    """Raise UsageError unless ``steps`` are two of ``suite`` and one of ``variants`` has errors to swap."""
    if not steps:
        return
    shown = ",".join(map(str, steps))
    if len(steps) != 2 or steps[0] == steps[1]:
        raise UsageError(f"--swap {shown}: wanted two different steps, such as 1000,143000")
    suite.require_steps(steps, "--swap")
    for step in steps:
        names = [each.key for each in suite.checkpoints if each.step == step]
        if len(names) > 1:
            raise UsageError(
                f"--swap {shown}: step {step} is there in several stages ({', '.join(names)}): choose one stage with "
                "--revisions"
            )
    if not swappable(variants):
        raise UsageError(
            f"--swap {shown}: no variant has rounding errors to swap; add one that is quantized and is not calibrated"
        )
