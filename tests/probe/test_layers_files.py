"""Files of a checkpoint that are damaged, replaced or read in part, whole and layer by layer."""

from __future__ import annotations

import threading

import pytest
import safetensors.torch
import torch

pytest.importorskip("triton")


from pipeline.base.errors import CheckpointError
from pipeline.models.loading import read_weights
from pipeline.models.placeholders import WeightIndex
from pipeline.probe import prober as probing
from pipeline.probe.engine import Engine
from pipeline.probe.reading import Reader
from pipeline.suites import weights_sha256
from tests.probe.layered import DEVICE, WAYS, prober, save, spec
from tests.waiting import wait_for


@WAYS
def test_a_layer_in_the_middle_that_is_damaged_is_named(tmp_path, way) -> None:
    folder = save(tmp_path, "llama", num_hidden_layers=3)
    name = "model.layers.1.mlp.up_proj.weight"
    file = WeightIndex.of(folder).file_of[name]
    tensors = safetensors.torch.load_file(file)
    tensors[name][0, :3] = torch.nan
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    measure = getattr(prober(spec("ieee")), way)
    with pytest.raises(CheckpointError, match=rf"tensor {name} holds 3 NaN"):
        measure(folder, None)
    with pytest.raises(CheckpointError, match="fetch them again"):  # a reason for the NaN
        measure(folder, "0" * 64)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        measure(folder, None)
    file.unlink()
    with pytest.raises(CheckpointError, match=file.name):
        measure(folder, None)


@WAYS
def test_a_hash_that_is_not_the_suites_fails_by_name(tmp_path, way) -> None:
    folder = save(tmp_path, "llama")
    measure = getattr(prober(spec("ieee")), way)
    with pytest.raises(CheckpointError, match="the suite states 000000000000"):
        measure(folder, "0" * 64)
    assert measure(folder, weights_sha256(folder)).weights_sha256 == weights_sha256(folder)


def test_a_file_that_is_replaced_between_hashing_and_a_layer_fails_by_name(tmp_path, monkeypatch) -> None:
    folder, other = (save(tmp_path / name, "llama", seed) for seed, name in enumerate("ab"))
    name = "model.layers.1.mlp.up_proj.weight"
    file = WeightIndex.of(folder).file_of[name]
    read_some = Reader.read_some

    def replaced(self, index, names):
        if name in names and (other / file.name).exists():
            (other / file.name).rename(file)
        return read_some(self, index, names)

    monkeypatch.setattr(Reader, "read_some", replaced)
    with pytest.raises(CheckpointError, match=f"{file.name} changed while it was being read: run the same"):
        prober(spec("ieee")).measure_layers(folder, None)


@WAYS
def test_a_file_that_is_replaced_after_it_was_hashed_ahead_fails_by_name(tmp_path, monkeypatch, way) -> None:
    folder, other = (save(tmp_path / name, "llama", seed) for seed, name in enumerate("ab"))
    warm, file = prober(spec("ieee")), WeightIndex.of(folder).file_of["lm_head.weight"]
    check, hashed = probing.check_sha256, threading.Event()

    def checked(*arguments) -> None:
        check(*arguments)
        hashed.set()

    monkeypatch.setattr(probing, "check_sha256", checked)
    warm.hashes.start(folder, None)
    wait_for(hashed.is_set)
    (other / file.name).rename(file)
    with pytest.raises(CheckpointError, match=f"{file.name} changed while it was being read"):
        getattr(warm, way)(folder, None)


@WAYS
def test_a_file_that_is_replaced_after_it_was_read_and_before_it_is_hashed_fails_by_name(
    tmp_path, monkeypatch, way
) -> None:
    folder, other, *waiting = (save(tmp_path / name, "llama", seed) for seed, name in enumerate("abcd"))
    warm, file = prober(spec("ieee")), WeightIndex.of(folder).file_of["lm_head.weight"]
    for each in waiting:  # so that the hash is not begun before it is taken
        warm.hashes.start(each, None)
    run = Engine.run

    def replaced(self, *weights):
        found = run(self, *weights)
        if (other / file.name).exists():
            (other / file.name).rename(file)
        return found

    monkeypatch.setattr(Engine, "run", replaced)
    with pytest.raises(CheckpointError, match=f"{file.name} changed while it was being read"):
        getattr(warm, way)(folder, None)
    assert getattr(warm, way)(folder, None).weights_sha256 == weights_sha256(folder)


def test_what_was_begun_and_forgotten_is_read_and_hashed_anew(tmp_path) -> None:
    folder, other = (save(tmp_path / name, "llama", seed) for seed, name in enumerate("ab"))
    warm = prober(spec("ieee"))
    warm.prefetch(folder)
    assert warm.measure(folder, None).weights_sha256 == weights_sha256(folder)
    warm.prefetch(folder)
    warm.forget(folder)
    for file in other.iterdir():
        file.rename(folder / file.name)
    found, exact = warm.measure(folder, None), prober(spec("ieee")).measure(folder, None)
    assert found.weights_sha256 == exact.weights_sha256
    assert found.results == exact.results


def test_some_tensors_are_read_as_they_are_stored(tmp_path) -> None:
    save(tmp_path, "gpt2")
    exact, index = read_weights(tmp_path).tensors, WeightIndex.of(tmp_path)
    for wanted in (list(exact)[::2], list(exact)[3:9]):
        found = Reader(DEVICE).read_some(index, wanted)
        assert sorted(found) == sorted(wanted)
        assert all(torch.equal(found[name].cpu(), exact[name]) for name in wanted)
    file = index.file_of[wanted[0]]
    safetensors.torch.save_file({"other": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="was replaced while it was read"):
        Reader(DEVICE).read_some(index, wanted[:1])


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "some"])
def test_what_the_index_does_not_assign_to_a_shard_is_not_read(tmp_path, whole: bool) -> None:
    save(tmp_path, "llama")
    exact, index = read_weights(tmp_path).tensors, WeightIndex.of(tmp_path)
    for file in set(index.file_of.values()):
        tensors = safetensors.torch.load_file(file)
        others = {name: torch.ones(3) for name in exact if name not in tensors}
        safetensors.torch.save_file({**tensors, **others}, file, metadata={"format": "pt"})
    reader = Reader(DEVICE)
    found = reader.read(tmp_path).tensors if whole else reader.read_some(WeightIndex.of(tmp_path), exact)
    assert found.keys() == exact.keys()
    assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in exact.items())
