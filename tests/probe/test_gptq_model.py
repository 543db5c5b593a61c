"""A whole model by GPTQ against plain loops: losses, and the output of every matrix of weights that were trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.probe import Prober
from pipeline.spec import ProbeSpec, TokenShape, Variant
from tests.models import save_tiny_model
from tests.quantize.test_gptq import reference_codes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = TokenShape(4, 4, 64)
TEXT = np.random.default_rng(0).choice([1, 2, 5, 11], (600, 64)).cumsum(axis=1) % 64
"""What a model can learn something of: a token is one of four steps after the one before."""
TOKENS, CALIBRATION = TEXT[:16].reshape(4, 4, 64), TEXT[16:40]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint that has learned."""
    folder = save_tiny_model("gpt_neox", tmp_path_factory.mktemp("start"), initializer_range=0.05)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for ids in torch.from_numpy(TEXT[40:]).split(8):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def reference_loss(folder, *, size: int) -> float:
    """The whole model is run anew before each layer's weights are replaced, in the order in which they are called."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = torch.from_numpy(CALIBRATION)
    for layer in model.gpt_neox.layers:
        attention, mlp = layer.attention, layer.mlp
        for linear in (attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h):
            seen = []
            hook = linear.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
            with torch.no_grad():
                model(input_ids=ids)
            hook.remove()
            x = seen[0].flatten(0, -2).double()
            weight = linear.weight.detach().double().numpy()
            codes, scale, zero = reference_codes(
                weight, (x.T @ x / len(x)).numpy(), bits=3, size=size, symmetric=False
            )
            linear.weight.data = torch.from_numpy((codes - zero) * scale).float()
    ids = torch.from_numpy(TOKENS.reshape(-1, 64))
    with torch.no_grad():
        log_p = model(input_ids=ids).logits[:, :-1].double().log_softmax(dim=-1)
    return -log_p.gather(-1, ids[:, 1:, None]).mean().item()


def test_the_loss_is_that_of_plain_loops(trained):
    variants = (Variant(), Variant.parse("int3-g32-asym@gptq"), Variant.parse("int3-g32-asym"))
    found = Prober(ProbeSpec(variants, SHAPE, "x"), TOKENS, DEVICE, calibration=CALIBRATION).measure(trained)
    fp32, gptq, nearest = (result.nll_nats for result in found.results)
    assert gptq == pytest.approx(reference_loss(trained, size=32), abs=1e-4)
    assert gptq - fp32 < nearest - fp32


@pytest.mark.parametrize("name", ["int4-g16-asym", "int4-channel-sym", "int3-g32-asym"])
def test_no_trained_matrix_has_its_output_further_off_than_after_rounding_to_nearest(trained, name):
    variants = (
        Variant(),
        *(Variant.parse(f"{name}@gptq{more}") for more in ("", ":order=activation", ":damping=0.001")),
    )
    found = Prober(ProbeSpec(variants, SHAPE, "x"), TOKENS, DEVICE, calibration=CALIBRATION).measure(trained)
    for result in found.results[1:]:
        rows = [tensor.row() for tensor in result.tensors]
        assert all(row["output_error"] < row["output_error_nearest"] for row in rows)
        assert {row["calibration_problem"] for row in rows} == {None}
        assert {row["calibration_tokens"] for row in rows} == {CALIBRATION.size}
