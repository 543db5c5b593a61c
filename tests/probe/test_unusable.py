"""Checkpoints that cannot be measured, each with its reason; nothing of them is ever run or guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.base.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.quantize import Calibration, Encoded, Quantizer
from pipeline.spec import ProbeSpec, TokenShape, Variant, parse_variants
from tests.models import save_tiny_model

SHAPE = TokenShape(2, 1, 16)
PROBER = Prober(ProbeSpec(parse_variants(("int4",)), SHAPE, "x"), np.ones((2, 1, 16), dtype=np.int64))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 80', '"intermediate_size": 96'))


def missing_tensor(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def extra_layer(folder: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.2.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].clone()

    rewrite(folder, add)


def infinity(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"][3, 4] = torch.inf

    rewrite(folder, spoil)


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("open('boom', 'w')")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


class Bomb:
    """Writes a file when it is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, ("boom", "w"))


def pickle_with_code(folder: Path) -> None:
    no_weights(folder)
    torch.save({"x": Bomb()}, folder / "pytorch_model.bin")


def missing_part(folder: Path) -> None:
    no_weights(folder)
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (other_shape, "of another shape than config.json says: .*up_proj|of another shape"),
        (missing_tensor, r"1 tensor is missing: model\.layers\.1\.mlp\.up_proj\.weight"),
        (extra_layer, "unknown to config.json's model: model.layers.2"),
        (infinity, r"tensor lm_head\.weight holds 0 NaN and 1 Inf"),
        (truncated, r"model\.safetensors is truncated"),
        (no_config, r"no config\.json"),
        (broken_config, r"config\.json"),
        (remote_code, r"config\.json"),
        (no_weights, "no weights"),
        (pickle_with_code, "weights_only=True"),
        (missing_part, r"lacks weight shards model-00002-of-00002\.safetensors"),
    ],
)
def test_an_unusable_checkpoint_is_refused_with_its_reason(
    harm: Callable[[Path], None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_tiny_model("llama", tmp_path / "step10")
    harm(folder)
    with pytest.raises(CheckpointError) as caught:
        PROBER.measure(folder)
    assert re.search(reason, str(caught.value)), str(caught.value)
    assert not Path("boom").exists(), "code of a checkpoint was run"


def test_weights_that_do_not_hash_to_what_the_suite_says_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path)
    with pytest.raises(CheckpointError, match="the suite states 000000000000"):
        PROBER.measure(folder, "0" * 64)


def test_state_space_weights_are_refused_rather_than_left_unquantized(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, MambaConfig

    config = MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=1, vocab_size=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="weights outside linear layers"):
        PROBER.measure(tmp_path)


def test_bin_weights_measure_like_safetensors(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path)
    expected = PROBER.measure(folder)
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    no_weights(folder)
    assert PROBER.measure(folder).results == expected.results


def test_sharded_weights_measure_like_one_file(tmp_path: Path) -> None:
    from tests.models import tiny_model

    model = tiny_model("llama").half()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    expected, parts = PROBER.measure(tmp_path / "whole"), PROBER.measure(tmp_path / "parts")
    assert parts.results == expected.results
    assert parts.weights_sha256 != expected.weights_sha256


def test_weights_beyond_the_range_of_a_float32_grid_are_refused(tmp_path: Path) -> None:
    from tests.models import tiny_model

    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj.weight.data[0, :2] = torch.tensor([3e38, -3e38])
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"mlp\.up_proj cannot be quantized to int4-g128-asym"):
        PROBER.measure(tmp_path)


@dataclass(frozen=True)
class Overwriting(Quantizer):
    """Rounds the matrix that it is given, instead of a copy, in ``encode`` or in ``decode``."""

    name = "overwriting"
    early: bool

    def __str__(self) -> str:
        return self.name

    def encode(self, weight: torch.Tensor, calibration: Calibration | None = None) -> Encoded:
        return Encoded(weight.mul_(64).round_() if self.early else weight, {})

    def decode(self, encoded: Encoded) -> torch.Tensor:
        return encoded.codes / 64 if self.early else encoded.codes.round_()


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_quantizer_that_works_in_place_is_refused(tmp_path: Path, early: bool, dtype: torch.dtype) -> None:
    folder = save_tiny_model("llama", tmp_path, dtype=dtype)
    variants = (Variant(), Variant.of(Overwriting(early)), Variant.parse("int4"))
    prober = Prober(ProbeSpec(variants, SHAPE, "x"), np.ones((2, 1, 16), dtype=np.int64))
    with pytest.raises(CheckpointError, match=r"q_proj were changed in place .*overwriting, int4-g128-asym"):
        prober.measure(folder)


