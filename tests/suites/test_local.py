import json
import os
import shutil

import pytest

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.suites import (
    Entry,
    Manifest,
    TrainingSettings,
    fetch,
    open_suite,
    read_manifest,
    weights_sha256,
    write_manifest,
)
from tests.models import ARCHITECTURES, save_tiny_model, save_tiny_suite


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny_suite("llama", tmp_path_factory.mktemp("llama"), ["step9", "step10", "step1000"])


@pytest.fixture
def suite(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "run")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_architecture_is_listed_and_fetched(architecture, tmp_path):
    save_tiny_suite(architecture, tmp_path, ["checkpoint-10", "checkpoint-9"])
    found = open_suite(str(tmp_path))
    assert [checkpoint.step for checkpoint in found.checkpoints] == [9, 10]
    assert all((fetch(checkpoint) / "model.safetensors").is_file() for checkpoint in found.checkpoints)
    assert all(checkpoint.duplicate_of is None and checkpoint.content_id for checkpoint in found.checkpoints)


@pytest.mark.parametrize("form", ["step{}", "checkpoint-{}", "iter_{:07d}", "global_step{}"])
def test_folders_are_sorted_by_number_and_others_are_named(form, tmp_path):
    for step in (100, 20, 3):
        (tmp_path / form.format(step)).mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / ".step7.tmp").mkdir()
    found = open_suite(str(tmp_path))
    assert [checkpoint.step for checkpoint in found.checkpoints] == [3, 20, 100]
    assert found.skipped == ("logs",)
    assert found.name == tmp_path.name
    assert found.tokenizer is None


def test_a_folder_without_weights_is_listed_and_fails_by_name(suite):
    (suite / "step10" / "model.safetensors").unlink()
    (suite / "step1000" / "config.json").unlink()
    found = open_suite(str(suite))
    assert [checkpoint.step for checkpoint in found.checkpoints] == [9, 10, 1000]
    assert fetch(found.checkpoints[0]).name == "step9"
    with pytest.raises(CheckpointError, match=r"step10 holds no weights"):
        fetch(found.checkpoints[1])
    with pytest.raises(CheckpointError, match=r"step1000 holds no config\.json"):
        fetch(found.checkpoints[2])
    shutil.rmtree(suite / "step9")
    with pytest.raises(CheckpointError, match=r"step9 does not exist"):
        fetch(found.checkpoints[0])


