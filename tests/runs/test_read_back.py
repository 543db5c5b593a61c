"""What is read back from an output folder is checked: its types, its lengths, and that it is a file at all."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.base.errors import ShardError, UsageError
from pipeline.base.files import with_checksum
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import folder_status
from pipeline.runs.shard_schema import AUDIT, FORK
from pipeline.spec import MEASUREMENTS
from tests.run_files import GRIDS, grids_shard, read_checked

REFERENCE = Path(__file__).parents[2] / "outputs" / "reference"
KEY = "step000000512"
RUN = "noop-seed0"
BAD_TEXTS = [b"", b"[1]", b'"x"', b"{", b'{"a": NaN}', b"\xff{}", b"[" * 100_000, b'{"suite": "\\ud800"}']
Change = Callable[[Any], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One shard of an audit and one of a fork experiment, and the plans of both."""
    for kept in ("audit", "fork"):
        (tmp_path / "shards" / kept).mkdir(parents=True)
    (tmp_path / f"shards/audit/{KEY}.arrow").write_bytes(grids_shard(KEY))
    shutil.copy(REFERENCE / f"fork/shards/fork/{RUN}.arrow", tmp_path / "shards/fork")
    plan = json.loads((GRIDS / "run.json").read_text())
    plan["checkpoints"] = [each for each in plan["checkpoints"] if each["step"] == 512]
    (tmp_path / "run.json").write_text(json.dumps(plan))
    plan = json.loads((REFERENCE / "fork/fork.json").read_text())
    plan["runs"] = [each for each in plan["runs"] if (each["arm"]["label"], each["seed"]) == ("noop", 0)]
    (tmp_path / "fork.json").write_text(json.dumps(plan))
    return tmp_path


def setter(*path: Any, to: Any) -> Change:
    """A change of one value, by its names and indices; ``...`` as the last removes the one before."""

    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        if to is ...:
            del value[path[-1]]
        else:
            value[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("file", "change", "field"),
    [
        ("run.json", setter("suite", to=3), "suite is 3"),
        ("run.json", setter("suite", to=...), "suite is missing"),
        ("run.json", setter("checkpoints", to={}), "checkpoints is {}"),
        ("run.json", setter("checkpoints", to=[7]), r"checkpoints\[0\] is 7"),
        ("run.json", setter("checkpoints", 0, "step", to="512"), r"checkpoints\[0\].step is '512'"),
        ("run.json", setter("checkpoints", 0, "step", to=-1), r"checkpoints\[0\].step is -1"),
        ("run.json", setter("checkpoints", 0, "stage", to="../../x"), r"checkpoints\[0\].stage"),
        ("run.json", setter("checkpoints", 0, "learning_rate", to=[]), r"checkpoints\[0\].learning_rate"),
        ("run.json", setter("checkpoints", 0, "duplicate_of", to="x"), "checkpoints is 'x'"),
        ("run.json", setter("config", to=None), "config is missing"),
        ("run.json", setter("config", "variants", to="fp32"), "config.variants"),
        ("run.json", setter("config", "variants", to=["int4-g128-asym"]), "config: a probe needs fp32"),
        ("run.json", setter("config", "variants", to=["fp32", "int9"]), r"config.variants\[1\] is 'int9'"),
        ("run.json", setter("config", "shape", "batches", to="many"), "config.shape.batches is 'many'"),
        ("run.json", setter("config", "measurements", to=[1]), r"config.measurements\[0\] is 1"),
        ("run.json", setter("versions", "torch", to=2), "versions.torch is 2"),
        ("run.json", setter("skipped", to=[None]), r"skipped\[0\] is None"),
        ("run.json", setter("wall_s", to="long"), "wall_s is 'long'"),
        ("run.json", setter("wall_s", to=10**400), "wall_s is a larger number"),
        ("fork.json", setter("runs", 0, "seed", to=True), r"runs\[0\].seed is True"),
        ("fork.json", setter("runs", 0, "arm", "label", to="/etc/x"), r"runs\[0\].arm.label"),
        (
            "fork.json",
            setter("runs", 0, "arm", "schedule", to="other"),
            r"runs\[0\].arm: unknown schedule 'other'",
        ),
        ("fork.json", setter("runs", 0, "arm", "parameters", to=[["a"]]), r"runs\[0\].arm.parameters\[0\]"),
        ("fork.json", setter("config", "rates", "steps", to=1.5), "config.rates.steps is 1.5"),
        ("fork.json", setter("config", "probe", to=3), "config.probe is 3"),
        ("fork.json", setter("checkpoint", to=...), "checkpoint is missing"),
    ],
)
def test_a_plan_with_another_value_names_file_and_field(
    folder: Path, file: str, change: Change, field: str
) -> None:
    plan = json.loads((folder / file).read_text())
    change(plan)
    (folder / file).write_text(json.dumps(plan))
    out = RunFolder(folder, FORK) if file == "fork.json" else RunFolder(folder)
    with pytest.raises(UsageError, match=f"{file} is damaged: {field}"):
        out.read_plan()


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_a_plan_that_is_no_json_object_is_named(folder: Path, text: bytes) -> None:
    (folder / "run.json").write_bytes(text)
    with pytest.raises(UsageError, match=r"run\.json is damaged"):
        RunFolder(folder).read_plan()


