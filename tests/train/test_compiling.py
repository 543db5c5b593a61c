"""Compiled training computes what plain training computes, and copies of a compiled model are plain."""

import copy

import pytest
import torch

from pipeline.train.compiling import compile_training, token_loss
from tests.models import tiny_model


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # read by the tracer on its way
def test_a_compiled_model_has_the_loss_and_gradients_of_a_plain_one():
    plain, compiled = (tiny_model("gpt_neox") for _ in range(2))
    # aot_eager traces and splits the graph as the real backend does, and then runs torch's own kernels
    loss = compile_training(compiled, backend="aot_eager")
    tokens = torch.randint(0, 320, (2, 33), generator=torch.Generator().manual_seed(0))
    values = []
    for model, measure in ((plain, token_loss), (compiled, loss)):
        value = measure(model(input_ids=tokens[:, :-1], use_cache=False).logits, tokens[:, 1:])
        value.backward()
        values.append(value.item())
    assert abs(values[0] - values[1]) < 1e-6
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    copied = copy.deepcopy(compiled)
    assert all(module._compiled_call_impl is None for module in copied.modules())
