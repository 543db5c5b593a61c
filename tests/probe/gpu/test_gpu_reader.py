"""Checkpoints are read to a GPU as they are stored, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
from pipeline.base.errors import CheckpointError
from pipeline.models.loading import read_weights
from pipeline.probe.reading import Reader
from tests.models import save_tiny_model, tiny_model
from tests.probe.gpu.test_gpu_engine import DEVICE


def test_the_reader_returns_what_is_stored(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "a")
    found, exact = Reader(DEVICE).read(folder), read_weights(folder)
    assert found.tensors.keys() == exact.tensors.keys()
    assert all(torch.equal(found.tensors[name].cpu(), tensor) for name, tensor in exact.tensors.items())


def test_the_reader_refuses_what_read_weights_refuses(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path / "a")
    model = tiny_model("llama")
    model.model.norm.weight.data[3] = torch.nan
    model.save_pretrained(tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds 1 NaN"):
        Reader(DEVICE).read(tmp_path / "b")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        Reader(DEVICE).read(folder)


def test_the_reader_returns_what_a_pickle_holds(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.save_pretrained(tmp_path)
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    tensors["model.norm.weight"] = torch.ones(32, 2).half()[:, 1]  # strided
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    found = Reader(DEVICE).read(tmp_path).tensors
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in tensors.items())
    tensors["model.norm.weight"][5] = torch.inf
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds 0 NaN and 1 Inf"):
        Reader(DEVICE).read(tmp_path)


def test_the_reader_refuses_a_file_that_is_replaced_between_its_header_and_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = (save_tiny_model("llama", tmp_path / name, seed) for seed, name in enumerate("ab"))

    read, opened = Path.open, []

    def replaced(file: Path, *mode: Any, **settings: Any) -> Any:
        if file == folder / "model.safetensors":
            opened.append(file)
            if len(opened) == 2:  # the first is its header's
                (other / file.name).rename(file)
        return read(file, *mode, **settings)

    monkeypatch.setattr(Path, "open", replaced)
    with pytest.raises(CheckpointError, match=r"model\.safetensors changed while it was being read"):
        Reader(DEVICE).read(folder)
