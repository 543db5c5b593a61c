"""Mixtures of experts: every expert's matrices are quantized, routers never."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers import AutoModelForCausalLM

from int4_collapse import Monitor
from pipeline.benchmark.naive import naive_losses, scipy_kurtosis
from pipeline.models.experts import SeparateExperts
from pipeline.models.linear_layers import linear_sites
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.probe import Prober
from pipeline.quantize import Calibration, Rule, decoded
from pipeline.spec import ProbeSpec, TokenShape, Variant, parse_variants
from tests.models import MIXTURES, VOCAB, tiny_model
from tests.probe.test_reference import grid_by_loops

SHAPE = TokenShape(batches=2, batch_size=2, seq_len=24)
TOKENS = np.random.default_rng(5).integers(0, VOCAB, (2, 2, 24))
VARIANTS = parse_variants(("int8", "int4", "int3-g32-sym+head"))
SPEC = ProbeSpec(VARIANTS, SHAPE, "x")


def save(architecture: str, folder: Path, **settings: Any) -> Path:
    """Weights of a trained model's size, those of the routers among them, so that routes differ between variants."""
    model = tiny_model(architecture, **settings)
    generator = torch.Generator().manual_seed(settings.get("seed", 1))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15
    model.half().save_pretrained(folder)
    return folder


def matrices(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every matrix to quantize, by the names of an expert's three, as views of transformers' own parameters."""
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if parts[-1] == "gate_up_proj":
            for expert, both in enumerate(parameter.data):
                for place, matrix in zip(("gate", "up"), both.chunk(2), strict=True):
                    yield f"{name.removesuffix(parts[-1])}{expert}.{place}_proj", matrix
        elif parameter.dim() == 3:
            for expert, matrix in enumerate(parameter.data):
                yield f"{name.removesuffix(parts[-1])}{expert}.down_proj", matrix
        elif parameter.dim() == 2 and parts[-2].endswith(("_proj", "proj_with_mqa")):
            yield name.removesuffix(".weight"), parameter.data


def reference(folder: Path, variant: Variant) -> tuple[float, set[str]]:
    """The loss of the float64 model of transformers, quantized by loops, and what was quantized."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    found = dict(matrices(model))
    if not variant.is_fp32:
        for matrix in [*found.values(), *([model.lm_head.weight.data] if variant.head else [])]:
            matrix.copy_(torch.from_numpy(grid_by_loops(matrix.numpy(), variant)))
    ids = torch.from_numpy(TOKENS.reshape(-1, SHAPE.seq_len))
    with torch.no_grad():
        log_p = model.double()(input_ids=ids).logits[:, :-1].log_softmax(dim=-1)
    return -log_p.gather(-1, ids[:, 1:, None]).mean().item(), set(found)


@pytest.mark.parametrize("architecture", MIXTURES)
def test_losses_agree_with_transformers_own_experts_in_float64(architecture: str, tmp_path: Path) -> None:
    folder = save(architecture, tmp_path)
    measured = Prober(SPEC, TOKENS).measure(folder)
    losses = [result.nll_nats for result in measured.results]
    for variant, result in zip(VARIANTS, measured.results, strict=True):
        expected, names = reference(folder, variant)
        assert result.nll_nats == pytest.approx(expected, abs=5e-6)
        assert {tensor.name for tensor in result.tensors} - {"lm_head"} == names
    assert len({round(loss, 4) for loss in losses}) == len(losses)


@pytest.mark.parametrize("architecture", ["olmoe", "deepseek_v3"])
def test_layer_by_layer_and_in_memory_the_numbers_are_the_same(architecture: str, tmp_path: Path) -> None:
    folder = save(architecture, tmp_path)
    whole = Prober(SPEC, TOKENS).measure(folder)
    assert Prober(SPEC, TOKENS).layer_by_layer.measure(folder).results == whole.results
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert Prober(SPEC, TOKENS).measure_model(model).results == whole.results
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_experts_that_files_hold_in_one_tensor_are_quantized_one_by_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = Prober(SPEC, TOKENS).measure(save("olmoe", tmp_path))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for layer in range(2):
        path = f"model.layers.{layer}.mlp.experts"
        gates, ups, downs = (
            torch.stack([tensors.pop(f"{path}.{expert}.{name}_proj.weight") for expert in range(6)])
            for name in ("gate", "up", "down")
        )
        tensors |= {f"{path}.gate_up_proj": torch.cat([gates, ups], dim=1), f"{path}.down_proj": downs}
    save_file(tensors, file, {"format": "pt"})
    fused = Prober(SPEC, TOKENS).measure(tmp_path)
    assert fused.results == whole.results


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("olmoe", tmp_path_factory.mktemp("olmoe"), num_experts=12)


@pytest.mark.parametrize("sequences", [3, 40])
def test_an_expert_is_calibrated_on_the_tokens_that_are_routed_to_it(olmoe: Path, sequences: int) -> None:
    calibration = np.random.default_rng(1).integers(0, VOCAB, (sequences, 24))
    gptq = Variant.parse("int3-g16-asym@gptq")
    (quantizer,) = {rule.quantizer for rule in gptq.rules}
    assert quantizer is not None
    one = Variant((Rule("layers.0.mlp.experts.*_proj", quantizer),))
    prober = Prober(ProbeSpec((Variant(), one), SHAPE, "x"), TOKENS, calibration=calibration)
    found = {tensor.name: tensor for tensor in prober.measure(olmoe).results[1].tensors}

    model = AutoModelForCausalLM.from_pretrained(olmoe, dtype=torch.float32, experts_implementation="eager")
    seen: list[tuple[torch.Tensor, ...]] = []
    model.model.layers[0].mlp.experts.register_forward_pre_hook(lambda _, given: seen.append(given))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(calibration))
    hidden, chosen, _ = seen[0]
    reached = 0
    for name, matrix in matrices(model):
        if ".layers.0.mlp.experts" not in name or "down" in name:
            continue
        rows = hidden[(chosen == int(name.split(".")[-2])).any(dim=1)].double()
        row = found[name].row()
        assert row["calibration_tokens"] == len(rows)
        moments = rows.T @ rows / max(1, len(rows))
        encoded = quantizer.encode(matrix, Calibration(len(rows), second_moments=moments))
        error = (decoded(quantizer, encoded, matrix) - matrix).norm() / matrix.norm()
        assert row["relative_error"] == pytest.approx(error.item(), rel=1e-4)
        assert (row["calibration_problem"] == "no calibration token reaches it") == (not len(rows))
        reached += len(rows)
    assert reached == 2 * 2 * sequences * 24  # two experts a token, two matrices each


