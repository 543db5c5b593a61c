"""Load a checkpoint's folder as a float32 model, or raise the reason why not.

Weights are read from safetensors (one file or sharded), or from a PyTorch ``.bin`` with ``weights_only=True``,
which cannot run code. They are hashed, checked for NaN and Inf by name, and handed to transformers, which maps
file names to module names. A missing, superfluous or misshapen tensor is an error: transformers would start a
missing one at random and only log it. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.base.english import counted
from pipeline.base.errors import CheckpointError
from pipeline.models.experts import separate_experts
from pipeline.suites.checkpoint_files import assigned_tensors
from pipeline.suites.content import combined_sha256, file_sha256
from pipeline.suites.model_config import CONTEXT_NAMES, context_length
from pipeline.suites.unchanged import Unchanged
from pipeline.suites.unmeasurable import refuse_quantized, refuse_wrapped

_BUFFER_SUFFIXES = (".attention.bias", ".attn.bias", ".masked_bias", ".inv_freq")
"""Constants that older tools saved beside the weights (causal masks, rotary frequencies); never trained."""
PROVENANCE = {"_name_or_path", "dtype", "torch_dtype", "transformers_version"}
"""Entries of a config.json about its writer and storage, not about the model. They are ignored when models are
compared, because a model is built and checked once for all checkpoints of its kind."""
PLAIN_ATTENTION = ("eager", "sdpa")
"""Implementations of attention that come with transformers and torch."""
PLAIN_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WANTED_DTYPES = "float32, float16, bfloat16 or float64"


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of one checkpoint as stored in its files."""

    tensors: dict[str, Tensor]
    """File's name -> tensor in the stored dtype, on the CPU."""
    sha256: str
    """sha256 of the weight file's bytes; for several files, of their sorted ``name sha256`` lines."""
    dtype: torch.dtype
    """Dtype of the largest tensor."""


def read_weights(folder: Path, expected_sha256: str | None = None) -> StoredWeights:
    """Read, hash and check the weights in ``folder``.

    Raises CheckpointError for unreadable files, NaN or Inf values, or bytes that do not hash to
    ``expected_sha256``. The tensors are views of the mapped files: the caller must watch the files (``Unchanged``)
    while using them.
    """
    with Unchanged(folder):
        return _read_weights(folder, expected_sha256)


def _read_weights(folder: Path, expected_sha256: str | None) -> StoredWeights:
    files = assigned_tensors(folder)
    refuse_wrapped(next(iter(files)))
    with ThreadPoolExecutor(4) as pool:  # hashing releases the GIL, so it overlaps reading the tensors
        hashing = [pool.submit(file_sha256, file) for file in files]
        tensors: dict[str, Tensor] = {}
        for file, names in files.items():
            tensors |= read_file(file, names)
        hashes = {file.name: job.result() for file, job in zip(files, hashing, strict=True)}
    sha256 = combined_sha256(hashes)
    check_sha256(folder, sha256, expected_sha256)
    if not tensors:
        raise CheckpointError(f"the weight files in {folder} hold no tensors")
    refuse_other_dtypes(tensors)
    refuse_non_finite(tensors)
    return StoredWeights(tensors, sha256, max(tensors.values(), key=Tensor.numel).dtype)


def check_sha256(folder: Path, found: str, expected: str | None) -> None:
    """Raise CheckpointError if ``expected`` is given and differs from ``found``."""
    if expected is not None and found != expected:
        raise CheckpointError(
            f"the weights in {folder} hash to {found[:12]}..., the suite states {expected[:12]}...: "
            "the files were changed or damaged; fetch them again"
        )


