"""The benchmark command on the CPU, and its table on numbers of a GPU that is not there."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from jobs.benchmark_fork_runs import paper_arms
from pipeline.base.errors import UsageError
from pipeline.benchmark import Benchmark, Seconds, Timing, read_benchmark
from pipeline.benchmark.naive import scipy_kurtosis
from pipeline.benchmark.shapes import TOKENS, each_by_itself, write_random_suite
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.suites import open_suite
from tests.jobs.conftest import MEASURE
from tests.models import tiny_model

Run = Callable[..., Result]
FEW = ("--batches", "1", "--batch-size", "1", "--seq-len", "16")

REFERENCE = Path(__file__).parents[2] / "outputs" / "reference" / "benchmark"
NAIVE = Timing(
    "naive loop", ours=False, seconds=Seconds(2.0, 1.5, 2.5, 4), against="pipeline", tolerance_nats=5e-6,
    differences_nats={"fp32": 1e-7, "int4-g128-asym": 2e-6},
)  # fmt: skip
COMPARISON = Benchmark("audit", "s", unit="checkpoint", base="pipeline").plus(
    Timing("pipeline", ours=True, seconds=Seconds.of([0.25]), peak_gib=4.5, numbers={"total_s": 20.0}),
    Timing("pipeline, one worker", ours=True, seconds=Seconds.of([0.5]), peak_gib=4.4, numbers={"total_s": 22.0}),
    NAIVE,
    Timing("naive loop with SciPy's kurtosis", ours=False, seconds=Seconds.of([12.0])),
    device="A GPU", complete=True, n_tokens=64, variants=["fp32", "int4-g128-asym"], workers=2,
)  # fmt: skip


@pytest.mark.slow
def test_json_and_figure_of_the_cpu(
    run_here: Run, ray_cluster: None, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    measure = MEASURE[: MEASURE.index("--workers")]
    arguments = [llama_suite, "--corpus", tokens_file, "--limit", "4", "--device", "cpu", "--scaling"]
    result = run_here("benchmark", *arguments, *measure, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    written = read_benchmark(out / "benchmark.json")
    assert json.loads(result.stdout) == written.to_json()
    assert (written.complete, written.device, written.kind) == (True, "cpu", "audit")
    assert (written.settings["checkpoints"], written.settings["arithmetic"]) == (4, "ieee")
    assert written.settings["workers"] == 2, "the session's cluster has two cores, whatever this machine has"
    names = ["pipeline", "pipeline, one worker", "naive loop", "naive loop with SciPy's kurtosis"]
    assert [row.what for row in written.rows] == names
    seconds = {row.what: row.seconds for row in written.rows}
    naive = seconds["naive loop"]
    assert naive.n == 4
    assert 0 < naive.least <= naive.median <= naive.most
    for row in written.rows:
        assert row.ratio == row.seconds.median / seconds["pipeline"].median > 0
    assert written.ratio == written.row("naive loop").ratio
    assert written.row("naive loop").difference_nats < 1e-6
    assert set(written.row("naive loop").differences_nats) == set(written.settings["variants"])
    assert (out / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    alone = run_here("benchmark", *arguments, *MEASURE)
    assert (alone.exit_code, "only one worker fits" in alone.stderr) == (2, True)


@pytest.mark.slow
def test_what_was_found_before_a_run_ends_early_is_kept(
    run_here: Run, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(model: object) -> None:
        raise KeyboardInterrupt

    module = importlib.import_module(
        "pipeline.benchmark.side_by_side"
    )  # the package has a function of that name
    monkeypatch.setattr(module, "scipy_kurtosis", interrupted)
    arguments = ["--random", "pythia-14m", "--files", "1", "--limit", "3", "--workers", "1"]
    result = run_here("benchmark", *arguments, *FEW, "--out", tmp_path)
    assert result.exit_code == 130
    stages = [line.split(": ")[1] for line in result.stderr.splitlines() if " s: " in line]
    assert stages == ["pipeline", "naive loop", "naive loop with SciPy's kurtosis"]
    kept = read_benchmark(tmp_path / "benchmark.json")
    assert (kept.suite, kept.complete) == ("pythia-14m", False)
    assert (kept.settings["checkpoints"], kept.settings["n_tokens"]) == (3, 16)
    assert [row.what for row in kept.rows] == ["pipeline", "naive loop"]
    assert all(row.seconds.median > 0 for row in kept.rows)


@pytest.mark.slow
def test_a_whole_experiment_against_naive_runs(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    runs = 3
    length = ["--updates", 4, "--probe-every", 4, "--tokens-per-step", 64, "--device", "cpu"]
    measure = ["--corpus", tokens_file, "--batches", 2, "--batch-size", 2, "--seq-len", 32]
    result = run_here(
        "benchmark", llama_suite, "--fork", "--runs", runs, *length, *measure, "--out", tmp_path, "--json"
    )
    assert result.exit_code == 0, result.output
    written = read_benchmark(tmp_path / "benchmark-fork-runs.json")
    assert json.loads(result.stdout) == written.to_json()
    told = written.settings
    assert (written.complete, written.device, told["compiled"], told["runs_per_gpu"]) == (
        True,
        "cpu",
        False,
        None,
    )
    sizes = tuple(told[name] for name in ("runs", "updates", "probes", "probe_tokens"))
    assert sizes == (runs, 4, 2, 2 * 2 * 32)
    ours, everything, live = written.rows
    assert everything.difference_nats < 1e-6, "both evaluate the checkpoint"
    assert live.difference_nats < 1e-4, "and train on the same batches at the same rates"
    parts = everything.numbers
    assert set(parts) == {"load_s", "training_s", "live_probes_s", "average_probes_s"}
    assert min(parts.values()) > 0
    assert everything.seconds.median == pytest.approx(runs * sum(parts.values()))
    assert written.ratio == everything.ratio == everything.seconds.median / ours.seconds.median
    assert live.ratio < everything.ratio
    assert 0 < ours.numbers["ray_s"] < ours.numbers["first_run_s"] < ours.seconds.median
    assert f"times {runs}" in everything.what


def test_schedules_share_the_runs_evenly() -> None:
    assert paper_arms(9, 300, 75) == ("cosine", "sgdr", "oli:period=75")
    assert paper_arms(3, 4, 1) == ("cosine", "sgdr", "oli:period=4")
    assert paper_arms(4, 300, 75) == paper_arms(3, 3, 1) == ("cosine",)


def test_runs_are_those_of_a_fork(run: Run, llama_suite: Path) -> None:
    result = run("benchmark", llama_suite, "--runs", 3)
    assert (result.exit_code, "add --fork" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--updates", 3), "--updates goes with --fork"),
        (("--fork", "--probe-every", 3), "--probe-every goes with --runs"),
        (("--peer-python", "python3"), "--peer-python goes with --methods"),
        (("--files", 3), "--files goes with --random"),
        (("--methods", "--scaling"), "--methods has no use for --scaling"),
        (("--fork", "--variant", "int4"), "--fork has no use for --variant"),
        (("--fork", "--runs", 3, "--scaling"), "--runs has no use for --scaling"),
    ],
)
def test_an_option_without_use_is_refused(run: Run, options: tuple[object, ...], reason: str) -> None:
    result = run("benchmark", "tiny", *options)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())


def test_wrong_use_of_random_is_refused(run: Run, llama_suite: Path) -> None:
    both = run("benchmark", llama_suite, "--random", "pythia-160m")
    assert (both.exit_code, "give one of them" in both.stderr) == (2, True)
    unknown = run("benchmark", "--random", "pythia-161m")
    assert (unknown.exit_code, "pythia-160m" in unknown.stderr) == (2, True)


def test_a_random_suite_has_the_published_layout(tmp_path: Path) -> None:
    write_random_suite(tmp_path / "s", "pythia-14m", files=2, checkpoints=3, n_tokens=100)
    suite = open_suite(str(tmp_path / "s"))
    assert [each.duplicate_of for each in suite.checkpoints] == [None, None, "step000000000"]
    assert [each.duplicate_of for each in each_by_itself(suite).checkpoints] == [None] * 3
    assert len(list((tmp_path / "s").glob("*.safetensors"))) == 2
    folder = Path(suite.checkpoints[2].location)
    config = read_config(folder)
    assert (config.vocab_size, config.tie_word_embeddings, config.use_parallel_residual) == (
        50304,
        False,
        True,
    )
    assert config.rope_parameters["partial_rotary_factor"] == 0.25
    weights = read_weights(folder)
    assert {str(tensor.dtype) for tensor in weights.tensors.values()} == {"torch.float16"}
    assert "embed_out.weight" in weights.tensors
    model = build_model(config, weights)
    assert model.gpt_neox.final_layer_norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert np.load(tmp_path / "s" / TOKENS).shape == (100,)
    with pytest.raises(UsageError, match="unknown shape"):
        write_random_suite(tmp_path / "t", "gpt-5", files=1, checkpoints=1, n_tokens=1)


def test_scipy_sees_the_block_weights_and_not_the_head() -> None:
    for architecture, count in (("gpt_neox", 8), ("gpt2", 8)):
        assert len(scipy_kurtosis(tiny_model(architecture))) == count


def test_the_table_shows_what_was_measured_and_the_rest_below() -> None:
    absent = Timing("GPTQModel, int4", ours=False, absent="gptqmodel is not installed here")
    lines = COMPARISON.plus(absent, complete=True).lines()
    assert "A GPU" in lines[0]
    cells = [line.replace("  ", "\t").split("\t") for line in lines]
    table = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    assert ["pipeline (ours)", "0.250", "1.00", "4.50", "20"] in table
    assert ["naive loop", "2.000", "1.500", "2.500", "8.00", "2.0e-06"] in table
    assert "GPTQModel, int4: gptqmodel is not installed here" in lines
    assert COMPARISON.ratio == 8
    assert [row.ratio for row in COMPARISON.rows] == [1, 2, 8, 48]
    bars = COMPARISON.chart("")["data"]["values"]
    assert [(bar["seconds"], bar["ours"]) for bar in bars] == [
        (0.25, True),
        (0.5, True),
        (2, False),
        (12, False),
    ]


@pytest.mark.parametrize(
    ("limit", "difference", "fails"),
    [(5e-6, 4e-6, False), (5e-6, -6e-6, True), (None, 1e-3, False), (1e-6, float("nan"), True)],
)  # fmt: skip
def test_a_difference_beyond_rounding_is_a_fault(limit: float | None, difference: float, fails: bool) -> None:
    row = dataclasses.replace(NAIVE, tolerance_nats=limit, differences_nats={"fp32": 0.0, "int4": difference})
    assert (COMPARISON.plus(row).disagreement is not None) == fails


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*.json")), ids=lambda path: path.stem)
def test_the_reference_is_read_and_shown(path: Path) -> None:
    found = read_benchmark(path)
    assert found.to_json() == json.loads(path.read_text())
    assert any(row.ours and row.seconds is not None for row in found.rows)
    assert len(found.lines()) > len(found.rows)


def test_a_file_that_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    path.write_text('{"suite": "s"}')
    with pytest.raises(UsageError, match=r"benchmark\.json.*kind is missing"):
        read_benchmark(path)


def test_without_the_renderer_there_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.benchmark_record import write_figure

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    monkeypatch.delitem(sys.modules, "pipeline.report.render", raising=False)
    write_figure(COMPARISON, tmp_path)
    assert list(tmp_path.iterdir()) == []
