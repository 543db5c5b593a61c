"""Names of variants, and fingerprints that change exactly when a number could."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import UsageError
from pipeline.base.fingerprints import canonical_json, comparable, pinned
from pipeline.quantize.integer import IntegerGrid
from pipeline.spec import MEASUREMENTS, Checkpoint, ProbeSpec, TokenShape, Variant, parse_variants
from pipeline.train.fork_spec import ForkSpec

SPEC = ProbeSpec(parse_variants(("int8", "int4")), TokenShape(), "a" * 64)

grids = st.builds(IntegerGrid, st.integers(2, 8), st.none() | st.integers(1, 4096), st.booleans())


@given(st.builds(Variant.of, grids, head=st.booleans()))
def test_every_variant_reads_back_from_its_name(variant: Variant) -> None:
    assert Variant.parse(str(variant)) == variant


@given(st.lists(st.builds(Variant.of, grids, head=st.booleans()), unique=True))
def test_columns_of_different_variants_differ(variants: list[Variant]) -> None:
    assert len({variant.column for variant in variants}) == len(variants)


def test_the_default_variants_have_short_columns() -> None:
    assert [Variant.parse(v).column for v in ("int8-channel-sym", "int4-g128-asym")] == ["int8", "int4"]
    assert Variant.parse("int3-g64-sym+head").column == "int3_g64_sym_head"


@pytest.mark.parametrize(
    "text", ["int9-g128-asym", "int1-channel-sym", "int4-g0-sym", "int4", "fp32+head", "fp16", ""]
)
def test_other_names_are_refused_with_the_grammar(text: str) -> None:
    if text == "int4":
        assert str(Variant.parse(text)) == "int4-g128-asym"
        return
    with pytest.raises(UsageError, match="variant"):
        Variant.parse(text)


def test_fp32_is_always_there_and_first() -> None:
    assert [str(v) for v in parse_variants(("int4", "int4-g128-asym"))] == ["fp32", "int4-g128-asym"]


def test_calibration_is_in_the_fingerprint_of_calibrated_runs_alone() -> None:
    """The first is what the release before calibration gave."""
    assert SPEC.fingerprint() == "0058e44e2d6dd0b5ab8cb2eaae84ab7b6b9c7e3d508a83ef2dcf04432bb462e4"
    calibrated = dataclasses.replace(SPEC, calibration_sha256="c" * 64)
    assert calibrated.fingerprint() != SPEC.fingerprint()


def test_numbers_without_calibration_go_with_any() -> None:
    first, second = (dataclasses.replace(SPEC, calibration_sha256=digit * 64).config() for digit in "cd")
    nested = [{"probe": config, "lawa_window": 5} for config in (SPEC.config(), first, second)]
    for kind, (none, one, other) in ((ProbeSpec, (SPEC.config(), first, second)), (ForkSpec, nested)):
        assert comparable(kind, one, none)
        assert comparable(kind, none, one)
        assert comparable(kind, one, one)
        assert not comparable(kind, one, other)
    assert not comparable(ProbeSpec, first, {**SPEC.config(), "tokens_sha256": "b" * 64})


def test_the_fingerprint_sees_every_setting_that_can_change_a_number() -> None:
    others = [
        dataclasses.replace(SPEC, shape=TokenShape(batches=16)),
        dataclasses.replace(SPEC, shape=TokenShape(batch_size=8)),
        dataclasses.replace(SPEC, shape=TokenShape(seq_len=256)),
        dataclasses.replace(SPEC, tokens_sha256="b" * 64),
        dataclasses.replace(SPEC, vocab_rows=50277),
        dataclasses.replace(SPEC, arithmetic="tf32"),
        dataclasses.replace(SPEC, version=SPEC.version + 1),
    ]
    assert len({SPEC.fingerprint(), *(other.fingerprint() for other in others)}) == len(others) + 1


def test_what_is_wanted_of_a_probe_is_not_in_its_fingerprint() -> None:
    for other in (
        dataclasses.replace(SPEC, variants=parse_variants(("int4", "int3-g32-sym+head"))),
        dataclasses.replace(SPEC, measurements=(*MEASUREMENTS, "entropy")),
    ):
        assert other.fingerprint() == SPEC.fingerprint()
        assert other.config() != SPEC.config()


def test_a_field_at_its_default_is_not_in_the_fingerprint() -> None:
    full = {**SPEC.config(), "vocab_rows": 7}
    earlier = {name: value for name, value in full.items() if name not in {"arithmetic", "measurements"}}
    assert pinned(ProbeSpec, earlier) == pinned(ProbeSpec, full)
    assert pinned(ProbeSpec, full) == {"shape": {}, "tokens_sha256": "a" * 64, "vocab_rows": 7, "version": 1}
    assert pinned(ProbeSpec, {**full, "arithmetic": "tf32"}) != pinned(ProbeSpec, full)
    later = {**full, "calibration": "self"}
    assert pinned(ProbeSpec, later) != pinned(ProbeSpec, full), (
        "a setting of a later release may change numbers"
    )


def test_the_version_of_the_definitions_is_always_in_the_fingerprint() -> None:
    assert pinned(ProbeSpec, SPEC.config())["version"] == SPEC.version


@pytest.mark.parametrize("value", [print, object(), float("nan"), {1: 2}, {"x": {3, 4}}])
def test_what_cannot_be_pinned_is_an_error(value: object) -> None:
    with pytest.raises(TypeError, match="cannot pin"):
        canonical_json(value)


def test_keys_sort_like_steps() -> None:
    keys = [Checkpoint(step, f"step{step}", "x").key for step in (0, 2, 10, 1000, 143_000)]
    assert keys == sorted(keys)


@pytest.mark.parametrize("shape", [(0, 4, 512), (32, 0, 512), (32, 4, 1)])
def test_empty_token_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="wanted at least"):
        TokenShape(*shape)