def test_rows_are_counted_once_where_two_variants_calibrate_other_matrices(olmoe: Path) -> None:
    calibration = np.random.default_rng(1).integers(0, VOCAB, (3, 24))
    (rule,) = Variant.parse("int3-g16-asym@gptq").rules
    variants = [Variant((Rule(f"*experts.*.{name}_proj", rule.quantizer),)) for name in ("gate", "up")]
    prober = Prober(ProbeSpec((Variant(), *variants), SHAPE, "x"), TOKENS, calibration=calibration)
    _, *results = prober.measure(olmoe).results
    for result in results:
        counts = [tensor.row()["calibration_tokens"] for tensor in result.tensors if ".0.mlp" in tensor.name]
        assert sum(count for count in counts if count) == 2 * 3 * 24


def test_an_infinite_weight_changes_no_token_that_does_not_choose_its_expert(tmp_path: Path) -> None:
    folder = save("olmoe", tmp_path)
    model = build_model(read_config(folder), read_weights(folder))
    experts = model.get_submodule("model.layers.0.mlp.experts")
    hidden, shares = torch.randn(5, 32), torch.full((5, 1), 0.5)
    chosen = torch.tensor([[0], [1], [1], [0], [2]])
    expected = experts(hidden, chosen, shares)
    experts.get_submodule("1").down_proj.weight.fill_(torch.inf)
    others = chosen[:, 0] != 1
    assert torch.equal(experts(hidden, chosen, shares)[others], expected[others])


