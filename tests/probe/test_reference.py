"""The probe against a reference that shares nothing with it: plain models in float64, grids by plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.base.errors import CheckpointError
from pipeline.probe import Measurement, Prober
from pipeline.quantize import Rule
from pipeline.quantize.integer import IntegerGrid
from pipeline.spec import ProbeSpec, TokenShape, Variant, parse_variants
from tests.models import ARCHITECTURES, VOCAB, save_tiny_model

SHAPE = TokenShape(batches=3, batch_size=2, seq_len=24)
INT4, INT3 = IntegerGrid(4, 128, False), IntegerGrid(3, 32, True)
VARIANTS = parse_variants(("int8", "int4", "int3-g32-sym+head"))


def random_tokens(shape: TokenShape = SHAPE) -> np.ndarray:
    size = (shape.batches, shape.batch_size, shape.seq_len)
    return np.random.default_rng(5).integers(0, VOCAB, size)


def probe(folder: Path, tokens: np.ndarray, shape: TokenShape = SHAPE, **settings: Any) -> Measurement:
    return Prober(ProbeSpec(VARIANTS, shape, "x", **settings), tokens).measure(folder)


def grid_by_loops(weight: np.ndarray, variant: Variant) -> np.ndarray:
    """The definition, row by row and group by group, in numpy scalars."""
    scheme = variant.rules[0].quantizer
    assert isinstance(scheme, IntegerGrid)
    out = np.zeros_like(weight)
    size = scheme.group_size or weight.shape[1]
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], size):
            group = weight[row, start : start + size]
            if scheme.symmetric:
                top = 2 ** (scheme.bits - 1) - 1
                scale = np.float32(np.abs(group).max()) / np.float32(top)
                q = np.clip(np.rint(group / scale), -top, top)
                out[row, start : start + size] = q.astype(np.float32) * scale
            else:
                top = 2**scheme.bits - 1
                low, high = min(np.float32(0), group.min()), max(np.float32(0), group.max())
                scale = np.float32(high - low) / np.float32(top)
                zero = np.rint(-low / scale)
                q = np.clip(np.rint(group / scale) + zero, 0, top)
                out[row, start : start + size] = (q - zero).astype(np.float32) * scale
    return out


def block_weights(model: Any, architecture: str) -> list[torch.nn.Parameter]:
    """Linear weights of the blocks, by the names that each architecture gives them."""
    names = ("attention", "attn", "self_attn", "mlp")
    return [
        parameter
        for name, parameter in model.named_parameters()
        if name.endswith(".weight")
        and parameter.dim() == 2
        and any(part in names for part in name.split("."))
    ]


def reference_nll(folder: Path, architecture: str, variant: Variant, tokens: np.ndarray) -> list[float]:
    """Mean nll per batch of the float64 model with its weights quantized in place."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if not variant.is_fp32:
        weights = block_weights(model, architecture)
        if variant.head:
            head = torch.nn.Parameter(model.get_output_embeddings().weight.detach().clone())
            model.get_output_embeddings().weight = head  # unties it
            weights = [*weights, head]
        for weight in weights:
            transposed = architecture == "gpt2" and weight.shape != (VOCAB, 32)
            matrix = weight.detach().numpy().T if transposed else weight.detach().numpy()
            quantized = grid_by_loops(np.ascontiguousarray(matrix), variant)
            weight.data = torch.from_numpy(quantized.T.copy() if transposed else quantized)
    model = model.double().eval()
    losses = []
    for batch in torch.from_numpy(tokens):
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=batch).logits[:, :-1], dim=-1)
        picked = [
            log_p[i, j, batch[i, j + 1]].item()
            for i in range(batch.shape[0])
            for j in range(batch.shape[1] - 1)
        ]
        losses.append(-math.fsum(picked) / len(picked))
    return losses


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_agree_with_a_float64_reference(architecture: str, tmp_path: Path) -> None:
    # Weights five times the usual, so that predictions are far from uniform and quantization matters.
    folder = save_tiny_model(architecture, tmp_path, initializer_range=0.1)
    tokens = random_tokens()
    measured = probe(folder, tokens)
    assert [result.variant for result in measured.results] == [str(variant) for variant in VARIANTS]
    for variant, result in zip(VARIANTS, measured.results, strict=True):
        expected = reference_nll(folder, architecture, variant, tokens)
        assert result.nll_nats == pytest.approx(np.mean(expected), abs=2e-6)
        assert result.batch_nll_nats == pytest.approx(expected, abs=2e-6)
        assert result.perplexity == math.exp(result.nll_nats)
        assert result.n_tokens == 3 * 2 * 23


def test_a_variant_of_rules_quantizes_each_layer_by_its_own(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path, initializer_range=0.1)
    one = Variant((Rule("layers.1.*", INT4),))
    mixed = Variant((Rule("layers.1.mlp.*", INT3), Rule("layers.0.attention.dense", None), Rule("*", INT4)))
    tokens = random_tokens()
    measured = Prober(ProbeSpec((Variant(), one, mixed), SHAPE, "x"), tokens).measure(folder)
    for variant, result in zip((one, mixed), measured.results[1:], strict=True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        chosen = []
        for name, weight in model.named_parameters():
            inside = {id(each) for each in block_weights(model, "gpt_neox")}
            grid = INT3 if variant is mixed and "layers.1.mlp" in name else INT4
            left = "layers.0" in name if variant is one else "layers.0.attention.dense" in name
            if id(weight) in inside and not left:
                weight.data = torch.from_numpy(grid_by_loops(weight.detach().numpy(), Variant.of(grid)))
                chosen.append(name.removesuffix(".weight"))
        model = model.double().eval()
        ids = torch.from_numpy(tokens.reshape(-1, SHAPE.seq_len))
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=ids).logits[:, :-1], dim=-1)
        expected = -log_p.gather(-1, ids[:, 1:, None]).mean().item()
        assert result.nll_nats == pytest.approx(expected, abs=2e-6)
        assert result.nll_nats != measured.results[0].nll_nats
        assert sorted(tensor.name for tensor in result.tensors) == sorted(chosen)


