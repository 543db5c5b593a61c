"""Layer by layer: the numbers of the whole model, bit for bit, whichever backend computes them."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

pytest.importorskip("triton")

from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from pipeline.base.errors import CheckpointError, InsufficientMemoryError
from pipeline.models.loading import read_weights
from pipeline.models.placeholders import WeightIndex
from pipeline.probe import Prober, forward, reading
from pipeline.probe.backend import TorchBackend
from pipeline.probe.engine import Engine
from pipeline.probe.gpu.triton_backend import TritonBackend
from pipeline.probe.notes import OTHER_HEAD
from pipeline.probe.prober import NOTE
from pipeline.probe.reading import Reader
from pipeline.probe.result import Measurement
from pipeline.probe.weights import NOT_AHEAD
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from pipeline.suites import weights_sha256
from tests.models import tiny_model
from tests.waiting import wait_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCAB, LENGTH = 16, 4
"""As small as they come: through the interpreter every row of every weight costs milliseconds."""
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 1, LENGTH))
SHAPE = TokenShape(2, 1, LENGTH)
SMALL = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": VOCAB,
}
gpu = pytest.mark.gpu  # too slow for the interpreter
WAYS = pytest.mark.parametrize("way", ["measure", "measure_layers"])
ARITHMETICS = pytest.mark.parametrize("arithmetic", ["ieee", pytest.param("split", marks=gpu)])


def spec(arithmetic: str) -> ProbeSpec:
    return ProbeSpec(parse_variants(("int4-g4-asym+head",)), SHAPE, "", VOCAB - 4, arithmetic)


def save(folder: Path, architecture: str, seed: int = 0, **settings) -> Path:
    if architecture == "gpt2":
        settings = {"n_embd": 8, "n_layer": 2, "n_head": 1, "vocab_size": VOCAB, **settings}
    else:
        settings = {**SMALL, **settings}
    model = tiny_model(architecture, seed, **settings)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.half().save_pretrained(folder, max_shard_size="1KB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def prober(probe: ProbeSpec) -> Prober:
    """On the device's own backend, but split products on Triton's in any case."""
    backend = TritonBackend(probe, DEVICE) if probe.arithmetic == "split" else None
    return Prober(probe, TOKENS, str(DEVICE), backend=backend)


def both_ways(probe: ProbeSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """The checkpoint whole and layer by layer, each in chunks of one sequence by warm states of their own."""
    for kind in (TorchBackend, TritonBackend):
        monkeypatch.setattr(kind, "chunk", lambda *_, **__: 1)
    return [way(folder) for way in (prober(probe).measure, prober(probe).measure_layers)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "arithmetic", "settings"),
    [
        pytest.param("gpt_neox", "split", {}, marks=gpu),  # on a CPU: test_gpu_engine.py's variants in groups
        ("gpt_neox", "split", {"use_parallel_residual": False}),
        pytest.param("llama", "split", {}, marks=gpu),
        pytest.param("qwen2", "ieee", {"tie_word_embeddings": True}, marks=gpu),
        pytest.param("gpt_neox", "split", {"tie_word_embeddings": True, "attention_bias": False}, marks=gpu),
        pytest.param("gpt_neox", "tf32", {}, marks=gpu),
        pytest.param("gpt_neox", "ieee", {}, marks=gpu),
        pytest.param("qwen2", "split", {"tie_word_embeddings": True}, marks=gpu),
        pytest.param("gpt2", "split", {}, marks=gpu),
        pytest.param("olmo2", "tf32", {}, marks=gpu),
    ],
)
def test_layer_by_layer_gives_the_numbers_of_the_whole_bit_for_bit(
    tmp_path, monkeypatch, architecture, arithmetic, settings
) -> None:
    folder = save(tmp_path, architecture, **settings)
    if settings and DEVICE.type == "cpu":  # once is enough: comparing the paths takes half of the time
        monkeypatch.setattr(Engine, "_may_fuse", lambda self, filled, _: True)
    whole, layered = both_ways(spec(arithmetic), folder, monkeypatch)
    assert (whole.notes, layered.notes) == ((), (NOTE,))
    assert layered.weights_sha256 == whole.weights_sha256
    assert layered.results == whole.results


def test_a_warm_state_goes_both_ways_one_after_the_other(tmp_path) -> None:
    probe, folder = spec("ieee"), save(tmp_path, "qwen2", tie_word_embeddings=True, num_hidden_layers=1)
    layers_first, whole_first = prober(probe), prober(probe)
    found = [
        way(folder).results
        for way in (
            layers_first.measure_layers,
            layers_first.measure,
            whole_first.measure,
            whole_first.measure_layers,
        )
    ]
    assert found[0] == found[1] == found[2] == found[3]


def test_memory_that_runs_out_halves_the_chunk_and_starts_over(tmp_path, monkeypatch) -> None:
    probe, folder = spec("ieee"), save(tmp_path, "llama")
    advance, calls = forward.LayeredForward.advance, []

    def short_of_memory(self, layer) -> None:
        if len(self.tokens) != len(TOKENS):  # the sequences that the model is checked with
            return advance(self, layer)
        calls.append(len(self._parts))
        if len(calls) == (
            6 if DEVICE.type == "cuda" else 2
        ):  # the second layer, after two rehearsals on a GPU
            raise torch.OutOfMemoryError
        return advance(self, layer)

    monkeypatch.setattr(forward.LayeredForward, "advance", short_of_memory)
    found = prober(probe).measure_layers(folder)
    assert calls[-4:] == [1, 1, 2, 2]
    assert found.notes == ("GPU out of memory: chunk reduced to 1 sequences", NOTE)
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

    monkeypatch.setattr(Reader, "_copy", short_of_memory)
    with pytest.raises(
        InsufficientMemoryError, match=r"the weights as a whole .* measure layer by layer \(--stream\)"
    ):
        prober(spec("ieee")).measure(folder, None)


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
def test_a_file_that_is_replaced_after_it_was_hashed_ahead_fails_by_name(tmp_path, way) -> None:
    folder, other = (save(tmp_path / name, "llama", seed) for seed, name in enumerate("ab"))
    warm, file = prober(spec("ieee")), WeightIndex.of(folder).file_of["lm_head.weight"]
    warm.hashes.start(folder, None)
    wait_for(warm.hashes._asked[folder, None].done)
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

    def replaced(self, weights):
        found = run(self, weights)
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


@gpu
def test_the_probers_share_what_is_warm_and_say_which_way_they_went(tmp_path) -> None:
    folder = save(tmp_path, "gpt_neox")
    whole = Prober(spec("split"), TOKENS, "cuda")
    exact = whole.measure(folder)
    whole.layer_by_layer.prefetch(folder, exact.weights_sha256)
    for layered in (whole.layer_by_layer, Prober(spec("split"), TOKENS, "cuda").layer_by_layer):
        found = layered.measure(folder, exact.weights_sha256)
        assert (found.results, found.notes) == (exact.results, (NOTE,))


@gpu
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_gpu_memory_is_bounded_by_the_width_and_not_by_the_depth(tmp_path, architecture: str) -> None:
    tokens = np.random.default_rng(0).integers(0, 300, (1, 2, 64))
    probe = ProbeSpec(parse_variants(("int8", "int4")), TokenShape(1, 2, 64), "", None, "split")

    def peak(layers: int, way: str = "measure_layers") -> int:
        folder = tmp_path / f"{layers}"
        if not folder.exists():
            wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": layers}
            tiny_model(architecture, **wide).half().save_pretrained(folder)
        gc.collect()
        before = torch.cuda.memory_allocated()
        return getattr(Prober(probe, tokens, "cuda"), way)(folder).peak_bytes - before

    peak(3)  # what the libraries keep
    shallow, deep = peak(3), peak(16)
    layer = 2 * (4 * 1024**2 + 2 * 1024 * 4096)
    # Whether the next layer is there at the fullest moment of the one at hand is a matter of time.
    assert deep - shallow < 2 * layer, "thirteen more layers cost nothing"
    assert peak(16, "measure") > deep + 8 * layer, "which the whole model does not"


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


@ARITHMETICS
@WAYS
def test_integers_are_not_taken_as_the_values_of_weights(tmp_path, way, arithmetic) -> None:
    save(tmp_path, "llama")
    name = "model.layers.1.mlp.up_proj.weight"
    file = WeightIndex.of(tmp_path).file_of[name]
    tensors = safetensors.torch.load_file(file)
    tensors[name] = torch.ones_like(tensors[name], dtype=torch.int8)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"1 weights are stored as int8: {name}"):
        getattr(prober(spec(arithmetic)), way)(tmp_path, None)


@ARITHMETICS
@WAYS
def test_a_model_that_reads_later_tokens_is_refused(tmp_path, monkeypatch, way, arithmetic) -> None:
    folder = save(tmp_path, "llama")
    attend = modeling_llama.LlamaAttention.forward

    def both_ways(self, *args, attention_mask=None, **kwargs):
        self.is_causal = False
        return attend(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", both_ways)
    with pytest.raises(CheckpointError, match="reads later tokens"):
        getattr(prober(spec(arithmetic)), way)(folder, None)


def on_cpu(probe: ProbeSpec, folder: Path) -> Measurement:
    return Prober(ProbeSpec(probe.variants, SHAPE, "", VOCAB - 4), TOKENS).measure(folder)


def assert_near(found: Measurement, exact: Measurement) -> None:
    for ours, theirs in zip(found.results, exact.results, strict=True):
        assert ours.nll_nats == pytest.approx(theirs.nll_nats, abs=2e-6)


@WAYS
@ARITHMETICS
def test_a_head_that_is_stored_beside_a_tied_embedding_is_used_and_noted(tmp_path, way, arithmetic) -> None:
    save(tmp_path, "qwen2", tie_word_embeddings=True, num_hidden_layers=1)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    file = tmp_path / content["weight_map"]["model.embed_tokens.weight"]
    tensors = safetensors.torch.load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    content["weight_map"]["lm_head.weight"] = file.name
    index.write_text(json.dumps(content))
    probe = spec(arithmetic)
    found = getattr(prober(probe), way)(tmp_path)
    exact = on_cpu(probe, tmp_path)
    assert exact.notes == (OTHER_HEAD,)
    assert found.notes == ((OTHER_HEAD,) if way == "measure" else (OTHER_HEAD, NOTE))
    assert_near(found, exact)


@ARITHMETICS
def test_what_transformers_changes_while_it_loads_is_seen(tmp_path, monkeypatch, arithmetic) -> None:
    folder, tie = save(tmp_path, "llama", num_hidden_layers=1), LlamaForCausalLM.tie_weights

    def without_padding(self, *args, **kwargs) -> None:
        tie(self, *args, **kwargs)
        if self.model.embed_tokens.weight.device.type != "meta":
            self.model.embed_tokens.weight.data[int(TOKENS[0, 0, 1])].zero_()

    probe = spec(arithmetic)
    as_stored = on_cpu(probe, folder)
    monkeypatch.setattr(LlamaForCausalLM, "tie_weights", without_padding)
    found, exact = prober(probe).measure(folder), on_cpu(probe, folder)
    assert abs(exact.results[0].nll_nats - as_stored.results[0].nll_nats) > 1e-4
    assert_near(found, exact)
    assert any("converted by transformers" in note for note in found.notes)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight are not as they are stored"):
        prober(probe).measure_layers(folder, None)


@gpu
@WAYS
@pytest.mark.parametrize("architecture", ["apertus", "gemma4_unified_text"])
def test_numbers_of_no_dimension_and_buffers_are_filled(tmp_path, way, architecture) -> None:
    settings = {**SMALL, "pad_token_id": 0, "head_dim": 8, "global_head_dim": 8}
    config = AutoConfig.for_model(architecture, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for tensor in model.state_dict().values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    model.half().save_pretrained(tmp_path, max_shard_size="1KB")
    probe = spec("split")
    found = getattr(prober(probe), way)(tmp_path)
    assert_near(found, on_cpu(probe, tmp_path))


class Rounded(torch.nn.Linear):
    """Rounds its input, as layers do that quantize their activations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((x * 16).round() / 16)


