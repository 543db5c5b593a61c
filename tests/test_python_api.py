"""The six lines that the Python API shows are carried out as they stand there."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import int4_collapse
from pipeline.train import find_recipe, pretrain
from tests.jobs.here import worker_here
from tests.models import write_text_corpus

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which the suite ``tiny`` has been trained: here the steps of the recipe ``micro``."""
    folder = tmp_path_factory.mktemp("python")
    recipe = dataclasses.replace(find_recipe("micro"), corpus=write_text_corpus(folder))
    pretrain(recipe, folder / "outputs" / "suites" / "tiny", device="cpu")
    return folder


def test_the_lines_of_its_docstring_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = re.search(r"::\n\n(.*?)\n\n``", int4_collapse.__doc__ or "", flags=re.DOTALL)
    assert lines is not None
    code = textwrap.dedent(lines[1])
    assert len(code.splitlines()) == 6
    names = {name: getattr(int4_collapse, name) for name in int4_collapse.__all__}
    names |= {"AutoModelForCausalLM": AutoModelForCausalLM}
    with worker_here():
        exec(code, names)
    table, scores = names["table"], names["scores"]
    assert table["step"].to_list() == [each.step for each in names["suite"].checkpoints]
    # The last checkpoint, measured in memory on the same tokens, scores as it did in the audit.
    last = table.row(-1, named=True)
    by_variant = {each.variant: each.nll_nats for each in scores.results}
    assert by_variant["fp32"] == pytest.approx(last["fp32_nll_nats"], abs=1e-12)
    assert by_variant["int4-g128-asym"] == pytest.approx(last["int4_nll_nats"], abs=1e-12)
    assert names["phases"].phases
    model = names["model"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    int4_collapse.measure(model, int4_collapse.read_tokens("outputs/tiny")[:1], ["int4"])
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_every_public_name_is_there_and_importing_loads_neither_torch_nor_ray() -> None:
    script = "import sys, int4_collapse\nprint({'torch', 'transformers', 'ray', 'polars'} & set(sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ended.stdout.strip() == "set()"
    assert [getattr(int4_collapse, name) for name in int4_collapse.__all__]


def test_a_calibrated_variant_is_audited_with_the_calibration_text_that_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    text = np.random.default_rng(5).integers(0, 300, 4096)
    np.save(tmp_path / "calibration.npy", text)
    with worker_here():
        done = int4_collapse.audit(
            "tiny", tmp_path / "out", limit=1, variants=("int4-g16-asym", "int4-g16-asym@gptq"),
            calibration=f"tokens:{tmp_path / 'calibration.npy'}", calibration_sequences=4, device="cpu", workers=1,
        )  # fmt: skip
    assert (len(done.measured), done.failures) == (1, {})
    kept = np.load(next((tmp_path / "out" / "calibration").glob("*.npy")))
    assert kept.size == 4 * kept.shape[-1]
    assert np.isin(kept, text).all()
    row = int4_collapse.read_trajectory(tmp_path / "out").row(0, named=True)
    assert row["int4_g16_asym_gptq_nll_nats"] != row["int4_g16_asym_nll_nats"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variants": "int9"}, "unknown variant 'int9'"),
        ({"mechanism": "int3-g8-sym"}, "--mechanism int3-g8-sym"),
        ({"batches": "3"}, "option batches is '3', wanted an integer"),
        ({"limit": 1.5}, "option limit is 1.5, wanted an integer"),
        ({"stream": "yes"}, "option stream is 'yes', wanted true or false"),
        ({"steps": (0, "ten")}, r"option steps\[1\] is 'ten'"),
        ({"steps": np.array([0, 7_000])}, "has no step 7000"),
    ],
)
def test_an_option_of_another_type_is_named_and_one_name_stands_for_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], words: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(int4_collapse.UsageError, match=words):
        int4_collapse.audit("tiny", "out", **options)
    with pytest.raises(int4_collapse.UsageError, match="option start is 7, wanted a text"):
        int4_collapse.fork("tiny", "out", start=7)


def test_a_suite_may_be_a_path_and_a_variant_one_name(folder: Path) -> None:
    suite = int4_collapse.open_suite(folder / "outputs" / "suites" / "tiny")
    with pytest.raises(int4_collapse.UsageError, match="has no step 7000"):
        int4_collapse.audit(Path(suite.location), folder / "out", steps=[7_000])
    model = AutoModelForCausalLM.from_pretrained(suite.checkpoints[0].location)
    tokens = np.arange(32).reshape(1, 2, 16)
    scores = int4_collapse.measure(model, tokens, "int4")
    assert [each.variant for each in scores.results] == ["fp32", "int4-g128-asym"]
    for wrong, words in ((tokens.tolist(), "list"), (tokens[0], r"\(2, 16\)"), (-tokens, "token -31")):
        with pytest.raises(int4_collapse.UsageError, match=words):
            int4_collapse.measure(model, wrong, "int4")


def test_an_option_that_is_none_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(int4_collapse.UsageError, match="did you mean 'variants'"):
        int4_collapse.audit("tiny", "out", variant=("int4",))
