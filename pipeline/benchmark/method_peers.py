"""The same quantization by other libraries, where they are installed: GPTQModel and llm-compressor.

Both are asked for what ours does as nearly as their settings allow: the same grid, the same calibration tokens, damping
0.01, no reordering of columns. What they cannot be asked for is said in the class that calls them.
"""

from __future__ import annotations

import importlib.util
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from pipeline.quantize import Method, Variant
from pipeline.quantize.integer import IntegerGrid


class Peer(ABC):
    """One library."""

    name: ClassVar[str]
    module: ClassVar[str]
    """What is imported."""
    methods: ClassVar[tuple[str, ...]]
    """Names of the methods that it has."""

    @property
    def is_installed(self) -> bool:
        """Whether it can be imported."""
        return importlib.util.find_spec(self.module) is not None

    def does(self, variant: Variant) -> bool:
        """Whether it has the method and the grid of ``variant``."""
        method = _method(variant)
        return method is not None and method.name in self.methods and isinstance(method.grid, IntegerGrid)

    @abstractmethod
    def quantized(self, folder: Path, variant: Variant, calibration: np.ndarray, device: str) -> Any:
        """The model of the checkpoint in ``folder`` after ``variant``, on ``device``: called as one of transformers.

        calibration: int64 (sequences, seq_len).
        """


class GptqModel(Peer):
    """GPTQModel. Finds the scales of groups below 128 columns from weights that its block has not moved yet."""

    name = "GPTQModel"
    module = "gptqmodel"
    methods = ("gptq",)

    def quantized(self, folder: Path, variant: Variant, calibration: np.ndarray, device: str) -> Any:
        from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

        grid = _grid(variant)
        settings = QuantizeConfig(
            bits=grid.bits,
            group_size=-1 if grid.group_size is None else grid.group_size,
            sym=grid.symmetric,
            desc_act=False,
            act_group_aware=False,
            damp_percent=0.01,
        )
        model = GPTQModel.load(str(folder), settings, device=device)
        model.quantize(_examples(calibration), batch_size=4)
        with tempfile.TemporaryDirectory(prefix="int4-collapse-") as saved:
            model.save(saved)
            return GPTQModel.load(saved, device=device, backend=BACKEND.TORCH).model


class LlmCompressor(Peer):
    """llm-compressor. Its AWQ searches scales only, has no clipping, and needs a mapping of the architecture."""

    name = "llm-compressor"
    module = "llmcompressor"
    methods = ("gptq", "awq")

    def quantized(self, folder: Path, variant: Variant, calibration: np.ndarray, device: str) -> Any:
        from datasets import Dataset
        from llmcompressor import oneshot
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
        examples = _examples(calibration)
        columns = {name: [each[name] for each in examples] for name in examples[0]}
        oneshot(
            model=model,
            dataset=Dataset.from_dict(columns),
            recipe=self._recipe(variant, _head_of(model)),
            max_seq_length=calibration.shape[1],
            num_calibration_samples=len(calibration),
        )
        return model

    @staticmethod
    def _recipe(variant: Variant, head: str) -> Any:
        from llmcompressor.modifiers.awq import AWQModifier
        from llmcompressor.modifiers.quantization import GPTQModifier

        grid, method = _grid(variant), _method(variant)
        weights = {
            "num_bits": grid.bits,
            "type": "int",
            "symmetric": grid.symmetric,
            "strategy": "channel" if grid.group_size is None else "group",
            "group_size": grid.group_size,
        }
        groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
        if method is not None and method.name == "awq":
            return AWQModifier(ignore=[head], config_groups=groups, duo_scaling=False)
        return GPTQModifier(ignore=[head], config_groups=groups, dampening_frac=0.01, actorder=None)


PEERS: tuple[Peer, ...] = (GptqModel(), LlmCompressor())


def _method(variant: Variant) -> Method | None:
    """Its one method; None where it has none, or rules for single layers, or the output head in it."""
    if len(variant.rules) != 1 or variant.head or not isinstance(variant.rules[0].quantizer, Method):
        return None
    return variant.rules[0].quantizer


def _grid(variant: Variant) -> IntegerGrid:
    method = _method(variant)
    assert method is not None
    assert isinstance(method.grid, IntegerGrid)
    return method.grid


def _head_of(model: Any) -> str:
    """The name of the output head."""
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)


def _examples(calibration: np.ndarray) -> list[dict[str, list[int]]]:
    return [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in calibration]
