"""Shards of earlier releases are those of this one: the same settings, whatever was hashed and kept then."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.analysis.trajectory.reduction import reduce_run
from pipeline.base.files import with_checksum
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import folder_status
from pipeline.runs.plans import RunPlan
from pipeline.runs.shard import Lacks
from pipeline.runs.shard_schema import FORK
from pipeline.spec import MEASUREMENTS, ProbeSpec, TokenShape, parse_variants
from tests.run_files import GRIDS, grids_shard, read_checked

REFERENCE = Path(__file__).parents[2] / "outputs" / "reference"
STEPS = ("step000000000", "step000000512")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards that an earlier release wrote, and its plan of them."""
    (tmp_path / "shards/audit").mkdir(parents=True)
    for key in STEPS:
        (tmp_path / f"shards/audit/{key}.arrow").write_bytes(grids_shard(key))
    plan = json.loads((GRIDS / "run.json").read_text())
    plan["checkpoints"] = [each for each in plan["checkpoints"] if each["step"] in (0, 512)]
    (tmp_path / "run.json").write_text(json.dumps(plan))
    return tmp_path


def plan_now(folder: Path, **changes: object) -> RunPlan:
    """The plan that this release would write for the same request."""
    before: RunPlan = RunFolder(folder).read_plan()
    config = before.config
    spec = ProbeSpec(
        parse_variants(tuple(config["variants"])),
        TokenShape(**config["shape"]),
        config["tokens_sha256"],
        config["vocab_rows"],
        config["arithmetic"],
    )
    spec = dataclasses.replace(spec, **changes)
    return dataclasses.replace(before, config=spec.config(), fingerprint=spec.fingerprint())


def test_shards_of_an_earlier_release_are_done(folder: Path) -> None:
    plan = plan_now(folder)
    assert plan.config["measurements"] == list(MEASUREMENTS)
    assert plan.fingerprint != RunFolder(folder).read_plan().fingerprint, "it hashed every setting"
    found = folder_status(RunFolder(folder), plan)
    assert (found.done, found.stale, found.incomplete) == (STEPS, {}, {})
    RunFolder(folder).write_plan(plan)
    now = reduce_run(RunFolder(folder)).trajectory
    assert now["step"].to_list() == [0, 512]
    assert now["int3_g32_sym_gap"].null_count() == 0


def test_a_setting_that_a_release_did_not_have_is_at_its_default(folder: Path) -> None:
    path = folder / f"shards/audit/{STEPS[0]}.arrow"
    table = read_checked(path)
    config = json.loads(table.schema.metadata[b"config"])
    del config["arithmetic"], config["vocab_rows"]
    metadata = {**table.schema.metadata, b"config": json.dumps(config).encode()}
    path.write_bytes(with_checksum(table.replace_schema_metadata(metadata)))
    assert folder_status(RunFolder(folder), plan_now(folder, arithmetic="ieee")).done == STEPS[:1]
    other = folder_status(RunFolder(folder), plan_now(folder))
    assert other.done == STEPS[1:]
    assert other.stale == {STEPS[0]: ("arithmetic: its default -> split",)}


def test_less_is_done_more_is_incomplete_and_other_tokens_are_stale(folder: Path) -> None:
    less = plan_now(folder, variants=parse_variants(("int4",)))
    assert folder_status(RunFolder(folder), less).done == STEPS
    more = plan_now(folder, variants=parse_variants(("int4", "int4-g16-asym")))
    found = folder_status(RunFolder(folder), more)
    assert found.incomplete == dict.fromkeys(STEPS, Lacks(("int4-g16-asym",)))
    assert found.to_measure == STEPS
    asked = plan_now(folder, measurements=(*MEASUREMENTS, "entropy"))
    assert folder_status(RunFolder(folder), asked).incomplete == dict.fromkeys(STEPS, Lacks((), ("entropy",)))
    other = folder_status(RunFolder(folder), plan_now(folder, tokens_sha256="0" * 64))
    assert set(other.stale) == set(STEPS)


def test_a_run_of_a_fork_that_lacks_a_variant_is_not_trained_again_unasked() -> None:
    out = RunFolder(REFERENCE / "fork", FORK)
    plan = out.read_plan()
    keys = [key for key in out.shards.list_keys() if key.startswith("noop")]
    probe = {**plan.config["probe"], "variants": [*plan.config["probe"]["variants"], "int3-g128-asym"]}
    found = folder_status(out, dataclasses.replace(plan, config={**plan.config, "probe": probe}), keys)
    assert set(found.stale) == set(keys)
    assert "lacks int3-g128-asym" in found.stale[keys[0]][0]
