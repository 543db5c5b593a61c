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
from pipeline.benchmark import Comparison, DeviceComparison, Outcome
from pipeline.benchmark.device import Timing
from pipeline.benchmark.naive import scipy_kurtosis
from pipeline.benchmark.shapes import TOKENS, each_by_itself, write_random_suite
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.runs.folder import RunFolder
from pipeline.suites import open_suite
from tests.jobs.conftest import MEASURE
from tests.models import tiny_model

Run = Callable[..., Result]
FEW = ("--batches", "1", "--batch-size", "1", "--seq-len", "16")

COMPARISON = Comparison(
    checkpoints=8, n_tokens=64, variants=("fp32", "int4-g128-asym"), naive_s=2.0, naive_checkpoints=4,
    naive_scipy_s=12.0, pipeline_s=0.25, pipeline_total_s=20.0, single_worker_s=0.5, max_nll_difference_nats=2e-6,
    peak_gib=4.5, arithmetic="split", workers=2, cores=16, device="A GPU",
)  # fmt: skip
TIMING = Timing("probe, split", 0.3, 4.0, 213.3, 150.0, 0.21, 4.25, {"fp32": 1e-7, "int4-g128-asym": -3e-6})
GPU = DeviceComparison("A GPU", 4, 64, COMPARISON.variants, 716.0, 50.9, 2, (TIMING,))


