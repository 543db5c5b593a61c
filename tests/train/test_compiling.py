"""Compiled training computes what plain training computes, and copies of a compiled model are plain."""

import copy

import pytest
import torch

from pipeline.train.compiling import compile_training, drop_mask, token_loss
from pipeline.train.loop import Trainer
from pipeline.train.schedules import Cosine
from pipeline.train.settings import OptimizerSettings
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


def test_a_model_that_attends_in_windows_keeps_its_mask():
    assert drop_mask(tiny_model("gpt_neox"))
    windowed = tiny_model("qwen2")
    windowed.config.sliding_window = 8
    assert not drop_mask(windowed)
    assert windowed.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_without_the_mask_attention_is_the_same(architecture):
    tokens = torch.randint(0, 320, (2, 33), generator=torch.Generator().manual_seed(0))
    plain, maskless = (tiny_model(architecture) for _ in range(2))
    assert drop_mask(maskless)
    assert torch.equal(plain(input_ids=tokens).logits, maskless(input_ids=tokens).logits)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("optimizer", ["adamw", "sam"])
def test_a_captured_step_trains_as_a_plain_one(optimizer):
    device = torch.device("cuda")
    tokens = torch.randint(0, 320, (12, 4, 33), generator=torch.Generator().manual_seed(0)).to(device)
    runs = []
    for compiled in (False, True):
        trainer = Trainer(
            tiny_model("gpt_neox").requires_grad_(True),
            batches=tokens.__getitem__,
            schedule=Cosine(12, 1e-2, 1e-3, 2),
            settings=OptimizerSettings(),
            device=device,
            optimizer=optimizer,
            precision="fp32",
            compiled=compiled,
        )
        assert (trainer._captured is not None) == compiled
        losses = [trainer.advance().item() for _ in range(6)]
        state = copy.deepcopy(trainer.state_dict())
        trainer.load_state_dict(state)  # between two replays
        runs.append(losses + [trainer.advance().item() for _ in range(6)])
    assert runs[0][-1] < runs[0][0]
    assert max(abs(a - b) for a, b in zip(*runs, strict=True)) < 1e-3