def test_a_sharded_checkpoint_needs_every_shard(tmp_path):
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    save_tiny_model("llama", tmp_path / "step1")
    (tmp_path / "step1" / "model.safetensors").rename(tmp_path / "step1" / names[0])
    index = tmp_path / "step1" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", names, strict=True))}))
    with pytest.raises(
        CheckpointError, match=r"lacks weight shards model-00002-of-00002\.safetensors, which"
    ):
        fetch(open_suite(str(tmp_path)).checkpoints[0])
    for broken in ("{", "[]", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": [1]}}'):
        index.write_text(broken)
        with pytest.raises(CheckpointError, match=r"index\.json (is not a readable|names no weight)"):
            fetch(open_suite(str(tmp_path)).checkpoints[0])


def test_equal_content_is_flagged_in_step_order(suite):
    shutil.copytree(suite / "step10", suite / "step20")
    shutil.copytree(suite / "step10", suite / "step2000")
    found = open_suite(str(suite))
    assert {c.revision: c.duplicate_of for c in found.checkpoints if c.duplicate_of} == {
        "step20": "step000000010",
        "step2000": "step000000010",
    }


def test_selecting_keeps_duplicates_honest(suite):
    shutil.copytree(suite / "step10", suite / "step20")
    shutil.copytree(suite / "step10", suite / "step2000")
    found = open_suite(str(suite))
    chosen = found.select(steps=[20, 2000])
    assert [c.duplicate_of for c in chosen.checkpoints] == [None, "step000000020"]
    assert [c.step for c in found.select(limit=2).checkpoints] == [9, 10]
    with pytest.raises(UsageError, match=r"no step 15: the nearest are 9, 10, 20"):
        found.select(steps=[15])
    with pytest.raises(UsageError, match=r"limit 0"):
        found.select(limit=0)


def test_stages_are_in_the_key_where_steps_repeat(tmp_path):
    for name in ("stage1-step10-tokens1B", "stage1-step20-tokens2B", "stage2-ingredient1-step10-tokens1B"):
        (tmp_path / name).mkdir()
    found = open_suite(str(tmp_path))
    assert [c.key for c in found.checkpoints] == [
        "stage1-step000000010",
        "stage1-step000000020",
        "stage2-ingredient1-step000000010",
    ]
    assert found.checkpoints[1].tokens_seen == 2 * 10**9
    shutil.rmtree(tmp_path / "stage2-ingredient1-step10-tokens1B")
    assert [c.key for c in open_suite(str(tmp_path)).checkpoints] == ["step000000010", "step000000020"]
    (tmp_path / "step010").mkdir()
    (tmp_path / "step10").mkdir()
    with pytest.raises(UsageError, match=r"both step 10"):
        open_suite(str(tmp_path))


def test_the_manifest_is_read_back_and_its_corpus_found_beside_it(suite):
    sha = weights_sha256(suite / "step10")
    entries = (Entry(9, "step9"), Entry(10, "step10", 640, 1e-3, sha))
    write_manifest(suite, Manifest("mine", entries, evaluation_corpus="tokens:eval.npy"))
    assert read_manifest(suite).checkpoints == entries
    found = open_suite(str(suite))
    assert found.name == "mine"
    assert found.default_corpus == f"tokens:{suite / 'eval.npy'}"
    assert [c.step for c in found.checkpoints] == [9, 10, 1000]
    assert (found.checkpoints[1].tokens_seen, found.checkpoints[1].weights_sha256) == (640, sha)
    assert found.checkpoints[2].tokens_seen is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not readable JSON"),
        ("[]", "wanted an object"),
        ('{"checkpoints": {}}', "checkpoints is {}, wanted a list"),
        ('{"checkpoints": [3]}', r"checkpoints\[0\] is 3"),
        ('{"checkpoints": [{"revision": "step9"}]}', r"checkpoints\[0\].step is missing"),
        (
            '{"checkpoints": [{"step": "9", "revision": "step9"}]}',
            r"checkpoints\[0\].step is '9', wanted an integer",
        ),
        ('{"checkpoints": [{"step": 7, "revision": "step9"}]}', "calls folder step9 step 7"),
        ('{"evaluation": {"batches": 3}}', "evaluation.batch_size is missing"),
        ('{"checkpoints": [{"step": 9, "revision": "step9", "learning_rate": NaN}]}', "holds NaN"),
        (
            '{"checkpoints": [{"step": 9, "revision": "step9", "tokens_seen": 1' + "0" * 20 + "}]}",
            "tokens_seen is .*, wanted an integer of at most 64 bits",
        ),
        (
            '{"checkpoints": [{"step": 9, "revision": "step9", "learning_rate": -1e-3}]}',
            "learning_rate is -0.001, wanted a number of 0 or more",
        ),
        (
            '{"checkpoints": [{"step": 9, "revision": "step9", "tokens_seen": -1}]}',
            "tokens_seen is -1, wanted a number of 0 or more",
        ),
        ('{"recipe": {"x": -Infinity}}', "holds -Infinity: wanted finite numbers"),
        ('{"recipe": {"x": 1e999}}', "holds 1e999"),
        ("[" * 200_000, "not readable JSON"),
        ('{"recipe": {"steps": ' * 100 + "1" + "}}" * 100, "nested deeper"),
        ('{"checkpoints": [{"step": 9, "revision": "step\\ud800"}]}', r"checkpoints\[0\].revision is"),
        ('{"name": "odd \\udc00"}', "name is"),
        ('{"recipe": {"x\\ud800": 1}}', "a name in recipe is"),
        ('{"evaluation": {"batches": 0, "batch_size": 1, "seq_len": 8}}', "batches 0"),
    ],
)
def test_a_broken_manifest_is_named(suite, text, complaint):
    (suite / "suite.json").write_text(text)
    with pytest.raises(UsageError, match=complaint) as caught:
        open_suite(str(suite))
    assert str(suite / "suite.json") in str(caught.value)
    assert str(caught.value).count("is broken") == 1


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a folder", "bytes, wanted at most"])
def test_a_manifest_that_is_no_small_regular_file_is_refused_at_once(suite, kind):
    manifest = suite / "suite.json"
    if kind == "a named pipe":
        os.mkfifo(manifest)
    elif kind == "a device":
        manifest.symlink_to("/dev/zero")
    elif kind == "a folder":
        manifest.mkdir()
    else:
        manifest.touch()
        os.truncate(manifest, 30 * 2**30)
    with pytest.raises(UsageError, match=rf"suite.json is broken: .*{kind}"):
        open_suite(str(suite))


