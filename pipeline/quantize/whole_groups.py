"""Whether the groups of a calibrated variant come out whole in a model, decided from its config.json before any work.

Rounding to nearest takes a shorter last group as it is. Those who serve calibrated weights do not: their kernels and
files hold whole groups only, and the libraries that make them refuse others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.base.errors import UsageError

HIDDEN = ("hidden_size", "n_embd", "d_model")
INNER = ("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size")
SMALLEST_SHOWN = 8


def input_widths(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of input columns that a model's linear layers have, as far as ``config`` (config.json) says them."""
    widths = [_width(config, name) for name in (*HIDDEN, *INNER)]
    widths.append(_width(config, "num_attention_heads") * _width(config, "head_dim"))
    if "n_inner" in config and config["n_inner"] is None:
        widths.append(4 * _width(config, "n_embd"))  # GPT-2's default
    return tuple(sorted({width for width in widths if width}))


def _width(config: Mapping[str, Any], name: str) -> int:
    """0 where it is not said."""
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def require_whole_groups(variant: object, group_size: int | None, config: Mapping[str, Any]) -> None:
    """``UsageError`` where ``group_size`` divides a width of ``config`` that it is smaller than with a remainder.

    ``variant``: what the message calls it. A group size of None, or beyond a width, is one group per row.
    """
    widths = input_widths(config)
    broken = [
        width for width in widths if group_size is not None and group_size < width and width % group_size
    ]
    if not broken:
        return
    common = math.gcd(*widths)
    sizes = [f"g{size}" for size in range(SMALLEST_SHOWN, common + 1) if common % size == 0]
    raise UsageError(
        f"{variant}: {broken[0]} input columns are no whole number of groups of {group_size}; wanted "
        f"{', '.join([*sizes, 'channel'])} for layers with {' and '.join(map(str, widths))} input columns"
    )
