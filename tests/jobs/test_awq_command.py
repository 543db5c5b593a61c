"""AWQ from the command line: what a shard says of each matrix, and architectures that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from pipeline.runs.folder import RunFolder
from tests.jobs.conftest import MEASURE

Run = Callable[..., Result]
AWQ = ("--variant", "int4-g8-asym", "--variant", "int4-g8-asym@awq", "--calibration-sequences", "6")


def test_a_shard_says_of_every_matrix_how_it_was_scaled_and_clipped(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    command = (
        "audit",
        llama_suite,
        "--corpus",
        tokens_file,
        "--out",
        tmp_path / "out",
        "--limit",
        "1",
        *MEASURE,
    )
    result = run_here(*command, *AWQ)
    assert result.exit_code == 0, result.output
    rows = RunFolder(tmp_path / "out").shards.read("step000000000").table.to_pylist()
    found = {row["variant"]: row["tensors"] for row in rows}
    assert set(found) == {"fp32", "int4-g8-asym", "int4-g8-asym@awq"}
    for tensor in found["int4-g8-asym@awq"]:
        scaled = not tensor["name"].endswith("o_proj")  # its heads share their values
        clipped = not tensor["name"].endswith(("q_proj", "k_proj"))
        assert (tensor["scale_exponent"] is not None, tensor["clip_share"] is not None) == (scaled, clipped)
        assert tensor["output_error"] <= tensor["output_error_nearest"] * (1 + 1e-6)
    assert all(tensor["scale_exponent"] is None for tensor in found["int4-g8-asym"])


def test_an_architecture_without_proven_scales_exits_2_before_any_work(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    for config in llama_suite.glob("*/config.json"):
        config.write_text(
            config.read_text().replace('"llama"', '"granite"').replace("LlamaFor", "GraniteFor")
        )
    result = run_here(
        "audit", llama_suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE, *AWQ
    )
    assert result.exit_code == 2, result.output
    told = " ".join(result.stderr.split())
    assert "int4-g8-asym@awq: AWQ does not know which inputs of granite models it may scale" in told
    assert "wanted one of apertus, gpt2, gpt_neox, llama" in told
    assert not (tmp_path / "out").exists()
