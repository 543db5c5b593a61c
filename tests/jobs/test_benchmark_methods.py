"""Calibrated methods timed beside other libraries."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.benchmark import Seconds, read_benchmark
from pipeline.benchmark.method_peers import Peer
from pipeline.quantize import Variant
from pipeline.runs.folder import RunFolder
from tests.jobs.conftest import MEASURE
from tests.jobs.test_benchmark import Run
from tests.waiting import wait_for


def test_methods_are_timed_beside_fp32_and_absent_libraries_are_said(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    arguments = (
        "benchmark", llama_suite, "--methods", "--corpus", tokens_file, "--limit", "2", "--device", "cpu",
        *MEASURE[:6], "--calibration-sequences", "6", "--variant", "int4-g8-asym", "--variant", "int4-g8-asym@gptq",
    )  # fmt: skip
    result = run_here(*arguments, "--json", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = read_benchmark(tmp_path / "out" / "benchmark-methods.json")
    assert json.loads(result.stdout) == found.to_json()
    names = ["fp32", "int4-g8-asym", "int4-g8-asym@gptq", "all together"]
    assert [row.what for row in found.rows if row.ours] == names
    losses = {row.what: row.nll_nats for row in found.rows}
    assert run_here(
        "audit", llama_suite, "--corpus", tokens_file, "--limit", "2", *MEASURE, "--calibration-sequences", "6",
        "--variant", "int4-g8-asym@gptq", "--out", tmp_path / "audit",
    ).exit_code == 0  # fmt: skip
    audited = RunFolder(tmp_path / "audit").shards.read("step000000010").table.to_pylist()
    assert losses["int4-g8-asym@gptq"] == pytest.approx(audited[1]["nll_nats"], abs=1e-9)
    assert found.settings["calibration_tokens"] == 6 * 32
    peers = [row for row in found.rows if not row.ours]
    assert [row.what for row in peers] == [
        f"{name}, int4-g8-asym@gptq" for name in ("GPTQModel", "llm-compressor")
    ]
    for row, module in zip(peers, ("gptqmodel", "llmcompressor"), strict=True):
        if importlib.util.find_spec(module) is None:
            assert (row.seconds, "not installed" in row.absent) == (None, True)


LIBRARY = """
import json, sys, time
if "-c" in sys.argv: sys.exit(0)
call = json.loads(sys.argv[-1])
{body}
"""


LEAVES_A_PROCESS = """
import subprocess
left = subprocess.Popen(["sleep", "60"], stderr=subprocess.DEVNULL)
open(sys.argv[0] + ".pid", "w").write(str(left.pid))
sys.exit("gone")
"""


@pytest.mark.parametrize(
    ("body", "limit_s", "absent"),
    [
        ("open(call['answer'], 'w').write(json.dumps(dict(seconds=2.5, nll_nats=call['bits'])))", 60, ""),
        ("sys.exit('ValueError: no such layer')", 60, "failed with ValueError: no such layer"),
        ("time.sleep(60)", 1, "stopped after 1 s"),
        (LEAVES_A_PROCESS, 60, "failed with gone"),
    ],
)
def test_a_library_runs_with_the_python_of_its_environment(
    body: str, limit_s: float, absent: str, tmp_path: Path
) -> None:
    """The interpreter stands in for one whose environment has the library; it gets the call as the library would."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{LIBRARY.format(body=body)}")
    program.chmod(0o755)
    variant, tokens = Variant.parse("int4-g8-asym@gptq"), np.zeros((1, 1, 8), dtype=np.int64)
    row = Peer("Library", "library_that_is_nowhere", ("gptq",)).timing(
        variant, tmp_path, tokens, tokens[0], device="cpu", pythons=(str(program),), limit_s=limit_s
    )
    assert row.absent == absent
    assert (row.nll_nats, row.seconds) == ((4, Seconds(2.5, 2.5, 2.5, 1)) if not absent else (None, None))
    if body == LEAVES_A_PROCESS:
        status = Path("/proc") / (tmp_path / "python.pid").read_text() / "status"
        wait_for(lambda: not status.exists() or "State:\tZ" in status.read_text(), seconds=20)


def test_the_naive_loop_does_not_calibrate(run_here: Run, llama_suite: Path, tokens_file: str) -> None:
    result = run_here(
        "benchmark", llama_suite, "--corpus", tokens_file, *MEASURE, "--variant", "int4-g8-asym@gptq"
    )
    assert result.exit_code == 2
    assert "--methods" in result.stderr
    assert run_here("benchmark", llama_suite, "--methods", "--scaling").exit_code == 2