@pytest.mark.parametrize("way", ["whole", "layer_by_layer"])
def test_a_rule_for_no_layer_of_the_model_is_named_with_some_of_its_layers(tmp_path: Path, way: str) -> None:
    folder = save_tiny_model("llama", tmp_path)
    spec = ProbeSpec((Variant(), Variant((Rule("h.3.*", INT4),))), SHAPE, "x")
    prober = Prober(spec, random_tokens())
    measure = prober.measure if way == "whole" else prober.layer_by_layer.measure
    with pytest.raises(CheckpointError, match=r"rule h\.3\.\*=.*decides for no layer: .*model\.layers\.0\."):
        measure(folder)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2"])
def test_divergences_agree_with_their_definitions(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(architecture, tmp_path, initializer_range=0.1)
    tokens = random_tokens()
    measured = probe(folder, tokens)
    ids = torch.from_numpy(tokens.reshape(-1, SHAPE.seq_len))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    base = torch.log_softmax(model(input_ids=ids).logits[:, :-1], -1).detach()
    for weight in block_weights(model, architecture):
        transposed = architecture == "gpt2"
        matrix = (weight.detach().T if transposed else weight.detach()).float().contiguous().numpy()
        quantized = torch.from_numpy(grid_by_loops(matrix, Variant.parse("int4"))).double()
        weight.data = quantized.T.contiguous() if transposed else quantized
    other = torch.log_softmax(model(input_ids=ids).logits[:, :-1], -1).detach()
    kl = (base.exp() * (base - other)).sum(-1).flatten().numpy()
    target = ids[:, 1:].unsqueeze(-1)
    delta = (other.gather(-1, target).exp() - base.gather(-1, target).exp()).numpy()
    result = measured.results[2]
    assert result.kl_nats_mean == pytest.approx(kl.mean(), rel=1e-4)
    assert result.kl_nats_p50 == pytest.approx(np.median(kl), rel=1e-3)
    assert result.kl_nats_p99 == pytest.approx(np.quantile(kl, 0.99), rel=1e-3)
    assert result.top1_agreement == (base.argmax(-1) == other.argmax(-1)).double().mean().item()
    assert result.delta_p_rms == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-4)
    fp32 = measured.results[0]
    assert (fp32.kl_nats_mean, fp32.top1_agreement, fp32.delta_p_rms) == (0.0, 1.0, 0.0)


def test_uniform_logits_score_the_logarithm_of_the_vocabulary(tmp_path: Path) -> None:
    from tests.models import tiny_model

    model = tiny_model("gpt_neox")
    model.get_output_embeddings().weight.data.zero_()
    model.save_pretrained(tmp_path)
    for result in probe(tmp_path, random_tokens()).results:
        assert result.nll_nats == pytest.approx(math.log(VOCAB), abs=1e-6)
        assert result.kl_nats_mean == pytest.approx(0, abs=1e-9)


def test_the_number_does_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path, initializer_range=0.1)
    tokens = random_tokens()
    one = probe(folder, tokens.reshape(6, 1, 24), TokenShape(6, 1, 24))
    six = probe(folder, tokens.reshape(1, 6, 24), TokenShape(1, 6, 24))
    for a, b in zip(one.results, six.results, strict=True):
        assert a.nll_nats == pytest.approx(b.nll_nats, abs=1e-9)


def test_the_same_checkpoint_gives_the_same_bits(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path)
    first, again = probe(folder, random_tokens()), probe(folder, random_tokens())
    assert first.results == again.results


def test_a_tied_head_is_quantized_as_a_copy(tmp_path: Path) -> None:
    """With +head alone quantized, the embedding must keep its values: only the last product changes."""
    folder = save_tiny_model("qwen3", tmp_path, initializer_range=0.1)
    tokens = random_tokens()
    head = Variant.parse("int3-g32-sym+head")
    measured = probe(folder, tokens).results[3]
    assert measured.batch_nll_nats == pytest.approx(reference_nll(folder, "qwen3", head, tokens), abs=2e-6)
    assert measured.tensors[-1].name == "lm_head"
    assert [t.name for t in measured.tensors[:-1]] == [
        t.name for t in probe(folder, tokens).results[1].tensors
    ]


def test_padding_rows_of_the_vocabulary_count_in_no_statistic(tmp_path: Path) -> None:
    from tests.models import tiny_model

    model = tiny_model("gpt_neox")
    model.get_output_embeddings().weight.data[300:] = 50.0
    model.save_pretrained(tmp_path)
    whole = probe(tmp_path, random_tokens()).results[3].tensors[-1]
    real = probe(tmp_path, random_tokens(), vocab_rows=300).results[3].tensors[-1]
    assert whole.absmax == 50.0
    assert real.absmax < 1
    assert real.n == 300 * 32
