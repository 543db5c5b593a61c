"""Compiled training computes what plain training computes, and copies of a compiled model are plain."""

import copy

import pytest
import torch

from pipeline.train.compiling import compile_blocks, drop_mask, token_loss
from pipeline.train.loop import Trainer
from pipeline.train.schedules.cosine import Cosine
from pipeline.train.settings import OptimizerSettings
from tests.models import tiny_model


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # read by the tracer on its way
def test_a_compiled_model_has_the_loss_and_gradients_of_a_plain_one():
    plain, compiled = (tiny_model("gpt_neox") for _ in range(2))
    # aot_eager traces and splits the graph as the real backend does, and then runs torch's own kernels
    compile_blocks(compiled, backend="aot_eager")
    assert compiled.gpt_neox.final_layer_norm._compiled_call_impl is not None
    tokens = torch.randint(0, 320, (2, 33), generator=torch.Generator().manual_seed(0))
    values = []
    for model in (plain, compiled):
        value = token_loss(model(input_ids=tokens[:, :-1], use_cache=False).logits, tokens[:, 1:])
        value.backward()
        values.append(value.item())
    assert abs(values[0] - values[1]) < 1e-6
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    copied = copy.deepcopy(compiled)
    assert all(module._compiled_call_impl is None for module in copied.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocabulary", [5, 64, 300, 20_000])
def test_the_fused_loss_has_the_gradient_of_cross_entropy(vocabulary, dtype):
    loss_kernel = pytest.importorskip("pipeline.train.loss_kernel")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (torch.randn(3, 4, vocabulary, generator=generator) * 5).to(device, dtype)
    logits[0, 0] = 90.0  # all alike, and beyond what exp takes
    logits[0, 1, 1:] = -1e4
    targets = torch.randint(vocabulary, (3, 4), generator=generator).to(device)
    exact = logits.double().requires_grad_(True)
    expected = torch.nn.functional.cross_entropy(exact.flatten(0, 1), targets.flatten())
    expected.backward()
    loss, gradient = loss_kernel.loss_and_gradient(logits, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert gradient.data_ptr() == logits.data_ptr()
    tolerance = {"rtol": 1e-5, "atol": 1e-8} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-6}
    torch.testing.assert_close(gradient.double(), exact.grad, **tolerance)
    needed = torch.zeros(2, 3, device=device, requires_grad=True).tanh()  # its gradient is made of its value
    _, slope = loss_kernel.loss_and_gradient(needed, targets[0, :2] % 3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        needed.backward(slope)
    with pytest.raises(ValueError, match="contiguous"):
        loss_kernel.loss_and_gradient(torch.zeros(4, 3, device=device).T, targets[0, :3])


def test_a_model_that_attends_in_windows_keeps_its_mask():
    assert drop_mask(tiny_model("gpt_neox"))
    windowed = tiny_model("qwen2")
    windowed.config.sliding_window = 8
    tokens = torch.randint(0, 320, (2, 33), generator=torch.Generator().manual_seed(0))
    before = windowed(input_ids=tokens).logits
    assert not drop_mask(windowed)
    assert torch.equal(windowed(input_ids=tokens).logits, before)


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_without_the_mask_attention_is_the_same(architecture):
    tokens = torch.randint(0, 320, (2, 33), generator=torch.Generator().manual_seed(0))
    plain, maskless = (tiny_model(architecture) for _ in range(2))
    assert drop_mask(maskless)
    assert torch.equal(plain(input_ids=tokens).logits, maskless(input_ids=tokens).logits)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # not taken, on purpose
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("optimizer", ["adamw", "sam"])
def test_a_captured_step_trains_as_a_plain_one(optimizer):
    device = torch.device("cuda")
    batch = torch.randint(0, 320, (4, 33), generator=torch.Generator().manual_seed(0))
    tokens = batch.expand(12, 4, 33).to(device)  # one batch twelve times, so that its loss falls
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