def read_config(folder: Path) -> transformers.PretrainedConfig:
    """The model configuration in ``folder``."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"no config.json in {folder}: wanted a Hugging Face checkpoint folder")
    refuse_quantized(folder / "config.json")
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # a damaged configuration raises exceptions of many types
        raise CheckpointError(f"{folder / 'config.json'} cannot be used: {_first_line(error)}") from error
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CheckpointError(
            f"{folder / 'config.json'} is of model type {config.model_type!r}: wanted a causal LM"
        )
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        # A stored attention kernel only says how the model was once run; it may be missing here, or need a download.
        if part is not None and part._attn_implementation not in PLAIN_ATTENTION:
            part._attn_implementation = None
    return config


def build_model(config: transformers.PretrainedConfig, weights: StoredWeights) -> nn.Module:
    """The model of ``config`` with ``weights`` upcast to float32, in eval mode, on the CPU.

    Raises CheckpointError if the weights do not fit the configuration exactly.
    """
    transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    model, info = _load(config, weights.tensors)
    _refuse_integers(config, weights.tensors, info)
    superfluous = {name for name in info["unexpected_keys"] if not name.endswith(_BUFFER_SUFFIXES)}
    for problem, names in (
        ("of another shape than config.json says", {_name_of(key) for key in info["mismatched_keys"]}),
        ("missing", set(info["missing_keys"])),
        ("unknown to config.json's model", superfluous),
    ):
        if names:
            raise CheckpointError(f"{counted(len(names), 'tensor', are=True)} {problem}: {_shown(names)}")
    separate_experts(model)
    model.eval()
    model.requires_grad_(False)
    return model


def _load(
    config: transformers.PretrainedConfig, tensors: dict[str, Tensor]
) -> tuple[nn.Module, dict[str, Any]]:
    """The model that transformers makes of ``config`` with ``tensors``, and its report on names and shapes."""
    model_class: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    try:
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (RuntimeError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(
            f"the weights do not load as {model_class.__name__}: {_first_line(error)}"
        ) from error
    return model, info


def _refuse_integers(
    config: transformers.PretrainedConfig, tensors: dict[str, Tensor], info: dict[str, Any]
) -> None:
    """Raise CheckpointError if ``tensors`` that are not floating point became weights; ``info``: transformers'
    report. A mask or a table of positions may be integers.
    """
    integers = {
        name: tensor
        for name, tensor in tensors.items()
        if not tensor.is_floating_point() and not name.endswith(_BUFFER_SUFFIXES)
    }
    if not integers:
        return
    # The weights that they became are those missing without them.
    others = {
        name: torch.zeros(()).expand(tensor.shape) for name, tensor in tensors.items() if name not in integers
    }
    model, without = _load(config, others)
    became = set(without["missing_keys"]) - set(info["missing_keys"])
    became &= {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if became:
        dtypes = sorted({_dtype(tensor) for tensor in integers.values()})
        raise CheckpointError(
            f"{counted(len(became), 'weight', are=True)} stored as {', '.join(dtypes)}: {_shown(became)}; "
            f"wanted {WANTED_DTYPES}: measure the checkpoint that was quantized to them"
        )


def text_config(config: transformers.PretrainedConfig) -> transformers.PretrainedConfig:
    """The configuration of the text model: ``config``, or a part of it for a larger model."""
    try:
        return config.get_text_config(decoder=True)
    except ValueError as error:
        raise CheckpointError(f"config.json holds several text models: {_first_line(error)}") from error


def vocabulary(config: transformers.PretrainedConfig) -> int:
    """Number of token ids and of logits of a model of ``config``."""
    ids = getattr(text_config(config), "vocab_size", None)
    if not isinstance(ids, int):
        raise CheckpointError(f"config.json gives vocab_size {ids!r}: wanted a whole number")
    return ids


def check_fit(config: transformers.PretrainedConfig, sequences: np.ndarray) -> None:
    """Raise CheckpointError if a model cannot take ``sequences`` (int64 (N, T)).

    Checked before any lookup: on a GPU an index out of range ends the process's use of CUDA.
    """
    highest, length, ids = int(sequences.max()), sequences.shape[1], vocabulary(config)
    if highest >= ids:
        raise CheckpointError(f"its vocabulary has {ids} ids, the evaluation tokens reach {highest}")
    text = text_config(config)
    context = context_length({name: getattr(text, name, None) for name in CONTEXT_NAMES})
    if context is not None and length > context:
        raise CheckpointError(f"it takes {context} tokens, the evaluation sequences have {length}")


def read_file(file: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """The tensors ``names`` (None: all) as views of the mapped ``file``, which is read on use.

    Raises CheckpointError if the file is damaged or its pickle holds anything but tensors.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                wanted = present(file, opened.keys(), names)
                return {name: opened.get_tensor(name) for name in wanted}
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file} is truncated or not safetensors: {_first_line(error)}") from error
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpickling a damaged file can raise anything; the message keeps the reason
        raise CheckpointError(
            f"{file} cannot be loaded with weights_only=True: {_first_line(error)}"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{file} is not a state dict: wanted names mapped to tensors")
    return {name: loaded[name] for name in present(file, loaded, names)}


def present(file: Path, found: Iterable[str], names: Iterable[str] | None) -> list[str]:
    """``names`` (None: all) of the tensors ``found`` in ``file``; raises CheckpointError if some are missing."""
    found = list(found)
    wanted = found if names is None else list(names)
    missing = sorted(set(wanted).difference(found))
    if missing:
        raise CheckpointError(
            f"{file} lacks {_shown(missing)}, which it held before or its index assigns to it: "
            "copy the checkpoint again"
        )
    return wanted


def refuse_other_dtypes(tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, which names the first tensor in a floating-point format of 8 or 4 bits."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in PLAIN_DTYPES:
            raise CheckpointError(
                f"tensor {name} is stored as {_dtype(tensor)}: wanted {WANTED_DTYPES}; "
                "measure the checkpoint that was quantized to it"
            )


def refuse_non_finite(tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError, which names the first tensor with NaN or Inf."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            nan, inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
            raise CheckpointError(f"tensor {name} holds {nan} NaN and {inf} Inf of {tensor.numel()} values")


def _shown(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (", ..." if len(ordered) > 3 else "")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _name_of(key: Any) -> str:
    return key if isinstance(key, str) else str(key[0])


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