def test_what_a_plug_in_made_is_not_only_called_damaged(folder: Path) -> None:
    plan = json.loads((folder / "run.json").read_text())
    plan["config"]["variants"] = ["fp32", "ternary"]
    (folder / "run.json").write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=r"unknown variant 'ternary'.*plug-in"):
        RunFolder(folder).read_plan()
    (folder / "run.json").rename(folder / "zeros.json")
    (folder / "events.jsonl").touch()
    with pytest.raises(UsageError, match=r"no run in .*plug-in"):
        RunFolder(folder).read_plan()


def rewritten(path: Path, change: Change, metadata: dict[bytes, bytes] | None = None) -> None:
    """The shard at ``path`` with changed rows, sealed as if a writer had written it so."""
    table = read_checked(path)
    rows = table.to_pylist()
    rows = change(rows) or rows
    schema = table.schema.with_metadata({**table.schema.metadata, **(metadata or {})})
    loose = pa.schema([field.with_nullable(True) for field in schema], metadata=schema.metadata)
    path.write_bytes(with_checksum(pa.Table.from_pylist(rows, schema=loose)))


def scaled(rows: list[dict[str, Any]], name: str, factor: float) -> None:
    rows[1][name] *= factor


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[1:], "lacks fp32"),
        (lambda rows: [*rows, copy.deepcopy(rows[2])], "once each"),
        (lambda rows: rows[:-1], "it lacks int4-channel-sym\\+head"),
        (setter(1, "batch_nll_nats", to=[1.0]), "1 losses of batches"),
        (setter(1, "batch_nll_nats", to=None), "0 losses of batches"),
        (setter(1, "batch_nll_nats", 3, to=None), "an empty one"),
        (setter(1, "nll_nats", to=None), "no nll_nats"),
        (setter(1, "tensors", to=[]), "has no tensors"),
        (setter(1, "tensors", 1, "name", to=None), "has no tensors"),
        (lambda rows: [row | {"step": 500} for row in rows], "of step 500"),
        (setter(1, "step", to=500), "differ in step"),
        (setter(1, "n_tokens", to=7), "of 7 tokens"),
        (lambda rows: scaled(rows, "perplexity", 1 + 1e-6), "perplexity of int2-g128-asym"),
        (lambda rows: scaled(rows, "nll_nats", 1 + 1e-6), "mean of its batches"),
        (setter(2, "weights_sha256", to="f" * 64), "differ in weights_sha256"),
    ],
)
def test_rows_that_are_not_the_measurement_are_redone(folder: Path, change: Change, reason: str) -> None:
    out = RunFolder(folder)
    assert folder_status(out, out.read_plan()).done == (KEY,)
    rewritten(folder / f"shards/audit/{KEY}.arrow", change)
    found = folder_status(out, out.read_plan())
    assert found.to_measure == (KEY,)
    with pytest.raises(ShardError, match=reason):
        out.shards.read(KEY)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda losses: losses, False),
        (lambda losses: None, False),  # measured before they were kept
        (lambda losses: losses[:-1], True),
        (lambda losses: [losses[0] + 1e-3, *losses[1:]], True),
        (lambda losses: [None, *losses[1:]], True),
    ],
)
def test_losses_of_sequences_make_those_of_their_batches(folder: Path, change: Any, wrong: bool) -> None:
    path = folder / f"shards/audit/{KEY}.arrow"
    table = read_checked(path)
    shape = json.loads((folder / "run.json").read_text())["config"]["shape"]
    rows = table.to_pylist()
    for row in rows:
        split = [loss + 0.01 * (at - (shape["batch_size"] - 1) / 2) for loss in row["batch_nll_nats"]
                 for at in range(shape["batch_size"])]  # fmt: skip
        row["sequence_nll_nats"] = change(split)
    schema = AUDIT.schema(MEASUREMENTS, table.schema).with_metadata(table.schema.metadata)
    path.write_bytes(with_checksum(pa.Table.from_pylist(rows, schema=schema)))
    out = RunFolder(folder)
    assert folder_status(out, out.read_plan()).to_measure == ((KEY,) if wrong else ())


