"""``--mechanism``: of which variants the controls are evaluated."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.base.errors import UsageError, unknown_name
from pipeline.quantize.variant import Variant, column_of

ALL, LAYERS = "all", "layers"
"""Values beside names of variants: every quantized one; also the controls of each single layer."""


def parse_mechanism(texts: Sequence[str], variants: Sequence[Variant]) -> tuple[tuple[Variant, ...], bool]:
    """The variants among ``variants`` that ``texts`` name, each a list separated by commas, and whether layer by layer.

    ``layers`` alone means every quantized variant. ``UsageError`` for one that is not measured.
    """
    words = [word.strip() for text in texts for word in text.split(",")]
    quantized = {str(variant): variant for variant in variants if not variant.is_fp32}
    if words and not quantized:
        raise UsageError(
            "--mechanism: only fp32 is measured, and what controls explain is the damage of quantizing; "
            "add a quantized --variant"
        )
    chosen = [_named(word, quantized) for word in words if word not in (ALL, LAYERS)]
    if words and not chosen:
        chosen = list(quantized.values())
    return tuple(each for each in quantized.values() if each in chosen or ALL in words), LAYERS in words


def _named(word: str, quantized: dict[str, Variant]) -> Variant:
    shown = [
        *(column_of(name) if column_of(name) in ("int4", "int8") else name for name in quantized),
        ALL,
        LAYERS,
    ]
    try:
        variant = Variant.parse(word)
    except UsageError:
        raise unknown_name("variant of --mechanism", word, shown) from None
    if variant.is_fp32:
        raise UsageError("--mechanism fp32: nothing is quantized in fp32, so it has no damage to explain")
    if str(variant) not in quantized:
        raise UsageError(
            f"--mechanism {word}: that variant is not measured; add --variant {word}, or name one of {', '.join(shown)}"
        )
    return variant
