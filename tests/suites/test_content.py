import hashlib
import json
import random
import subprocess
import sys

import pytest

from pipeline.spec import Checkpoint
from pipeline.suites import content, content_id, find_duplicates, open_suite, weight_files, weights_sha256
from pipeline.suites.checkpoint_files import choose_weights


def make(folder, *files):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name, data in files:
        (folder / name).write_bytes(data)
    return folder


def test_every_byte_of_a_small_file_counts(tmp_path):
    data = bytearray(random.Random(0).randbytes(100_000))
    first = make(tmp_path / "a", ("model.safetensors", bytes(data)))
    data[54_321] ^= 1
    second = make(tmp_path / "b", ("model.safetensors", bytes(data)))
    assert content_id(first) != content_id(second)
    assert content_id(first) == content_id(
        make(tmp_path / "c", ("model.safetensors", (first / "model.safetensors").read_bytes()))
    )


def test_config_counts_and_optimizer_does_not(tmp_path):
    folder = make(tmp_path / "a", ("model.safetensors", b"x" * 100))
    before = content_id(folder)
    (folder / "optimizer.pt").write_bytes(b"o")
    (folder / "training_args.bin").write_bytes(b"t")
    assert content_id(folder) == before
    (folder / "config.json").write_text('{"n": 1}')
    assert content_id(folder) != before


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        ('{"_name_or_path": "/runs/x/step1", "eps": 0.00001, "n": 1, "transformers_version": "5"}', True),
        ('{"n": 1, "eps": 1e-05}', True),
        ('{"n": 2, "eps": 1e-05}', False),
        ('{"n": 1}', False),
        ('{"n": 1, "eps": 1e-05', False),
        ("[1]", False),
    ],
)
def test_equal_weights_are_told_however_the_config_is_spelled(tmp_path, other, equal):
    for name, config in (("step1", '{"n": 1,\n "eps": 1e-05}'), ("step2", other)):
        folder = make(tmp_path / name, ("model.safetensors", b"w" * 100))
        (folder / "config.json").write_text(config)
    first, second = open_suite(str(tmp_path)).checkpoints
    assert first.content_id != second.content_id, "shards of earlier runs are known by it"
    assert second.duplicate_of == ("step000000001" if equal else None)
    (tmp_path / "step2" / "model.safetensors").write_bytes(b"w" * 99 + b"x")
    assert [each.duplicate_of for each in open_suite(str(tmp_path)).checkpoints] == [None, None]


@pytest.fixture
def sampled(monkeypatch):
    """Files over 64 KiB count as large: 8 blocks of 1 KiB and both ends are read."""
    monkeypatch.setattr(content, "WHOLE_BYTES", 64 * 2**10)
    monkeypatch.setattr(content, "BLOCK_BYTES", 2**10)
    monkeypatch.setattr(content, "BLOCKS", 8)


def test_large_files_are_sampled_and_suspicions_confirmed(tmp_path, sampled):
    data = bytearray(random.Random(1).randbytes(200_000))
    folders = [make(tmp_path / "step1", ("model.safetensors", bytes(data)))]
    hidden = bytearray(data)
    hidden[3_000] ^= 1  # between two sampled blocks
    folders.append(make(tmp_path / "step2", ("model.safetensors", bytes(hidden))))
    folders.append(make(tmp_path / "step3", ("model.safetensors", bytes(data))))
    ids = [each.content for each in content.local_identities(folders)]
    assert len(set(ids)) == 1
    found = [Checkpoint(n + 1, f.name, str(f), ids[n]) for n, f in enumerate(folders)]
    confirmed = find_duplicates(found, content.confirm_local)
    assert [c.duplicate_of for c in confirmed] == [None, None, "step000000001"]
    for position in (0, len(data) - 1):
        moved = bytearray(data)
        moved[position] ^= 1
        (folders[1] / "model.safetensors").write_bytes(moved)
        assert content_id(folders[1]) != ids[0]


def test_weights_hash_is_the_files_or_of_the_sorted_list(tmp_path):
    one = make(tmp_path / "one", ("model.safetensors", b"abc"), ("pytorch_model.bin", b"ignored"))
    assert weights_sha256(one) == hashlib.sha256(b"abc").hexdigest()
    names = ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"]
    two = make(tmp_path / "two", *[(name, name.encode()) for name in names])
    index = {"weight_map": {str(n): name for n, name in enumerate(names)}}
    (two / "model.safetensors.index.json").write_text(json.dumps(index))
    lines = "".join(f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in sorted(names))
    assert weights_sha256(two) == hashlib.sha256(lines.encode()).hexdigest()


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
BIN_SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]


@pytest.mark.parametrize("chosen", [["model.safetensors"], SHARDS, ["pytorch_model.bin"], BIN_SHARDS])
def test_what_is_hashed_is_what_is_loaded(chosen, tmp_path):
    from pipeline.models import loading

    order = ["model.safetensors", *SHARDS, "pytorch_model.bin", *BIN_SHARDS]
    others = [
        "model.ema.safetensors",
        "model_averaged.safetensors",
        "pytorch_model.ema.bin",
        "consolidated.pth",
    ]
    names = [*others, *order[order.index(chosen[0]) :]]
    folder = make(tmp_path / "step1", *[(name, name.encode()) for name in names])
    for index, shards in (("model.safetensors", SHARDS), ("pytorch_model.bin", BIN_SHARDS)):
        if shards[0] in names:
            weight_map = {str(number): name for number, name in enumerate(shards)}
            (folder / f"{index}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert [path.name for path in weight_files(folder)] == chosen
    assert [path.name for path in loading.assigned_tensors(folder)] == chosen
    assert choose_weights(path.name for path in folder.iterdir()) == tuple(chosen)
    before = content_id(folder), weights_sha256(folder)
    (folder / "model.ema.safetensors").write_bytes(b"another average")
    assert (content_id(folder), weights_sha256(folder)) == before


def test_listing_imports_no_torch(tmp_path):
    make(tmp_path / "step1", ("model.safetensors", b"abc"))
    code = (
        "import sys; from pipeline.suites import open_suite, known_suites; known_suites();"
        "open_suite(sys.argv[1]); assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
