"""Layer by layer against the whole model, on the CPU."""

from __future__ import annotations

import bisect
import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.base.errors import CheckpointError, InsufficientMemoryError
from pipeline.models.memory import cpu_logit_bytes
from pipeline.probe import Prober, fit
from pipeline.probe.backend import TorchBackend
from pipeline.probe.prober import NOTE
from pipeline.probe.reading import Reader
from pipeline.runs.folder import RunFolder
from pipeline.runs.task_values import ProbeTask
from pipeline.runs.tasks import run_probe
from pipeline.spec import Checkpoint, ProbeSpec, TokenShape, parse_variants
from tests.models import ARCHITECTURES, VOCAB, save_tiny_model, tiny_model

SHAPE = TokenShape(3, 2, 24)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (3, 2, 24))
SPEC = ProbeSpec(
    parse_variants(("int8", "int4-g16-asym", "int4-g16-sym+head")),
    SHAPE,
    tokens_sha256="0" * 64,
    vocab_rows=300,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 3])
def test_streamed_numbers_are_equal_bit_for_bit(tmp_path, monkeypatch, architecture, layers):
    name = "n_layer" if architecture == "gpt2" else "num_hidden_layers"
    save_tiny_model(architecture, tmp_path, seed=3, **{name: layers})
    monkeypatch.setattr("pipeline.probe.backend.CPU_CHUNK_ROWS", 4 * 24 * 4)  # chunks of 4 and of 2 sequences
    whole = Prober(SPEC, TOKENS).measure(tmp_path)
    streamed = Prober(SPEC, TOKENS).layer_by_layer.measure(tmp_path, whole.weights_sha256)
    assert streamed.results == whole.results
    assert streamed.weights_sha256 == whole.weights_sha256
    assert streamed.notes == (NOTE,)


@pytest.mark.parametrize("form", ["sharded safetensors", "bin", "sharded bin"])
def test_every_form_of_weight_files_is_streamed(tmp_path, form):
    model = tiny_model("llama", 1).half()
    size = "60KB" if "sharded" in form else "1GB"
    model.save_pretrained(tmp_path, max_shard_size=size)
    if "bin" in form:
        to_bin(tmp_path)
    assert len(list(tmp_path.glob("*.index.json"))) == ("sharded" in form)
    assert (
        Prober(SPEC, TOKENS).layer_by_layer.measure(tmp_path).results
        == Prober(SPEC, TOKENS).measure(tmp_path).results
    )


def to_bin(folder):
    for file in list(folder.glob("*.safetensors")):
        name = file.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        torch.save(safetensors.torch.load_file(file), folder / name)
        file.unlink()
    for index in list(folder.glob("*.index.json")):
        text = index.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()


