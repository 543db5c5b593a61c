"""Weights and layers that find no room: measured otherwise, or named."""

from __future__ import annotations

import weakref

import pytest
import torch

pytest.importorskip("triton")


from pipeline.base.errors import InsufficientMemoryError
from pipeline.probe import Prober, forward, reading
from pipeline.probe.prober import NOTE
from pipeline.probe.reading import Reader
from pipeline.probe.weights import NOT_AHEAD
from pipeline.spec import ProbeSpec
from tests.probe.layered import DEVICE, SHAPE, TOKENS, VOCAB, WAYS, prober, save, spec


def test_memory_that_runs_out_halves_the_chunk_and_starts_over(tmp_path, monkeypatch) -> None:
    probe, folder = spec("ieee"), save(tmp_path, "llama")
    advance, calls = forward.LayeredForward.advance, []

    def short_of_memory(self, layer) -> None:
        if len(self.tokens) != len(TOKENS):  # the sequences that the model is checked with
            return advance(self, layer)
        calls.append(layer)
        if len(calls) == (
            6 if DEVICE.type == "cuda" else 2
        ):  # the second layer, after two rehearsals on a GPU
            raise torch.OutOfMemoryError
        return advance(self, layer)

    monkeypatch.setattr(forward.LayeredForward, "advance", short_of_memory)
    found = prober(probe).measure_layers(folder)
    assert found.notes == ("GPU out of memory: chunk reduced to 1 sequence", NOTE)
    exact = Prober(ProbeSpec(probe.variants, SHAPE, "", VOCAB - 4), TOKENS).measure(folder)
    for ours, theirs in zip(found.results, exact.results, strict=True):
        assert ours.nll_nats == pytest.approx(theirs.nll_nats, abs=2e-6)


SHORT = "CUDA out of memory. Tried to allocate 96.00 MiB. GPU 0 has a total capacity of 79 GiB."


def test_a_layer_that_finds_no_room_beside_the_one_before_is_read_after_it(tmp_path, monkeypatch) -> None:
    probe, folder = spec("ieee"), save(tmp_path, "llama", num_hidden_layers=3)
    whole = prober(probe).measure(folder)
    read_some, held = Reader.read_some, []

    def room_for_one_layer(self, index, names):
        inside = any(".layers." in name for name in names)
        if inside and any(tensor() is not None for tensor in held):
            raise torch.OutOfMemoryError(SHORT)
        tensors = read_some(self, index, names)
        if inside:
            held[:] = [weakref.ref(tensor) for tensor in tensors.values()]
        return tensors

    monkeypatch.setattr(Reader, "read_some", room_for_one_layer)
    found = prober(probe).measure_layers(folder)
    assert found.results == whole.results
    assert found.notes == (NOT_AHEAD, NOTE), "and the chunk is what it was"


def test_a_layer_that_finds_no_room_at_all_is_named(tmp_path, monkeypatch) -> None:
    folder, read_some = save(tmp_path, "llama", num_hidden_layers=3), Reader.read_some

    def no_room_for_the_last(self, index, names):
        if any(".layers.2." in name for name in names):
            raise torch.OutOfMemoryError(SHORT)
        return read_some(self, index, names)

    monkeypatch.setattr(Reader, "read_some", no_room_for_the_last)
    with pytest.raises(
        InsufficientMemoryError, match=r"the weights of layer 2 \(CUDA out of memory.*fewer workers per GPU"
    ):
        prober(spec("ieee")).measure_layers(folder, None)


@WAYS
def test_buffers_that_find_no_host_memory_are_named(tmp_path, monkeypatch, way) -> None:
    folder = save(tmp_path, "llama")
    monkeypatch.setattr(reading, "PIECE_BYTES", 2**60)
    with pytest.raises(
        InsufficientMemoryError, match="the buffers in host memory that weights are read into"
    ):
        getattr(prober(spec("ieee")), way)(folder, None)


def test_weights_that_find_no_room_as_a_whole_say_so(tmp_path, monkeypatch) -> None:
    folder = save(tmp_path, "llama")

    def short_of_memory(*_) -> None:
        raise torch.OutOfMemoryError(SHORT)

    monkeypatch.setattr(reading, "refuse_other_dtypes", short_of_memory)
    with pytest.raises(
        InsufficientMemoryError, match=r"the weights as a whole .* measure layer by layer \(--stream\)"
    ):
        prober(spec("ieee")).measure(folder, None)