def test_a_smaller_vocabulary_or_context_than_the_tokens_need_is_named(tmp_path: Path) -> None:
    small = save_tiny_model("llama", tmp_path / "a", vocab_size=8)
    tokens = np.full((2, 1, 16), 9)
    with pytest.raises(CheckpointError, match="8 ids, the evaluation tokens reach 9"):
        Prober(PROBER.spec, tokens).measure(small)
    short = save_tiny_model("gpt2", tmp_path / "b", n_positions=8)
    with pytest.raises(CheckpointError, match="takes 8 tokens"):
        PROBER.measure(short)


def test_blocks_spread_over_several_lists_are_refused(tmp_path: Path) -> None:
    from transformers import XLMConfig, XLMWithLMHeadModel

    from pipeline.models.linear_layers import linear_sites

    model = XLMWithLMHeadModel(XLMConfig(vocab_size=64, emb_dim=32, n_layers=2, n_heads=2))
    with pytest.raises(CheckpointError, match="not supported"):
        linear_sites(model)


def test_integers_are_not_taken_as_the_values_of_weights(tmp_path: Path) -> None:
    def to_integers(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            tensors[name] = (tensors[name].float() * 1000).to(torch.int8)

    folder = save_tiny_model("llama", tmp_path)
    rewrite(folder, to_integers)
    for measure in (PROBER.measure, PROBER.layer_by_layer.measure):
        with pytest.raises(
            CheckpointError, match=r"14 weights are stored as int8: model\.layers\.0\.mlp\.down_proj\.weight"
        ):
            measure(folder)


def test_weights_of_eight_bits_are_refused_by_their_dtype(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    folder = save_tiny_model("llama", tmp_path)
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.float8_e4m3fn)}))
    for measure in (PROBER.measure, PROBER.layer_by_layer.measure):
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is stored as float8_e4m3fn: wanted"):
            measure(folder)


def test_masks_that_are_stored_as_integers_are_no_weights(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt2", tmp_path)
    expected = PROBER.measure(folder)
    mask = torch.ones(1, 1, 64, 64, dtype=torch.uint8).tril()
    rewrite(folder, lambda tensors: tensors.update({"transformer.h.0.attn.bias": mask}))
    for measure in (PROBER.measure, PROBER.layer_by_layer.measure):
        assert measure(folder).results == expected.results


def with_leftovers(folder: Path) -> int:
    """Adds to the shards of the checkpoint in ``folder`` other copies of tensors that their index assigns elsewhere."""
    file_of = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    added = 0
    for file in sorted(set(file_of.values())):
        tensors = safetensors.torch.load_file(folder / file)
        others = {name: torch.ones(3) for name in file_of if name not in tensors}
        added += len(others)
        safetensors.torch.save_file({**tensors, **others}, folder / file, metadata={"format": "pt"})
    return added


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_tensors_that_the_index_does_not_assign_to_a_shard_are_no_part_of_the_checkpoint(
    tmp_path: Path, form: str
) -> None:
    from tests.models import tiny_model

    model = tiny_model("llama").half()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    expected = PROBER.measure(tmp_path)
    assert with_leftovers(tmp_path) > 20
    if form == "bin":
        for file in list(tmp_path.glob("*.safetensors")):
            torch.save(safetensors.torch.load_file(file), tmp_path / file.name.replace("safetensors", "bin"))
            file.unlink()
        index = tmp_path / "model.safetensors.index.json"
        (tmp_path / "pytorch_model.bin.index.json").write_text(
            index.read_text().replace(".safetensors", ".bin")
        )
        index.unlink()
    for measure in (PROBER.measure, PROBER.layer_by_layer.measure):
        assert measure(tmp_path).results == expected.results


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    from tests.models import tiny_model

    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first, *_, last = sorted(set(content["weight_map"].values()))
    name = next(name for name, file in content["weight_map"].items() if file == last)
    content["weight_map"][name] = first
    index.write_text(json.dumps(content))
    for measure in (PROBER.measure, PROBER.layer_by_layer.measure):
        with pytest.raises(CheckpointError, match=rf"{re.escape(first)} lacks {re.escape(name)}"):
            measure(tmp_path)
