"""What is kept between observations is never of another model, and holds no weights."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from int4_collapse import Monitor, measure
from tests.models import VOCAB, tiny_model

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 2, 24))


def losses(model: Any) -> tuple[float, float]:
    """By the probe that keeps nothing."""
    fp32, int4 = measure(model, TOKENS, ["int4"]).results
    return fp32.nll_nats, int4.nll_nats


def move_weights(model: Any) -> None:
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(1.5)


def replace_weights(model: Any) -> None:
    for each in model.parameters():
        each.data = 0.5 * each.data


def sharpen_attention(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.scaling *= 4


def turn_slower(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.25)


def go_to_halves(model: Any) -> None:
    for each in model.parameters():
        each.data = each.data.bfloat16()


@pytest.mark.parametrize(
    "change", [move_weights, replace_weights, sharpen_attention, turn_slower, go_to_halves]
)
def test_every_observation_is_of_the_model_as_it_is_then(change: Any) -> None:
    model, monitor = tiny_model("llama", initializer_range=0.2), Monitor("int4", TOKENS, plan_steps=9)
    seen = []
    for step in range(3):
        numbers = monitor.observe(step, model).numbers
        seen.append((numbers["fp32_nll_nats"], numbers["int4_nll_nats"]))
        assert seen[-1] == losses(model)
        if step == 0:
            change(model)
    assert seen[1] != seen[0]
    assert seen[2] == seen[1]


def test_weights_that_training_has_let_go_are_not_held() -> None:
    model, monitor = tiny_model("gpt_neox"), Monitor("int4", TOKENS, plan_steps=9)
    monitor.observe(0, model)
    held = [weakref.ref(each.untyped_storage()) for each in model.parameters()]
    ids = [weakref.ref(each) for each in model.parameters()]
    del model
    gc.collect()
    assert not [each for each in (*held, *ids) if each() is not None]
    monitor.observe(1, tiny_model("gpt_neox", 1))


def test_averages_on_the_way_do_not_disturb_the_weights_in_training() -> None:
    model, average = tiny_model("gpt_neox"), tiny_model("gpt_neox", 1)
    monitor = Monitor(["int4", "int8"], TOKENS, plan_steps=9)
    for step in range(2):
        found = monitor.observe(step, model, averages={"ema": average.state_dict(), "lawa": average})
        assert (found.numbers["fp32_nll_nats"], found.numbers["int4_nll_nats"]) == losses(model)
        assert found.numbers["ema_int4_nll_nats"] == found.numbers["lawa_int4_nll_nats"] == losses(average)[1]
        move_weights(average)
