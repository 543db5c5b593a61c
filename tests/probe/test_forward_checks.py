"""Models whose numbers would mean nothing are refused by what they do, whatever their architecture is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from pipeline.base.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import save_tiny_model, tiny_model

VOCAB, LENGTH = 64, 16
SHAPE = TokenShape(2, 1, LENGTH)
SPEC = ProbeSpec(parse_variants(("int4-g8-asym",)), SHAPE, "x")
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 1, LENGTH))
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "embedding_size": 16,
    "max_position_embeddings": 64,
}
READS = "reads later tokens"
DRAWS = "draws random numbers"


def save(folder: Path, architecture: str, wanted: Any = AutoModelForCausalLM, **settings: Any) -> Path:
    config = AutoConfig.for_model(architecture, **{**SMALL, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wanted.from_config(config).save_pretrained(folder)
    return folder


def ways(prober: Prober) -> list[Any]:
    return [prober.measure, prober.layer_by_layer.measure]


@pytest.mark.parametrize("architecture", ["roberta", "electra"])
def test_a_masked_language_model_is_refused(tmp_path: Path, architecture: str) -> None:
    folder = save(tmp_path, architecture, AutoModelForMaskedLM)
    with pytest.raises(CheckpointError, match=READS):
        Prober(SPEC, TOKENS).measure(folder)


def test_what_is_refused_is_what_reads_later_tokens_and_not_an_architecture(tmp_path: Path) -> None:
    decoder = save(tmp_path / "decoder", "roberta", is_decoder=True)
    encoder = save(tmp_path / "encoder", "roberta")
    prober = Prober(SPEC, TOKENS)
    assert prober.measure(decoder).results[0].nll_nats > 0
    with pytest.raises(CheckpointError, match=READS):
        prober.measure(encoder)


PREFIX = {"num_hidden_layers": 1, "dim_head": 8, "dim_ff": 32}
HASHING = {
    "is_decoder": True,
    "feed_forward_size": 32,
    "attention_head_size": 8,
    "axial_pos_shape": [8, 8],
    "axial_pos_embds_dim": [8, 8],
    "attn_layers": ["lsh", "local"],
    "lsh_attn_chunk_length": 4,
    "local_attn_chunk_length": 4,
    "num_buckets": 4,
}


@pytest.mark.parametrize(
    ("architecture", "settings", "reason"),
    [("cpmant", PREFIX, READS), ("reformer", HASHING, DRAWS)],
    ids=["a prefix model", "hashing attention"],
)
def test_other_kinds_are_refused_by_the_same_test(
    tmp_path: Path, architecture: str, settings: dict[str, Any], reason: str
) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**SMALL, **settings}))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        Prober(SPEC, TOKENS).measure(tmp_path)


def test_layer_by_layer_refuses_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    folder = save_tiny_model("llama", tmp_path, vocab_size=VOCAB)
    attend = modeling_llama.LlamaAttention.forward

    def both_ways(self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        self.is_causal = False
        return attend(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", both_ways)
    for measure in ways(Prober(SPEC, TOKENS)):
        with pytest.raises(CheckpointError, match=READS):
            measure(folder)


def test_a_model_that_is_random_when_it_is_evaluated_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama import modeling_llama

    folder = save_tiny_model("llama", tmp_path, vocab_size=VOCAB)
    forward = modeling_llama.LlamaMLP.forward
    monkeypatch.setattr(
        modeling_llama.LlamaMLP, "forward", lambda self, x: forward(self, x * (1 + 0.1 * torch.rand(1)))
    )
    for measure in ways(Prober(SPEC, TOKENS)):
        with pytest.raises(CheckpointError, match=DRAWS):
            measure(folder)


def test_weights_by_which_no_token_reads_another_decide_nothing(tmp_path: Path) -> None:
    for name, zeroed in (("step0", True), ("step1", False)):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("roberta", **SMALL))
        for path, weight in model.named_parameters():
            if zeroed and "attention.output.dense" in path:
                weight.data.zero_()
        model.save_pretrained(tmp_path / name)
    prober = Prober(SPEC, TOKENS)
    prober.measure(tmp_path / "step0")
    with pytest.raises(CheckpointError, match=READS):
        prober.measure(tmp_path / "step1")


def test_a_diverged_checkpoint_is_measured_all_the_same(tmp_path: Path) -> None:
    model = tiny_model("llama", vocab_size=VOCAB)
    model.model.norm.weight.data.fill_(3e38)
    model.save_pretrained(tmp_path)
    for measure in ways(Prober(SPEC, TOKENS)):
        assert np.isnan(measure(tmp_path).results[0].nll_nats)