def test_a_shard_of_another_checkpoint_in_its_place_is_redone(folder: Path) -> None:
    (folder / f"shards/audit/{KEY}.arrow").write_bytes(grids_shard("step000002000"))
    with pytest.raises(ShardError, match="of step 2000"):
        RunFolder(folder).shards.read(KEY)


def test_a_checkpoint_that_diverged_is_a_measurement(folder: Path) -> None:
    def diverge(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            batches = [math.nan] * len(row["batch_nll_nats"])
            row |= {"nll_nats": math.nan, "perplexity": math.nan, "batch_nll_nats": batches}
            row |= {"kl_nats_mean": math.nan, "top1_agreement": math.nan}
        rows[1] |= {"nll_nats": 1000.0, "perplexity": math.inf, "batch_nll_nats": [1000.0] * len(batches)}

    rewritten(folder / f"shards/audit/{KEY}.arrow", diverge)
    assert folder_status(RunFolder(folder), RunFolder(folder).read_plan()).done == (KEY,)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[:-1], "once each"),
        (lambda rows: [row for row in rows if row["weights"] != "ema"], "set of weights"),
        (lambda rows: [row for row in rows if row["step"] != 750], "8 of 9 probes"),
        (lambda rows: [row | {"run_id": "x"} for row in rows], "another run"),
        (setter(5, "nll_nats", to=1.0), "mean of its batches"),
    ],
)
def test_rows_that_are_not_the_run_are_redone(folder: Path, change: Change, reason: str) -> None:
    out = RunFolder(folder, FORK)
    assert folder_status(out, out.read_plan()).done == (RUN,)
    rewritten(folder / f"shards/fork/{RUN}.arrow", change)
    assert folder_status(out, out.read_plan()).to_measure == (RUN,)
    with pytest.raises(ShardError, match=reason):
        out.shards.read(RUN)


@pytest.mark.parametrize("name", ["config", "versions", "notes", "measured", "content_id", "fingerprint"])
@pytest.mark.parametrize("text", [b"3", b"[" * 100_000, b"\xff", b"{}", b'{"fp32": 1}', b'["\\ud800"]'])
def test_metadata_with_another_value_never_passes_for_more(folder: Path, name: str, text: bytes) -> None:
    path = folder / f"shards/audit/{KEY}.arrow"
    rewritten(path, lambda rows: None, {name.encode(): text})
    found = folder_status(RunFolder(folder), RunFolder(folder).read_plan())
    harmless = (name, text) == ("versions", b"{}") or (name == "fingerprint" and text != b"\xff")
    assert (found.done == (KEY,)) == harmless
    if not harmless and found.corrupt:
        assert name in found.corrupt[KEY] or "lacks" in found.corrupt[KEY] or "variants" in found.corrupt[KEY]


def test_lines_of_a_log_that_are_no_events_are_left_out(folder: Path) -> None:
    good = {"time": "t", "event": "started", "expected": 3, "there": 0}
    bad: list[Any] = [
        [1], 3, {"event": "done"}, {"time": "t"}, {**good, "expected": "3"}, dict(good),
        {"time": "t", "event": "worker_joined"}, {"time": "t", "event": "done", "seconds": "1"},
        {"time": 3, "event": "done"}, {"time": "t", "event": "done", "host": 1},
    ]  # fmt: skip
    del bad[5]["there"]
    lines = [json.dumps(each) for each in bad]
    lines += [text.decode("latin-1") for text in BAD_TEXTS]
    (folder / "events.jsonl").write_bytes(
        "\n".join([*lines, json.dumps(good), '{"time": "t', ""]).encode("latin-1")
    )
    assert [event.line for event in RunFolder(folder).read_events() or ()] == [good]


@pytest.mark.parametrize("text", [*BAD_TEXTS, b"{}", b'{"reason": 3}', b'{"reason": null}'])
def test_a_failure_record_that_is_damaged_says_so(folder: Path, text: bytes) -> None:
    (folder / "failures/audit").mkdir(parents=True)
    (folder / f"failures/audit/{KEY}.json").write_bytes(text)
    reason = RunFolder(folder).failures.read()[KEY]
    assert "damaged" in reason
    assert f"failures/audit/{KEY}.json" in reason


def test_a_folder_without_a_run_is_told_with_the_runs_in_it_or_beside_it(tmp_path):
    for name in ("cosine", "wsd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=rf"no run in .*did you mean {tmp_path / 'cosine'}\?"):
        RunFolder(tmp_path / "cosin").read_plan()
    with pytest.raises(UsageError, match=rf"did you mean {tmp_path / 'cosine'} or {tmp_path / 'wsd'}\?"):
        RunFolder(tmp_path).read_plan()