def test_the_old_names_of_a_published_checkpoint_are_found(tmp_path):
    save_tiny_model("gpt_neox", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    renamed = {name.replace("lm_head", "embed_out"): tensor for name, tensor in tensors.items()}
    assert "embed_out.weight" in renamed
    safetensors.torch.save_file(renamed, file, metadata={"format": "pt"})
    assert (
        Prober(SPEC, TOKENS).layer_by_layer.measure(tmp_path).results
        == Prober(SPEC, TOKENS).measure(tmp_path).results
    )


def spoil(folder, change):
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def test_unusable_checkpoints_have_the_reasons_of_the_whole_model_path(tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    for case, change, reason in (
        ("nan", lambda tensors: tensors[name].fill_(torch.nan), f"tensor {name} holds 2560 NaN"),
        ("missing", lambda tensors: tensors.pop(name), f"1 tensor is missing: {name}"),
        ("shape", lambda tensors: tensors.update({name: torch.zeros(3, 3)}), "of another shape"),
    ):
        folder = save_tiny_model("llama", tmp_path / case)
        spoil(folder, change)
        with pytest.raises(CheckpointError, match=reason):
            Prober(SPEC, TOKENS).layer_by_layer.measure(folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        Prober(SPEC, TOKENS).layer_by_layer.measure(folder)
    with pytest.raises(CheckpointError, match="hash to"):
        Prober(SPEC, TOKENS).layer_by_layer.measure(save_tiny_model("llama", tmp_path / "hash"), "0" * 64)


def test_a_model_that_works_between_its_layers_is_refused(tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaModel

    save_tiny_model("llama", tmp_path)

    def forward(self, input_ids=None, **_):
        hidden = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden = layer(hidden * 2.0)
        return hidden

    monkeypatch.setattr(LlamaModel, "forward", forward)
    with pytest.raises(CheckpointError, match=r"cannot be walked layer by layer.*run without --stream"):
        Prober(SPEC, TOKENS).layer_by_layer.measure(tmp_path)


HOST = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
DEVICE = "CUDA out of memory. Tried to allocate 96.00 MiB."


@pytest.mark.parametrize(
    ("owner", "place", "error", "reason"),
    [
        (Reader, "read_some", RuntimeError(HOST), "the weights of layer 1 "),
        (
            TorchBackend,
            "_pack",
            torch.OutOfMemoryError(DEVICE),
            r"all variants of model\.layers\.1\.self_attn",
        ),
    ],
)
def test_weights_that_find_no_room_are_named(tmp_path, monkeypatch, owner, place, error, reason):
    save_tiny_model("llama", tmp_path)
    original = getattr(owner, place)

    def short_of_memory(*arguments):
        if "layers.1." in str(arguments[1].name if owner is TorchBackend else list(arguments[2])):
            raise error
        return original(*arguments)

    monkeypatch.setattr(owner, place, short_of_memory)
    with pytest.raises(InsufficientMemoryError, match=rf"no memory is left for {reason}.*fewer workers"):
        Prober(SPEC, TOKENS).layer_by_layer.measure(tmp_path)


def test_what_does_not_fit_whole_is_streamed(tmp_path, monkeypatch):
    folder = save_tiny_model("llama", tmp_path)
    elements = sum(tensor.numel() for tensor in tiny_model("llama").state_dict().values())
    needed = 4 * elements * 5 + fit.SPARE_BYTES + cpu_logit_bytes(VOCAB, 4, SHAPE)
    for spare, fits in ((1, True), (-1000, False)):
        monkeypatch.setattr(fit, "free_bytes", lambda _, spare=spare: needed / fit.USABLE_SHARE + spare)
        assert fit.fits_whole(folder, SPEC, torch.device("cpu")) is fits


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_calibrating_takes_counts_too(tmp_path, monkeypatch, device):
    folder = save_tiny_model("llama", tmp_path)
    monkeypatch.setattr(fit, "free_bytes", lambda _: 2**34)
    calibrated = dataclasses.replace(SPEC, variants=parse_variants(["fp32", "int4-g32-asym@gptq"]))
    for spec, tokens, fits in ((SPEC, 10**8, True), (calibrated, 10**4, True), (calibrated, 10**8, False)):
        assert fit.fits_whole(folder, spec, torch.device(device), tokens) is fits


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_other_checkpoint_of_a_swap_counts_too(tmp_path, monkeypatch, device):
    folder = save_tiny_model("llama", tmp_path)
    swapping = dataclasses.replace(SPEC, swap=(1, 2))

    def least(spec):
        def fits(free):
            monkeypatch.setattr(fit, "free_bytes", lambda _: free)
            return fit.fits_whole(folder, spec, torch.device(device))

        return bisect.bisect_left(range(2**34), True, key=fits)

    stored = (folder / "model.safetensors").stat().st_size
    assert least(swapping) - least(SPEC) == pytest.approx(stored / (0.9 if device == "cpu" else 1), abs=2)


@pytest.mark.parametrize("arithmetic", ["split", "ieee"])
def test_what_finds_too_little_of_a_gpu_free_is_streamed_too(tmp_path, monkeypatch, arithmetic):
    folder, spec = save_tiny_model("llama", tmp_path), dataclasses.replace(SPEC, arithmetic=arithmetic)
    for free, fits in ((2**34, True), (2**20, False)):
        monkeypatch.setattr(fit, "free_bytes", lambda _, free=free: free)
        assert fit.fits_whole(folder, spec, torch.device("cuda")) is fits


def test_a_pickle_counts_a_tensor_of_two_names_twice(tmp_path, monkeypatch):
    weights = tiny_model("llama").state_dict()
    needed = []
    for name, head in (
        ("shared", weights["model.embed_tokens.weight"]),
        ("apart", weights["lm_head.weight"]),
    ):
        folder = save_tiny_model("llama", tmp_path / name)
        (folder / "model.safetensors").unlink()
        torch.save({**weights, "lm_head.weight": head}, folder / "pytorch_model.bin")

        def fits(free, folder=folder):
            monkeypatch.setattr(fit, "free_bytes", lambda _: free)
            return fit.fits_whole(folder, SPEC, torch.device("cuda"))

        needed.append(bisect.bisect_left(range(2**34), True, key=fits))
    sizes = [(tmp_path / name / "pytorch_model.bin").stat().st_size for name in ("shared", "apart")]
    assert sizes[0] < sizes[1]
    assert needed[0] == needed[1] > sizes[1]


@pytest.mark.parametrize("asked", [True, False])
def test_a_task_is_streamed_where_that_is_asked_for_or_needed(tmp_path, monkeypatch, asked):
    folder, out = save_tiny_model("llama", tmp_path / "a"), RunFolder(str(tmp_path / "out"))
    out.prepare()
    out.tokens.write(TOKENS)
    task = ProbeTask("suite", Checkpoint(1, "a", str(folder)), SPEC, str(tmp_path / "out"), stream=asked)
    monkeypatch.setattr(fit, "free_bytes", lambda _: 0)
    assert run_probe(task).notes == (NOTE,)
    numbers = [row["nll_nats"] for row in out.shards.read(task.key).table.to_pylist()]
    assert numbers == [result.nll_nats for result in Prober(SPEC, TOKENS).measure(folder).results]
