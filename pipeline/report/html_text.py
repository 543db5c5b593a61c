"""Format numbers and names for readers, escape them for HTML, and remove credentials."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable
from typing import Any

MINUS = "\u2212"
HIDDEN = "[hidden]"

_SECRET_KEY = re.compile(
    r"(^|_)(token|secret|password|passwd|credentials?|authorization|cookie|(api|access|private|secret)_?key)$",
    re.IGNORECASE,
)
_SECRET_VALUE = (
    re.compile(r"\b(hf_|sk-|gh[pousr]_|github_pat_|xox[abprs]-|glpat-)[A-Za-z0-9_-]{10,}"),
    re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?i)\b(?<=token=)[^&\s]+|(?<=password=)[^&\s]+|(?<=signature=)[^&\s]+"),
)


def esc(value: Any) -> str:
    """``value`` as HTML text or attribute."""
    return html.escape(str(value), quote=True)


def redact(value: Any) -> Any:
    """A copy of nested JSON-like ``value`` in which anything like a credential is ``[hidden]``."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if _SECRET_KEY.search(str(key)) and isinstance(item, str) and item else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, str):
        for pattern in _SECRET_VALUE:
            value = pattern.sub(HIDDEN, value)
    return value


def json_for_script(value: Any) -> str:
    """JSON that cannot end or open an HTML element: ``<``, ``>`` and ``&`` are written as escapes."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def step(value: Any) -> str:
    """A training step with thousands separators.

    >>> step(143000)
    '143,000'
    """
    return f"{int(value):,}"


def number(value: float | None, digits: int = 3) -> str:
    """A measured number; ``diverged`` if it is not finite, a dash if it was not measured."""
    if value is None:
        return "\u2013"
    if not math.isfinite(value):
        return "diverged"
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        text = f"{value:.{digits - 1}e}"
        mantissa, exponent = text.split("e")
        text = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    else:
        decimals = max(0, digits - 1 - (math.floor(math.log10(size)) if size else 0))
        text = f"{value:,.{decimals}f}"
    return text.replace("-", MINUS) if value < 0 else text


def rate(value: float | None) -> str:
    """A learning rate in powers of ten.

    >>> rate(0.002), rate(6.05e-05)
    ('2.00e-3', '6.05e-5')
    """
    if value is None or value == 0:
        return "\u2013" if value is None else "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """A fraction in percent with ``digits`` significant digits, at most three decimals.

    >>> percent(5.17), percent(0.0971), percent(0.46), percent(0.00042, sign=True)
    ('517 %', '9.7 %', '46 %', '+0.042 %')
    """
    if value is None:
        return "\u2013"
    if not math.isfinite(value):
        return "diverged"
    hundred = 100 * value
    magnitude = math.floor(math.log10(abs(hundred))) if hundred else 0
    text = f"{hundred:,.{min(3, max(0, digits - 1 - magnitude))}f}"
    if float(text.replace(",", "")) == 0:
        text = "0"
    elif sign and value > 0:
        text = f"+{text}"
    return text.replace("-", MINUS) + " %"


def big(value: float | None) -> str:
    """A count in thousands, millions or billions.

    >>> big(299892736)
    '300 M'
    """
    if value is None:
        return "\u2013"
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}"


def signed(value: float) -> str:
    """A (possibly negative) number of steps with a true minus sign."""
    return f"{value:,.0f}".replace("-", MINUS)


def decimals(value: float) -> str:
    """Two decimals with a true minus sign, for correlations."""
    return f"{value:.2f}".replace("-", MINUS)


def plain_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of HTML cells, the first of a row its heading; it scrolls sideways where it is too wide."""
    head = "".join(f"<th scope=col>{each}</th>" for each in heads)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for first, *cells in rows
    )
    return f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
