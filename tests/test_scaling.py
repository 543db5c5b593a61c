"""The cost model gives back what it was fitted to: it says nothing on shapes that were not measured."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest

from pipeline.benchmark import scaling
from pipeline.benchmark.scaling import PYTHIAS, STREAMED, checkpoint_s, cost, rates

MEASURED = Path(__file__).parents[1] / "outputs" / "reference" / "benchmark"
BY_NAME = {shape.name: shape for shape in PYTHIAS}


@pytest.mark.parametrize("shape", ["pythia-160m", "pythia-1.4b"])
def test_seconds_per_checkpoint_are_those_measured(shape: str) -> None:
    numbers = json.loads((MEASURED / f"h100-{shape}.json").read_text())
    predicted = checkpoint_s(BY_NAME[shape], rates(BY_NAME[shape]))
    assert predicted == pytest.approx(numbers["pipeline_s"], rel=0.05)


def test_streaming_is_that_measured() -> None:
    measured = json.loads((MEASURED / "h200-pythia-6.9b-layers.json").read_text())["layer_by_layer"]
    predicted = checkpoint_s(BY_NAME["pythia-6.9b"], STREAMED, 16 * 4 * 512)
    assert predicted == pytest.approx(measured["wall_s"], rel=0.05)


def test_a_whole_audit_is_that_measured() -> None:
    numbers = json.loads((MEASURED / "h200-audit-154.json").read_text())
    assert cost([BY_NAME["pythia-160m"]], 1).wall_s == pytest.approx(
        numbers["one_gpu"]["audit_wall_s"], rel=0.1
    )


def test_shapes_have_the_published_number_of_weights() -> None:
    for shape in (*PYTHIAS, scaling.OLMO_32B):
        published = float(shape.name.split("-")[-1][:-1]) * (1e6 if shape.name.endswith("m") else 1e9)
        assert shape.active_weights + shape.embedding_weights == pytest.approx(published, rel=0.03)


def test_money_is_gpu_hours_times_the_price_given() -> None:
    one, eight = (cost(PYTHIAS, gpus) for gpus in (1, 8))
    assert one.money(2.0) == 2 * one.wall_s / 3600
    assert one.wall_s / 8 < eight.wall_s < one.wall_s / 6


def test_its_examples() -> None:
    assert doctest.testmod(scaling).failed == 0


def test_the_speeds_in_the_readme_are_those_measured() -> None:
    readme = " ".join((MEASURED.parents[2] / "README.md").read_text().split())
    probe, forks = (
        json.loads((MEASURED / f"h100-{name}.json").read_text()) for name in ("pythia-160m", "fork-nine-runs")
    )
    for way in probe["arithmetics"]["timings"]:
        row = "| {seconds_per_checkpoint:.2f} | {useful_tflops:.0f} | {peak_gib:.1f} |".format(**way)
        assert row in readme, way["name"]
    useful = way["useful_tflops"] * way["seconds_per_checkpoint"] / probe["pipeline_s"]
    assert f"| **{probe['pipeline_s']:.2f}** | {useful:.0f} | {probe['peak_gib']:.1f} |" in readme
    assert f"{probe['ratio']:.1f} times as fast as the naive loop" in readme
    assert f"{probe['scipy_ratio']:.0f} times as fast as the loop that also takes" in readme
    assert f"{forks['ours_s']:.0f} s against {forks['naive_runs_s']:.0f} s" in readme
    assert f"**{forks['ratio']:.1f} times** as fast" in readme
    assert f"{forks['live_ratio']:.2f} times against naive runs" in readme