@pytest.mark.slow
def test_json_and_figure_of_the_cpu(run: Run, llama_suite: Path, tokens_file: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    measure = MEASURE[: MEASURE.index("--workers")]
    arguments = [llama_suite, "--corpus", tokens_file, "--limit", "4", "--device", "cpu", "--scaling"]
    result = run("benchmark", *arguments, *measure, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    written = json.loads((out / "benchmark.json").read_text())
    assert json.loads(result.stdout.splitlines()[-1]) == written
    assert written["complete"]
    assert written["checkpoints"] == written["naive_checkpoints"] == 4
    assert (written["device"], written["arithmetic"], written["arithmetics"]) == ("cpu", "ieee", None)
    assert written["workers"] == 2, "the session's cluster has two cores, whatever this machine has"
    assert written["scaling"] == written["single_worker_s"] / written["pipeline_s"] > 0
    assert written["max_nll_difference_nats"] < 1e-6
    assert written["ratio"] == written["naive_s"] / written["pipeline_s"] > 0
    assert written["naive_scipy_s"] > 0
    assert (out / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    alone = run("benchmark", *arguments, *MEASURE)
    assert (alone.exit_code, "only one worker fits" in alone.stderr) == (2, True)


@pytest.mark.slow
def test_what_was_found_before_a_run_ends_early_is_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(model: object) -> None:
        raise KeyboardInterrupt

    module = importlib.import_module(
        "pipeline.benchmark.side_by_side"
    )  # the package has a function of that name
    monkeypatch.setattr(module, "scipy_kurtosis", interrupted)
    arguments = ["--random", "pythia-14m", "--files", "1", "--limit", "3", "--workers", "1"]
    result = run("benchmark", *arguments, *FEW, "--out", tmp_path)
    assert result.exit_code == 130
    stages = [line.split(": ")[1] for line in result.stderr.splitlines() if " s: " in line]
    assert stages == ["pipeline", "naive loop", "naive loop with SciPy's kurtosis"]
    kept = json.loads((tmp_path / "benchmark.json").read_text())
    assert (kept["suite"], kept["complete"], kept["checkpoints"], kept["n_tokens"]) == (
        "pythia-14m",
        False,
        3,
        16,
    )
    assert kept["naive_s"] > 0
    assert kept["pipeline_s"] > 0
    assert "naive_scipy_s" not in kept


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
    written = json.loads((tmp_path / "benchmark-fork-runs.json").read_text())
    assert json.loads(result.stdout.splitlines()[-1]) == written
    assert written["complete"]
    assert (written["runs"], written["updates"], written["probes"], written["probe_tokens"]) == (
        runs,
        4,
        2,
        2 * 2 * 32,
    )
    assert (written["device"], written["compiled"], written["runs_per_gpu"]) == ("cpu", False, None)
    assert written["start_nll_difference_nats"] < 1e-6, "both evaluate the checkpoint"
    assert written["end_nll_difference_nats"] < 1e-4, "and train on the same batches at the same rates"
    parts = ("load", "training", "live_probes", "average_probes")
    assert min(written[f"naive_{part}_s"] for part in parts) > 0
    assert written["naive_run_s"] == pytest.approx(sum(written[f"naive_{part}_s"] for part in parts))
    assert written["ratio"] == pytest.approx(runs * written["naive_run_s"] / written["ours_s"])
    assert written["live_ratio"] < written["ratio"]
    assert 0 < written["ours_ray_s"] < written["ours_first_run_s"] < written["ours_s"]
    assert f"times {runs}" in written["naive_is"]


def test_schedules_share_the_runs_evenly() -> None:
    assert paper_arms(9, 300, 75) == ("cosine", "sgdr", "oli:period=75")
    assert paper_arms(3, 4, 1) == ("cosine", "sgdr", "oli:period=4")
    assert paper_arms(4, 300, 75) == paper_arms(3, 3, 1) == ("cosine",)


def test_runs_are_those_of_a_fork(run: Run, llama_suite: Path) -> None:
    result = run("benchmark", llama_suite, "--runs", 3)
    assert (result.exit_code, "add --fork" in result.stderr) == (2, True)


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


def test_table_of_a_gpu() -> None:
    outcome = Outcome("s", COMPARISON, GPU)
    text = "\n".join([*outcome.comparison_lines(), *outcome.arithmetic_lines()])
    assert "8.00   (48.00 to the loop with SciPy kurtosis)" in text
    assert "2 workers against one           2.00 x" in text
    (row,) = [line for line in text.splitlines() if line.startswith("probe, split")]
    assert row.split() == ["probe,", "split", "0.300", "213", "150.0", "21.0%", "4.25", "3.0e-06"]
    assert outcome.to_json()["arithmetics"]["timings"][0]["name"] == "probe, split"
    names = [bar["name"] for bar in outcome.chart("")["data"]["values"]]
    assert names == ["probe, split", "pipeline, split x 2"]


@pytest.mark.parametrize(
    ("arithmetic", "difference", "fails"),
    [("split", 4e-6, False), ("split", 6e-6, True), ("ieee", 2e-6, True), ("tf32", 1e-3, False),
     ("ieee", float("nan"), True)],
)  # fmt: skip
def test_tolerance_is_that_of_the_arithmetic(arithmetic: str, difference: float, fails: bool) -> None:
    comparison = dataclasses.replace(COMPARISON, arithmetic=arithmetic, max_nll_difference_nats=difference)
    assert (Outcome("s", comparison, None).disagreement is not None) == fails


def test_without_the_renderer_there_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.benchmark import _write_figure

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    monkeypatch.delitem(sys.modules, "pipeline.report.render", raising=False)
    _write_figure(Outcome("s", COMPARISON, GPU), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_numbers_of_every_arithmetic_are_kept_as_they_come(tmp_path: Path) -> None:
    from jobs.benchmark import Record

    record = Record("s", tmp_path / "new")
    for part in ({"naive_s": 2.0}, {"arithmetics": dataclasses.asdict(GPU)}):
        record.add(part)
        kept = json.loads((tmp_path / "new" / "benchmark.json").read_text())
        assert not kept["complete"]
        assert kept["naive_s"] == 2.0
    assert kept["arithmetics"]["timings"][0]["name"] == "probe, split"
    Record("s", None).add({"naive_s": 2.0})


def test_methods_are_timed_beside_fp32_and_absent_libraries_are_said(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    arguments = (
        "benchmark", llama_suite, "--methods", "--corpus", tokens_file, "--limit", "2", "--device", "cpu",
        *MEASURE[:6], "--calibration-sequences", "6", "--variant", "int4-g8-asym", "--variant", "int4-g8-asym@gptq",
    )  # fmt: skip
    result = run_here(*arguments, "--json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert json.loads((tmp_path / "out" / "methods.json").read_text()) == {**found, "complete": True}
    names = ["fp32", "int4-g8-asym", "int4-g8-asym@gptq", "all together"]
    assert [each["name"] for each in found["timings"]] == names
    losses = {each["name"]: each["nll_nats"] for each in found["timings"]}
    assert run_here(
        "audit", llama_suite, "--corpus", tokens_file, "--limit", "2", *MEASURE, "--calibration-sequences", "6",
        "--variant", "int4-g8-asym@gptq", "--out", tmp_path / "audit",
    ).exit_code == 0  # fmt: skip
    audited = RunFolder(tmp_path / "audit").shards.read("step000000010").table.to_pylist()
    assert losses["int4-g8-asym@gptq"] == pytest.approx(audited[1]["nll_nats"], abs=1e-9)
    assert found["calibration_tokens"] == 6 * 32
    for peer in found["peers"]:
        installed = importlib.util.find_spec(
            {"GPTQModel": "gptqmodel"}.get(peer["name"].split(",")[0], "llmcompressor")
        )
        assert (peer["seconds"] is None) == (installed is None)
        assert ("not installed" in peer["reason"]) == (installed is None)
    text = run_here(*arguments)
    assert "GPTQModel, int4-g8-asym@gptq: gptqmodel is not installed here" in text.stdout


def test_the_naive_loop_does_not_calibrate(run_here: Run, llama_suite: Path, tokens_file: str) -> None:
    result = run_here(
        "benchmark", llama_suite, "--corpus", tokens_file, *MEASURE, "--variant", "int4-g8-asym@gptq"
    )
    assert result.exit_code == 2
    assert "--methods" in result.stderr
    assert run_here("benchmark", llama_suite, "--methods", "--scaling").exit_code == 2