def test_a_folder_that_suite_json_names_and_is_absent_fails_by_name(suite):
    write_manifest(suite, Manifest("mine", (Entry(7, "step7", tokens_seen=70), Entry(9, "step9"))))
    shutil.copy(suite / "step9" / "config.json", suite / "step1000" / "tokenizer.json")
    found = open_suite(str(suite))
    assert [c.revision for c in found.checkpoints] == ["step7", "step9", "step10", "step1000"]
    assert (found.checkpoints[0].content_id, found.checkpoints[0].tokens_seen) == ("", 70)
    assert found.tokenizer == str(suite / "step1000")
    with pytest.raises(CheckpointError, match=r"step7 does not exist"):
        fetch(found.checkpoints[0])
    assert fetch(found.checkpoints[1]).name == "step9"


def test_symlinked_checkpoints_are_checkpoints(suite, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    for name, target in (("step1", "step9"), ("step2", "step10"), ("step3", "step9"), ("step4", "gone")):
        (links / name).symlink_to(suite / target)
    (links / "step5").symlink_to(links / "step5")
    (links / "notes").symlink_to(suite / "step9" / "config.json")
    found = open_suite(str(links))
    assert [c.revision for c in found.checkpoints] == ["step1", "step2", "step3", "step4", "step5"]
    assert [c.duplicate_of for c in found.checkpoints] == [None, None, "step000000001", None, None]
    assert [bool(c.content_id) for c in found.checkpoints] == [True, True, True, False, False]
    assert fetch(found.checkpoints[1]) == links / "step2"
    for dangling in found.checkpoints[3:]:
        with pytest.raises(CheckpointError, match=rf"{dangling.revision} does not exist"):
            fetch(dangling)
    assert found.skipped == ()


def test_names_may_be_in_any_script_but_numbers_are_ascii(suite, tmp_path):
    folder = suite.rename(tmp_path / "\u8a13\u7df4 \u00e9 [b]")
    (folder / "step\u0661\u0662").mkdir()
    (folder / "gr\u00f6\u00dfe").mkdir()
    (folder / os.fsdecode(b"raw\xff")).mkdir()
    found = open_suite(str(folder))
    assert found.name == folder.name
    assert [c.step for c in found.checkpoints] == [9, 10, 1000]
    assert found.skipped == ("gr\u00f6\u00dfe", "raw?", "step\u0661\u0662")


def test_one_checkpoint_is_a_suite(suite):
    for name in ("step10", "step1000"):
        shutil.rmtree(suite / name)
    assert [c.revision for c in open_suite(str(suite)).checkpoints] == ["step9"]


def test_a_recipe_of_other_types_states_nothing():
    given = {"steps": "many", "peak_lr": 1, "min_lr": None, "schedule": 3, "warmup_steps": True, "x": []}
    assert TrainingSettings.from_recipe(given) == TrainingSettings(peak_lr=1)
    assert TrainingSettings.from_recipe({"steps": -5, "tokens_per_step": 10**30}) == TrainingSettings()