@ARITHMETICS
@WAYS
def test_a_linear_layer_with_a_forward_of_its_own_is_refused(tmp_path, monkeypatch, way, arithmetic) -> None:
    folder, make = save(tmp_path, "llama"), modeling_llama.LlamaMLP.__init__

    def with_rounded(self, config) -> None:
        make(self, config)
        self.up_proj = Rounded(config.hidden_size, config.intermediate_size, bias=False)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "__init__", with_rounded)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj \(Rounded\), .* computes more"):
        getattr(prober(spec(arithmetic)), way)(folder, None)


@ARITHMETICS
@WAYS
def test_code_that_computes_with_a_weight_by_itself_is_refused(
    tmp_path, monkeypatch, way, arithmetic
) -> None:
    folder, forward = save(tmp_path, "llama"), modeling_llama.LlamaMLP.forward

    def computes(self, x):
        assert x.dtype == self.up_proj.weight.dtype
        return forward(self, x @ self.up_proj.weight.T)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", computes)
    with pytest.raises(CheckpointError, match="reads the weights of a linear layer by itself"):
        getattr(prober(spec(arithmetic)), way)(folder, None)


@gpu
@ARITHMETICS
@WAYS
def test_a_model_that_draws_random_numbers_is_refused(tmp_path, monkeypatch, way, arithmetic) -> None:
    folder, forward = save(tmp_path, "llama"), modeling_llama.LlamaMLP.forward
    monkeypatch.setattr(
        modeling_llama.LlamaMLP,
        "forward",
        lambda self, x: forward(self, x * (1 + 0.1 * torch.rand(1, device=x.device))),
    )
    with pytest.raises(CheckpointError, match="draws random numbers"):
        getattr(prober(spec(arithmetic)), way)(folder, None)