def test_the_controls_of_the_mechanism_perturb_experts_too(tmp_path: Path) -> None:
    experts = Variant((Rule("*experts.*", parse_variants(("int4",))[1].rules[0].quantizer),))
    spec = ProbeSpec((Variant(), experts), SHAPE, "x", mechanism=(experts,))
    measured = Prober(spec, TOKENS).measure(save("olmoe", tmp_path))
    fp32 = measured.results[0].batch_nll_nats
    assert len({each.batch_nll_nats for each in measured.controls}) == len(measured.controls) > 2
    assert all(each.batch_nll_nats != fp32 for each in measured.controls)


def test_gradients_go_through_experts_as_through_transformers_own(tmp_path: Path) -> None:
    folder = save("mixtral", tmp_path)
    ours = build_model(read_config(folder), read_weights(folder)).requires_grad_(True)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager")
    ids = torch.from_numpy(TOKENS[0])
    for model in (ours, theirs):
        model(input_ids=ids, labels=ids).loss.backward()
    expected = dict(matrices_of_gradients(theirs))
    for site in linear_sites(ours):
        if ".experts." in site.name:
            gradient = site.module.weight.grad
            assert torch.allclose(gradient, expected[site.name], atol=1e-6, rtol=1e-4)


def matrices_of_gradients(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return matrices(model)


@pytest.mark.parametrize("architecture", ["olmoe", "qwen2_moe"])
def test_the_naive_loop_of_the_benchmark_quantizes_experts_too(architecture: str, tmp_path: Path) -> None:
    folder = save(architecture, tmp_path)
    measured = Prober(SPEC, TOKENS).measure(folder)
    kurtoses: list[float] = []
    losses = naive_losses(
        folder, VARIANTS, TOKENS, "cpu", inspect=lambda model: kurtoses.extend(scipy_kurtosis(model))
    )
    assert list(losses.values()) == pytest.approx([each.nll_nats for each in measured.results], abs=1e-6)
    listed = [tensor.kurtosis for tensor in measured.results[1].tensors]
    assert sorted(kurtoses) == pytest.approx(sorted(listed), abs=1e-4)


def test_the_monitor_watches_a_mixture_in_training_with_a_checkpoints_numbers(tmp_path: Path) -> None:
    model = tiny_model("olmoe", initializer_range=0.1).train()
    tokens = TOKENS.reshape(-1, SHAPE.seq_len)
    monitor = Monitor("int4", tokens, plan_steps=10)
    averaged = {name: tensor * 0.5 for name, tensor in model.state_dict().items()}
    verdict = monitor.observe(1, model, averages={"ema": averaged})
    for name, weights in (("int4_nll_nats", None), ("ema_int4_nll_nats", averaged)):
        if weights is not None:
            model.load_state_dict(weights)
        model.save_pretrained(tmp_path)
        _, int4 = Prober(ProbeSpec(parse_variants(("int4",)), SHAPE, "x"), TOKENS).measure(tmp_path).results
        assert verdict.numbers[name] == pytest.approx(int4.nll_nats, abs=1e-6)


def test_a_mixture_may_round_otherwise_where_other_rows_are_computed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product's last bit depends on the number of rows on some devices, and decides between experts that tie."""
    forward = SeparateExperts.forward

    def rounding(self: SeparateExperts, hidden: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        return forward(self, hidden, *given) * (1.001 if len(hidden) > SHAPE.seq_len else 1)

    folder = save("olmoe", tmp_path)
    monkeypatch.setattr(SeparateExperts, "forward", rounding)
    assert Prober(SPEC, TOKENS).measure(folder).results[0].nll_nats > 0


@pytest.mark.parametrize("wrap", [lambda part: torch.compile(part, backend="eager"), checkpoint_wrapper])
def test_experts_that_are_wrapped_by_themselves_are_measured(wrap: Any) -> None:
    model = tiny_model("olmoe", initializer_range=0.1)
    expected = Prober(SPEC, TOKENS).measure_model(model).results
    for layer in model.model.layers:
        layer.mlp.experts = wrap(layer.mlp.experts)
    assert Prober(SPEC, TOKENS).measure_model(model).results == expected
