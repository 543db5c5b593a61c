"""The monitor beside a real training loop: what it measures, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from int4_collapse import Int4Callback, Monitor, UsageError, Verdict, measure
from tests.models import VOCAB, tiny_model

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (4, 2, 24))


def train(model: Any, steps: int, monitor: Monitor | None = None) -> list[Verdict]:
    """Steps of AdamW with dropout, autocast and accumulated gradients, observed in the middle of an accumulation."""
    torch.manual_seed(1)
    model.train()
    model.model.layers[0].mlp.eval()  # a part that somebody keeps in eval mode
    model.model.embed_tokens.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-3)
    found = []
    for step in range(steps):
        for part in range(2):
            ids = torch.randint(VOCAB, (2, 16))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = nn.functional.dropout(model.model(input_ids=ids).last_hidden_state, 0.1)
                model.lm_head(hidden).float().logsumexp(-1).mean().backward()
                if monitor is not None and part == 0:
                    found.append(monitor.observe(step, model, learning_rate=1e-3))
        optimizer.step()
        optimizer.zero_grad()
    return found


def test_a_training_run_is_the_same_bit_for_bit_with_and_without_it() -> None:
    alone, watched = tiny_model("llama"), tiny_model("llama")
    train(alone, 4)
    drawn = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    flags = (
        torch.is_grad_enabled(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
    )
    found = train(watched, 4, Monitor("int4", TOKENS, plan_steps=4))
    assert all(found)
    for (name, a), b in zip(alone.named_parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.requires_grad == b.requires_grad
    assert [each.training for each in alone.modules()] == [each.training for each in watched.modules()]
    assert torch.equal(drawn[0], torch.random.get_rng_state())
    assert np.array_equal(drawn[1], np.random.get_state()[1])  # noqa: NPY002
    assert drawn[2] == random.getstate()
    assert flags == (
        torch.is_grad_enabled(), torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision(),
    )  # fmt: skip


def test_its_losses_are_those_of_the_model_measured_by_itself() -> None:
    model = tiny_model("gpt_neox")
    by_variant = {each.variant: each.nll_nats for each in measure(model, TOKENS, ["int4", "nf4-b64"]).results}
    found = Monitor(["nf4-b64", "int4"], TOKENS, plan_steps=10).observe(3, model.train())
    assert found.numbers["fp32_nll_nats"] == by_variant["fp32"]
    assert found.numbers["int4_nll_nats"] == by_variant["int4-g128-asym"]
    assert found.numbers["nf4_b64_nll_nats"] == by_variant["nf4-b64"]
    assert found.ship is not None
    assert found.ship.nll_nats == by_variant["nf4-b64"]  # the first variant decides
    flat = Monitor("int4", torch.from_numpy(TOKENS.reshape(8, 24)), plan_steps=10).observe(0, model)
    assert flat.numbers["int4_nll_nats"] == pytest.approx(by_variant["int4-g128-asym"], abs=1e-6)


def test_wrappers_are_taken_off() -> None:
    model = tiny_model("llama")
    expected = Monitor("int4", TOKENS, plan_steps=9).observe(0, model).numbers
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = [
            nn.parallel.DistributedDataParallel(model), torch.compile(model, backend="eager"), nn.DataParallel(model),
            AveragedModel(model), torch.compile(nn.parallel.DistributedDataParallel(model), backend="eager"),
        ]  # fmt: skip
        for each in wrapped:
            assert Monitor("int4", TOKENS, plan_steps=9).observe(0, each).numbers == expected
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", [lambda layer: torch.compile(layer, backend="eager"), checkpoint_wrapper])
@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_layers_that_are_wrapped_one_by_one_are_unwrapped(kind: str, wrap: Any) -> None:
    model = tiny_model(kind)
    expected = Monitor("int4", TOKENS, plan_steps=9).observe(0, model).numbers
    layers = model.model.layers if kind == "llama" else model.gpt_neox.layers
    for index, layer in enumerate(layers):
        layers[index] = wrap(layer)
    found = (
        Monitor("int4", TOKENS, plan_steps=9).observe(0, model, averages={"ema": model.state_dict()}).numbers
    )
    assert found.items() > expected.items()
    assert found["ema_int4_nll_nats"] == expected["int4_nll_nats"]
    assert all(type(layer).__name__ in ("OptimizedModule", "CheckpointWrapper") for layer in layers)


def adapted() -> nn.Module:
    """A model with an adapter as PEFT places it: a module of its package around a linear layer."""
    model = tiny_model("llama")
    layer = type("Linear", (nn.Module,), {"__module__": "peft.tuners.lora.layer"})()
    layer.base_layer = model.model.layers[0].mlp.up_proj
    model.model.layers[0].mlp.up_proj = layer
    return model


def sharded() -> nn.Module:
    """A model as ZeRO-3 leaves it outside a gathering: parameters without elements."""
    model = tiny_model("llama")
    for each in model.parameters():
        each.ds_id, each.data = 0, torch.empty(0)
    return model


def split() -> nn.Module:
    model = tiny_model("llama")
    model.lm_head.to("meta")
    return model


def offloaded() -> nn.Module:
    """A model whose weights accelerate keeps elsewhere, as with a device_map."""
    return cpu_offload(tiny_model("llama"), execution_device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (adapted, "PEFT"), (sharded, "ZeRO-3"), (split, "cpu, meta"), (offloaded, "meta"),
        (lambda: nn.Linear(2, 2), "config"),
        (lambda: "model", "str"), (lambda: tiny_model("llama", vocab_size=200), "vocabulary of 200"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_by_name_and_not_kept(model: Any, named: str) -> None:
    monitor = Monitor("int4", TOKENS, plan_steps=9)
    with pytest.raises(UsageError, match=named):
        monitor.observe(0, model())
    assert not monitor.to_state()["observed"]


def test_shards_of_fsdp_are_refused_by_name() -> None:
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        with pytest.raises(UsageError, match="FSDP"):
            Monitor("int4", TOKENS, plan_steps=9).observe(0, fully_shard(tiny_model("llama"), mesh=mesh))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "tokens", [TOKENS[0, 0], TOKENS.astype(float), TOKENS - 5, TOKENS[:0], TOKENS[..., :1]], ids=str
)
def test_tokens_that_are_no_text_are_refused(tokens: np.ndarray) -> None:
    with pytest.raises(UsageError, match="token"):
        Monitor("int4", tokens, plan_steps=9)


def test_variants_that_it_cannot_measure_are_refused() -> None:
    for wrong in ([], ["fp32"], ["int9"]):
        with pytest.raises(UsageError):
            Monitor(wrong, TOKENS, plan_steps=9)
    for calibrated in ("int4@gptq", "int4@awq"):
        with pytest.raises(UsageError, match="calibration"):
            Monitor(["int8", calibrated], TOKENS, plan_steps=9)
        with pytest.raises(UsageError, match="calibration"):
            Int4Callback(TOKENS, calibrated)


def test_a_step_that_is_not_after_the_last_is_refused_before_anything_is_measured() -> None:
    monitor, model = Monitor("int4", TOKENS, plan_steps=9), tiny_model("llama")
    monitor.observe(5, model)
    for back in (5, 4, -1):
        with pytest.raises(UsageError, match=f"step {back}"):
            monitor.observe(back, model)
    assert len(monitor.to_state()["observed"]) == 1
    monitor.rewind(4)
    assert monitor.observe(4, model).best_step == 4


def test_a_model_that_diverged_is_kept_as_nan_and_told() -> None:
    model, monitor = tiny_model("llama"), Monitor("int4", TOKENS, plan_steps=9)
    monitor.observe(0, model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    found = monitor.observe(1, model)
    assert math.isnan(found.numbers["int4_nll_nats"])
    assert found.notes
    assert not found.alarm
    assert found.best_step == 0
    for step in range(2, 12):
        assert not monitor.observe(step, model).alarm
    assert monitor.observe(12, tiny_model("llama")).best_step == 0


def test_averages_are_candidates_as_models_and_as_state_dicts() -> None:
    model, other = tiny_model("llama", 0), tiny_model("llama", 1)
    direct = Monitor("int4", TOKENS, plan_steps=9).observe(0, other).numbers["int4_nll_nats"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for given in (other, AveragedModel(other), other.state_dict()):
        found = Monitor("int4", TOKENS, plan_steps=9).observe(0, model, averages={"ema": given})
        assert found.numbers["ema_int4_nll_nats"] == direct
        assert found.ship is not None
        assert (found.ship.weights == "ema") == (direct < found.numbers["int4_nll_nats"])
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match="ema"):
        Monitor("int4", TOKENS, plan_steps=9).observe(0, model, averages={"ema": {"wrong": torch.zeros(1)}})


def test_a_restored_monitor_gives_the_same_verdicts() -> None:
    model = tiny_model("llama")
    going, states, found = Monitor("int4", TOKENS, plan_steps=60, min_learning_rate=1e-3), [], []
    noise = torch.Generator().manual_seed(0)
    for step in range(14):
        found.append(going.observe(step, copy.deepcopy(model), learning_rate=1e-3))
        states.append(json.dumps(going.to_state(), allow_nan=False))
        with torch.no_grad():
            for each in model.model.layers[0].parameters():
                each.add_(0.05 * step * torch.randn(each.shape, generator=noise))
    restored = Monitor.from_state(json.loads(states[9]), TOKENS)
    assert json.dumps(restored.to_state()) == states[9]
    going.rewind(10)
    assert json.dumps(going.to_state()) == states[9]
    assert going.observe(13, model) == restored.observe(13, model)
    with pytest.raises(UsageError, match="tokens"):
        Monitor.from_state(json.loads(states[9]), TOKENS[:, :, ::-1])
    with pytest.raises(UsageError, match="version"):
        Monitor.from_state({}, TOKENS)
    for name, damage in (
        ("variants", None),
        ("settings", [1]),
        ("observed", [1]),
        ("min_learning_rate", "x"),
    ):
        with pytest.raises(UsageError, match="state is damaged"):
            Monitor.from_state(json.loads(states[9]) | {name: damage}, TOKENS)
    planned = Monitor("int4", TOKENS, plan_steps=60, planned_rate=lambda step: 1.0).to_state()
    with pytest.raises(UsageError, match="planned_rate"):
        Monitor.from_state(planned, TOKENS)
