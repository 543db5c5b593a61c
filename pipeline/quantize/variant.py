"""Variants: the quantizer of each layer of a model.

A variant is an ordered list of rules. The first rule whose pattern matches a layer decides for it; a layer that no rule
matches keeps its stored values. ``int4-g128-asym`` is one rule for all layers, ``fp32`` has no rule.

Names: GRID[@METHOD[:parameter=value...]][+MODIFIER...], where the only modifier so far is ``head``. A variant of
several rules, or of one for some layers, is made in Python; its name is all of its rules, {PATTERN=GRID;...}[+head].
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pipeline.base.errors import UsageError
from pipeline.quantize.lookup import grammar, parse_quantizer
from pipeline.quantize.quantizer import Method, Need, Quantizer

ALIASES = {"int8": "int8-channel-sym", "int4": "int4-g128-asym"}
"""Short names of the default variants, also used in column names."""

DEFAULT_VARIANTS = ("fp32", ALIASES["int8"], ALIASES["int4"])

EVERYWHERE = "*"
"""The pattern of every layer."""


@dataclass(frozen=True)
class Rule:
    """The quantizer of the layers that match a pattern."""

    pattern: str
    """Shell-style pattern (``*``, ``?``, ``[...]``) of a layer's dotted name or of its end after a dot: ``layers.3.*``
    is all of layer 3, ``*.down_proj`` one matrix of every layer. A star also matches dots."""
    quantizer: Quantizer | None
    """None = the stored values."""

    def __post_init__(self) -> None:
        if not self.pattern or set(self.pattern) & set("=;{}+"):
            raise UsageError(
                f"a rule with the pattern {self.pattern!r}: wanted a layer's name or '*', without = ; {{ }} +"
            )

    def matches(self, name: str) -> bool:
        """Whether the rule matches the layer ``name``."""
        patterns = (self.pattern, f"*.{self.pattern}")
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    def __str__(self) -> str:
        return f"{self.pattern}={'fp32' if self.quantizer is None else self.quantizer}"


@dataclass(frozen=True)
class Variant:
    """One way of evaluating a checkpoint: unquantized, or with its linear layers quantized by rules."""

    rules: tuple[Rule, ...] = ()
    """Rules in order of precedence. Empty = fp32, the stored weights in float32."""
    head: bool = False
    """Whether the rules apply to the output head; if not, it keeps its values."""

    def __post_init__(self) -> None:
        if self.head and self.is_fp32:
            raise UsageError("variant 'fp32+head': nothing is quantized in fp32; wanted 'fp32'")
        if self.rules and self.is_fp32:
            raise UsageError(f"variant {self}: no rule quantizes anything; wanted Variant() for fp32")

    @classmethod
    def of(cls, quantizer: Quantizer, *, head: bool = False) -> Self:
        """The variant with ``quantizer`` for every layer."""
        return cls((Rule(EVERYWHERE, quantizer),), head)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The variant that ``text`` names; ``int4`` and ``int8`` are short for the grids of the default two.

        >>> Variant.parse("int4-g128-asym+head").column
        'int4_g128_asym_head'
        """
        if text == "fp32":
            return cls()
        name, *modifiers = _in_full(text).split("+")
        if modifiers not in ([], ["head"]):
            raise UsageError(f"unknown modifier in variant {text!r}: wanted {grammar()}")
        if name == "fp32":
            raise UsageError("variant 'fp32+head': nothing is quantized in fp32; wanted 'fp32'")
        in_braces = name.startswith("{") and name.endswith("}")
        texts = name[1:-1].split(";") if in_braces else [f"{EVERYWHERE}={name}"]
        return cls(tuple(_rule(text, each) for each in texts), bool(modifiers))

    def __str__(self) -> str:
        """The name in the grammar, or all rules in braces; unique to the variant."""
        if not self.rules:
            return "fp32"
        uniform = len(self.rules) == 1 and self.rules[0].pattern == EVERYWHERE
        rules = str(self.rules[0].quantizer) if uniform else f"{{{';'.join(map(str, self.rules))}}}"
        return f"{rules}{'+head' if self.head else ''}"

    @property
    def is_fp32(self) -> bool:
        """Whether nothing is quantized."""
        return all(rule.quantizer is None for rule in self.rules)

    @property
    def column(self) -> str:
        """Prefix of this variant's columns."""
        return column_of(str(self))

    @property
    def rounded(self) -> Variant:
        """The variant with the same grids, rounded to nearest instead of by a method."""
        rules = (
            replace(rule, quantizer=rule.quantizer.grid) if isinstance(rule.quantizer, Method) else rule
            for rule in self.rules
        )
        return replace(self, rules=tuple(rules))

    @property
    def method(self) -> str:
        """The methods that choose its codes, with their parameters: ``gptq:damping=0.05``. Empty for none."""
        methods = (rule.quantizer for rule in self.rules if isinstance(rule.quantizer, Method))
        return " and ".join(dict.fromkeys(str(each).removeprefix(f"{each.grid}@") for each in methods))

    @property
    def needs(self) -> frozenset[Need]:
        """Statistics of the layers' inputs that its quantizers need."""
        return frozenset().union(*(rule.quantizer.needs for rule in self.rules if rule.quantizer is not None))

    def quantizer_of(self, name: str, *, is_head: bool = False) -> Quantizer | None:
        """The quantizer of the layer ``name``; None if it keeps its values."""
        if is_head and not self.head:
            return None
        return next((rule.quantizer for rule in self.rules if rule.matches(name)), None)

    def unmatched(self, names: Iterable[str]) -> list[Rule]:
        """The rules that match none of the layers ``names``."""
        deciding = {
            next((i for i, rule in enumerate(self.rules) if rule.matches(name)), None) for name in names
        }
        return [rule for i, rule in enumerate(self.rules) if i not in deciding]


