"""What a checkpoint is that cannot be measured is said before any work, with what to do about it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.suites import load_tokenizer, open_suite, weight_files
from pipeline.suites.unmeasurable import refuse_unmeasurable
from tests.models import save_tiny_suite

FORMS = {
    "an adapter": ["adapter_config.json", "adapter_model.safetensors"],
    "a distributed checkpoint": ["pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata"],
    "a DeepSpeed checkpoint": [
        "zero_to_fp32.py",
        "global_step9/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "global_step9/mp_rank_00_model_states.pt",
    ],
    "a GPT-NeoX checkpoint": ["layer_00-model_00-model_states.pt", "mp_rank_00_model_states.pt"],
    "a Megatron checkpoint": ["mp_rank_00/model_optim_rng.pt"],
    "a TensorFlow checkpoint": ["config.json", "tf_model.h5"],
    "a Flax checkpoint": ["config.json", "flax_model.msgpack"],
    "a GGUF file": ["model-q4_0.gguf"],
    "shards of weights": [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ],
    "weights in the sub-folder hf": ["hf/config.json", "hf/model.safetensors", "optimizer.pt"],
    "a cache of the hub client": [f"models--org--name/snapshots/{'c' * 40}/model.safetensors"],
    "holds model.ema.safetensors": [
        "config.json",
        "model.ema.safetensors",
        "optimizer.pt",
        "rng_state_0.pth",
    ],
    "its maker's own layout": ["params.json", "consolidated.00.pth"],
}


def options(suite: Path) -> AuditOptions:
    np.save(suite.parent / "ids.npy", np.arange(500) % 90)
    corpus = f"tokens:{suite.parent / 'ids.npy'}"
    return AuditOptions(
        str(suite), str(suite.parent / "out"), corpus=corpus, batches=2, batch_size=2, seq_len=16
    )


@pytest.mark.parametrize("what", FORMS)
def test_a_checkpoint_of_another_form_is_named(what: str, tmp_path: Path) -> None:
    for name in FORMS[what]:
        path = tmp_path / "run" / "step1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=rf"step1 holds no weights: it .*{what}"):
        weight_files(tmp_path / "run" / "step1")
    with pytest.raises(UsageError, match=rf"no checkpoint of run can be measured: step1: .*{what}"):
        build_request(options(tmp_path / "run"))


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "gptq, 4 bits"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "bitsandbytes, 4 bits",
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            "bitsandbytes, 8 bits",
        ),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq, 4 bits"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack"}},
            "compressed-tensors",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"text_config": {"quantization_config": {"quant_method": "mxfp4"}}}, "mxfp4"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization, 4 bits"),
    ],
)
def test_a_checkpoint_that_is_quantized_already_is_named(quantization, said, tmp_path: Path) -> None:
    suite = save_tiny_suite("llama", tmp_path / "run", ["step1", "step2"])
    for step in ("step1", "step2"):
        config = suite / step / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | quantization))
    with pytest.raises(UsageError, match=rf"step1 \(and 1 more like it\): .*already quantized \({said}\)"):
        build_request(options(suite))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_under_a_wrappers_prefix_are_named(prefix: str, file: str, tmp_path: Path) -> None:
    suite = save_tiny_suite("llama", tmp_path / "run", ["step1"])
    (suite / "step1" / "model.safetensors").unlink()
    tensors = {
        f"{prefix}model.embed_tokens.weight": torch.zeros(2, 2),
        f"{prefix}model.norm.weight": torch.ones(2),
    }
    if file.endswith("bin"):
        torch.save(tensors, suite / "step1" / file)
    else:
        save_file(tensors, suite / "step1" / file, {"format": "pt"})
    with pytest.raises(UsageError, match=f"begin with '{prefix}'.*take the prefix off"):
        build_request(options(suite))


def test_one_such_checkpoint_among_others_is_a_warning(tmp_path: Path) -> None:
    suite = save_tiny_suite("llama", tmp_path / "run", ["step1", "step2"])
    (suite / "step2" / "model.safetensors").rename(suite / "step2" / "adapter_model.safetensors")
    (suite / "step3").mkdir()
    (warning,) = build_request(options(suite)).warnings
    assert warning.startswith("step2 cannot be measured: ")
    assert "is an adapter" in warning


def test_ordinary_and_incomplete_checkpoints_pass(tmp_path: Path) -> None:
    suite = save_tiny_suite("llama", tmp_path / "run", ["step1"])
    assert refuse_unmeasurable(open_suite(str(suite))) == {}
    (suite / "step1" / "model.safetensors").write_bytes(b"damaged")
    assert refuse_unmeasurable(open_suite(str(suite))) == {}
    (suite / "step1" / "model.safetensors").unlink()
    assert refuse_unmeasurable(open_suite(str(suite))) == {}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_a_pipe_or_a_device_in_a_files_place_is_not_waited_for(name: str, tmp_path: Path) -> None:
    suite = save_tiny_suite("llama", tmp_path / "run", ["step1", "step2"])
    for step, make in (("step1", os.mkfifo), ("step2", lambda path: path.symlink_to("/dev/zero"))):
        (suite / step / "model.safetensors").unlink()
        (suite / step / name).unlink(missing_ok=True)
        make(suite / step / name)
        found = open_suite(str(suite), step)
        assert [each.content_id for each in found.checkpoints] == [""]
        with pytest.raises(CheckpointError, match="holds no"):
            weight_files(suite / step)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("kind", ["a named pipe", "a device", "more than"])
def test_a_tokenizer_is_read_from_regular_files_only(name: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "step1"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    (folder / name).unlink(missing_ok=True)
    if kind == "a named pipe":
        os.mkfifo(folder / name)
    elif kind == "a device":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).touch()
        os.truncate(folder / name, 2**36)
    with pytest.raises(UsageError, match=f"tokenizer of suite run .* cannot be read: .*{kind}"):
        load_tokenizer(open_suite(str(tmp_path / "run")))


def test_a_cache_of_the_hub_client_as_a_folder_says_what_to_type(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--org--a-run"
    (cached / "snapshots" / ("a" * 40)).mkdir(parents=True)
    for folder in (cached, tmp_path / "hub"):
        with pytest.raises(
            UsageError, match=f"give org/a-run as the suite, with HF_HUB_CACHE={tmp_path / 'hub'} and"
        ):
            open_suite(str(folder))
