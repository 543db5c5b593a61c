"""Models in memory: the numbers of a checkpoint, and nothing of the model changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.base.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import ARCHITECTURES, VOCAB, tiny_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = TokenShape(2, 2, 16)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 2, 16))
SPEC = ProbeSpec(parse_variants(("int8", "int4-g16-asym+head")), SHAPE, "x", vocab_rows=300)


def close(found: Any, exact: Any) -> bool:
    """Bit for bit on a CPU; on a GPU a checkpoint of halves is packed in fewer pieces than float32 weights."""
    if DEVICE == "cpu":
        return found.results == exact.results
    pairs = zip(found.results, exact.results, strict=True)
    return all(abs(ours.nll_nats - theirs.nll_nats) < 1e-7 for ours, theirs in pairs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_has_the_numbers_of_its_checkpoint_however_it_is_held(tmp_path, architecture):
    model = tiny_model(architecture, 1, initializer_range=0.1)
    model.save_pretrained(tmp_path)
    prober = Prober(SPEC, TOKENS, DEVICE)
    exact = prober.measure(tmp_path)
    model.train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules, optimizer = dict(model.named_modules()), torch.optim.SGD(model.parameters(), lr=0.1)
    first, again = prober.measure_model(model), prober.measure_model(model)
    assert close(first, exact)
    assert again.results == first.results
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert dict(model.named_modules()) == modules
    assert all(module.training for module in model.modules())
    ids = torch.from_numpy(TOKENS[0])
    model(input_ids=ids, labels=ids).loss.backward()  # goes on training
    optimizer.step()
    later = prober.measure_model(model)
    assert later.results[0].nll_nats < first.results[0].nll_nats


def test_halves_are_upcast_and_hooks_stay_where_they_are(tmp_path):
    model = tiny_model("llama", 1, initializer_range=0.1)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    float32 = tiny_model("llama", 1, initializer_range=0.1)
    float32.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    calls: list[str] = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: calls.append("hook"))
    wrapped = model.forward

    def autocast(*args: Any, **kwargs: Any) -> Any:
        calls.append("forward")
        return wrapped(*args, **kwargs)

    model.forward = autocast  # as trainers wrap it
    prober = Prober(SPEC, TOKENS, DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        found = prober.measure_model(model)
    assert found.results == prober.measure_model(float32).results
    assert calls == []


def test_constants_that_lost_precision_are_refused():
    with pytest.raises(
        CheckpointError, match=r"rotary_emb\.inv_freq is held in torch\.bfloat16: wanted float32"
    ):
        Prober(SPEC, TOKENS, DEVICE).measure_model(tiny_model("llama").bfloat16())


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix, self.up, self.down = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[None, :, None]
        x = x + self.mix(self.norm(x).cumsum(dim=1) / count)
        return x + self.down(torch.relu(self.up(x)))


class Plain(nn.Module):
    """A language model that knows nothing of transformers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.head = nn.Linear(width, VOCAB, bias=False)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x), None


def test_a_module_that_is_none_of_transformers_is_measured():
    torch.manual_seed(0)
    model = Plain()
    spec = ProbeSpec(parse_variants(("int4-g8-sym",)), SHAPE, "x")
    found = Prober(spec, TOKENS, DEVICE).measure_model(model)
    quantized = Plain()
    quantized.load_state_dict(model.state_dict())
    for name, parameter in quantized.named_parameters():
        if "blocks" in name and parameter.dim() == 2:
            groups = parameter.data.view(16, 2, 8)
            scale = groups.abs().amax(dim=-1, keepdim=True) / 7
            parameter.data = ((groups / scale).round() * scale).view(16, 16)
    ids = torch.from_numpy(TOKENS.reshape(-1, 16))
    for result, reference in zip(found.results, (model, quantized), strict=True):
        log_p = reference.double()(ids)[0][:, :-1].log_softmax(dim=-1)
        expected = -log_p.gather(-1, ids[:, 1:, None]).mean().item()
        assert result.nll_nats == pytest.approx(expected, abs=2e-6)
    assert [tensor.name for tensor in found.results[1].tensors][:3] == [
        "blocks.0.mix",
        "blocks.0.up",
        "blocks.0.down",
    ]


class Sharpened(nn.Module):
    """Holds a model as data parallelism does, and computes something of its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return 3.0 * self.module(ids)[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_wrapper_is_taken_off_where_it_computes_nothing_and_nowhere_else():
    torch.manual_seed(0)
    model, prober = Plain(), Prober(ProbeSpec(parse_variants(("int4-g8-sym",)), SHAPE, "x"), TOKENS, DEVICE)
    exact = prober.measure_model(model).results
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        assert prober.measure_model(wrapped).results == exact
    ids = torch.from_numpy(TOKENS.reshape(-1, 16)).to(next(model.parameters()).device)
    log_p = (3.0 * model(ids)[0][:, :-1].double()).log_softmax(dim=-1)
    expected = -log_p.gather(-1, ids[:, 1:, None]).mean().item()
    assert prober.measure_model(Sharpened(model)).results[0].nll_nats == pytest.approx(expected, abs=2e-6)


def test_a_plain_module_has_no_head_to_quantize():
    spec = ProbeSpec(parse_variants(("int4-g8-sym+head",)), SHAPE, "x")
    with pytest.raises(CheckpointError, match="output head"):
        Prober(spec, TOKENS, DEVICE).measure_model(Plain())


def test_tokens_beyond_a_plain_modules_embedding_are_refused():
    tokens = np.full((2, 2, 16), VOCAB)
    with pytest.raises(CheckpointError, match=f"{VOCAB} ids, the evaluation tokens reach {VOCAB}"):
        Prober(ProbeSpec(parse_variants(()), SHAPE, "x"), tokens, DEVICE).measure_model(Plain())