def _in_full(text: str) -> str:
    """Expand the short name of a default variant in ``text``: ``int4@hqq`` is ``int4-g128-asym@hqq``."""
    grid = re.split("[@+]", text, maxsplit=1)[0]
    return ALIASES.get(grid, grid) + text[len(grid) :]


def _rule(variant: str, text: str) -> Rule:
    """The rule that ``text`` (PATTERN=GRID) of ``variant`` names."""
    pattern, _, name = text.partition("=")
    quantizer = parse_quantizer(name)
    if quantizer is None and name != "fp32":
        raise UsageError(
            f"unknown variant {variant!r}: wanted {grammar()} (such as {', '.join(ALIASES.values())})"
        )
    return Rule(pattern, quantizer)


def variant_label(name: str, names: Mapping[str, str] | None = None) -> str:
    """The label of a variant for readers: INT4 and INT8 for the default ones, else its name.

    ``name``: its name or its column prefix; ``names``: column prefix -> name.
    """
    column = column_of(name)
    return column.upper() if column in ALIASES else (names or {}).get(name, name)


def column_of(variant: str) -> str:
    """Column prefix of the variant ``variant``: a default one's alias, else its name with ``_`` for everything but
    letters and digits.
    """
    for alias, full in ALIASES.items():
        if variant == full:
            return alias
    return re.sub(r"[^0-9A-Za-z]", "_", variant)


def parse_variants(texts: Sequence[str]) -> tuple[Variant, ...]:
    """Parse variants in the given order, without repeats, with ``fp32`` (the baseline of every gap) first."""
    given = [Variant.parse(text) for text in texts]
    return tuple(dict.fromkeys([Variant(), *given]))


def require_models(variants: Iterable[Variant], config: Mapping[str, Any]) -> None:
    """Raise UsageError if a quantizer of ``variants`` does not fit models of ``config`` (config.json)."""
    for variant in variants:
        for rule in variant.rules:
            if rule.quantizer is not None:
                rule.quantizer.require_model(config)


def require_sites(variants: Iterable[Variant], layers: Sequence[str], head: str | None) -> None:
    """Raise UsageError if a rule matches no layer of a model with ``layers`` and the output head ``head``."""
    for variant in variants:
        names = [*layers, *([head] if variant.head and head is not None else [])]
        for rule in variant.unmatched(names):
            shown = ", ".join([*names[:3], "...", *names[-1:]]) if len(names) > 4 else ", ".join(names)
            raise UsageError(
                f"rule {rule} of variant {variant} decides for no layer: wanted a pattern that matches one of "
                f"{shown} and that no earlier rule covers"
            )
