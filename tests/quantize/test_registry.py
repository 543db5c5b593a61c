"""Quantizers by name, methods on grids, and variants of rules."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar, Self

import pytest

from pipeline.base.errors import UsageError
from pipeline.quantize import Method, Quantizer, Rule, Variant, parse_quantizer, register, registered
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.variant import require_sites
from pipeline.spec import ProbeSpec, TokenShape

INT4, INT8 = IntegerGrid(4, 128, False), IntegerGrid(8, None, True)
LAYERS = [f"gpt_neox.layers.{layer}.{name}" for layer in (0, 1, 10) for name in ("mlp.up", "attention.dense")]


@register
@dataclass(frozen=True)
class Damped(Method):
    name: ClassVar[str] = "damped"
    grammar: ClassVar[str] = "@damped"

    damp: float = 0.01
    blocks: int = 128
    ordered: bool = False


class Twin(Quantizer):
    """One of two quantizers that claim the same text."""

    grammar: ClassVar[str] = "twin"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        return cls() if text == "twin" else None


@register
class FirstTwin(Twin):
    name: ClassVar[str] = "first twin"


@register
class SecondTwin(Twin):
    name: ClassVar[str] = "second twin"


def test_a_method_reads_back_with_the_parameters_that_are_not_at_their_default():
    for text in (
        "int4-g128-asym@damped",
        "int4-g128-asym@damped:damp=0.1",
        "int4-channel-sym@damped:damp=1e20:blocks=64:ordered=true",
    ):
        assert str(parse_quantizer(text)) == text
        assert str(Variant.parse(f"{text}+head")) == f"{text}+head"
    assert parse_quantizer("int4-g128-asym@damped:damp=0.01") == Damped(INT4)
    assert Variant.parse("int4-g128-asym@damped:damp=0.1").column == "int4_g128_asym_damped_damp_0_1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("int4-g128-asym@dampd", "unknown quantization method 'dampd'; did you mean 'damped'"),
        ("int4-g128-asym@damped:dmp=1", "unknown parameter of damped 'dmp'; did you mean 'damp'"),
        ("int4-g128-asym@damped:damp", "'damp' after @damped: wanted parameter=value"),
        ("int4-g128-asym@damped:blocks=many", "damped:blocks=many: wanted a value of type int"),
        ("int4-g128-asym@damped:ordered=1", "damped:ordered=1: wanted true or false"),
        ("int4-g128-asym@damped:damp=1:blocks=2:damp=2", "damp is given 2 times"),
        ("int4-g128-asym+tail", "unknown modifier .*tail.*wanted .*head"),
        ("float4@damped", "unknown variant 'float4@damped'"),
    ],
)
def test_what_is_no_name_of_a_variant_is_refused_with_what_is(text, reason):
    with pytest.raises(UsageError, match=reason):
        Variant.parse(text)


def test_two_quantizers_of_one_name_are_an_error_that_names_both():
    class Other(Quantizer):
        name: ClassVar[str] = "integer"

    with pytest.raises(
        UsageError, match=r"'integer': IntegerGrid in .*integer\.py and .*Other in .*test_reg"
    ):
        register(Other)
    assert IntegerGrid in registered()


def test_a_grid_that_two_quantizers_claim_is_an_error_that_names_both():
    with pytest.raises(UsageError, match=r"'twin' names several quantizers: .*FirstTwin and .*SecondTwin"):
        Variant.parse("twin")


def test_names_are_parsed_without_torch():
    code = "import sys; from pipeline.spec import *; Variant.parse('int3-g64-sym+head'); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["False"]


def test_the_first_rule_that_matches_decides():
    variant = Variant((Rule("layers.1.*", INT8), Rule("*.dense", None), Rule("*", INT4)))
    found = {name: variant.quantizer_of(name) for name in LAYERS}
    assert [str(found[name]) for name in LAYERS] == [
        "int4-g128-asym", "None", "int8-channel-sym", "int8-channel-sym", "int4-g128-asym", "None",
    ]  # fmt: skip
    assert variant.quantizer_of("lm_head", is_head=True) is None
    assert Variant(variant.rules, head=True).quantizer_of("lm_head", is_head=True) == INT4
    assert str(variant) == "{layers.1.*=int8-channel-sym;*.dense=fp32;*=int4-g128-asym}"


def test_a_variant_of_rules_reads_back_from_its_name():
    rules = (Rule("layers.1.*", Damped(INT4, damp=0.1)), Rule("*.[ab]?", None), Rule("*", INT8))
    for variant in (Variant(rules), Variant(rules, head=True), Variant(rules[:1])):
        assert Variant.parse(str(variant)) == variant
    for text in ("{layers.1.*=int9}", "{int4-g128-asym}", "{}", "{a=int4-g128-asym;}"):
        with pytest.raises(UsageError, match="unknown variant"):
            Variant.parse(text)


def test_a_rule_for_no_layer_is_an_error_that_names_it_and_some_layers():
    require_sites([Variant(), Variant.of(INT4), Variant((Rule("layers.10.*", INT4),))], LAYERS, "lm_head")
    for rules in (
        (Rule("layers.2.*", INT4),),
        (Rule("*", INT4), Rule("layers.1.*", INT8)),  # covered by the first
        (Rule("*", INT4), Rule("lm_head", INT8)),  # the variant leaves the head alone
    ):
        with pytest.raises(UsageError, match=r"decides for no layer: wanted .*gpt_neox\.layers\.0\.mlp\.up"):
            require_sites([Variant(rules)], LAYERS, "lm_head")
    require_sites([Variant((Rule("lm_head", INT8), Rule("*", INT4)), head=True)], LAYERS, "lm_head")


def test_rules_that_quantize_nothing_are_refused():
    with pytest.raises(UsageError, match="no rule quantizes anything"):
        Variant((Rule("*", None),))
    with pytest.raises(UsageError, match="a rule with the pattern ''"):
        Rule("", INT4)


def test_variants_whose_columns_would_be_one_are_refused():
    rules = [Variant((Rule(pattern, INT4),)) for pattern in ("layers.1", "layers-1")]
    with pytest.raises(UsageError, match=r"layers\.1.* and .*layers-1.* share the column"):
        ProbeSpec((Variant(), *rules), TokenShape(1, 1, 2), "x")


def test_the_short_name_of_a_grid_takes_methods_and_modifiers():
    assert Variant.parse("int4@damped:damp=0.1+head") == Variant.parse("int4-g128-asym@damped:damp=0.1+head")
    assert str(Variant.parse("int8+head")) == "int8-channel-sym+head"
    assert Variant.parse("int4").column == "int4"


def test_a_variant_knows_its_methods_and_its_grids_without_them():
    recipe = Variant(
        (Rule("layers.0.*", Damped(INT8, blocks=64)), Rule("layers.1.*", INT8), Rule("*", Damped(INT4))),
        head=True,
    )
    assert recipe.method == "damped:blocks=64 and damped"
    assert recipe.rounded == Variant(
        (Rule("layers.0.*", INT8), Rule("layers.1.*", INT8), Rule("*", INT4)), head=True
    )
    assert Variant.of(INT4).method == Variant().method == ""
    assert Variant.of(INT4).rounded == Variant.of(INT4)
