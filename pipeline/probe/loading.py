"""From a checkpoint's folder to a float32 model, or to the reason why not.

Weights are read from safetensors (one file or sharded), or from a PyTorch ``.bin`` with ``weights_only=True``,
which cannot run code. They are hashed, checked for NaN and Inf by name, and handed to transformers, which maps
file names to module names. A missing, superfluous or misshapen tensor is an error: transformers would start a
missing one at random and only log it. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.suites.content import combined_sha256, file_sha256
from pipeline.suites.files import weight_files
from pipeline.suites.unchanged import Unchanged

_BUFFER_SUFFIXES = (".attention.bias", ".attn.bias", ".masked_bias", ".inv_freq")
"""Constants that older tools saved beside the weights (causal masks, rotary frequencies); never trained."""


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of one checkpoint as they lie in its files."""

    tensors: dict[str, Tensor]
    """By the file's names, in the stored dtype, on the CPU."""
    sha256: str
    """Of the weight file's bytes; for several files, of their sorted ``name sha256`` lines."""
    dtype: torch.dtype
    """Dtype of the largest tensor."""


def read_weights(folder: Path, expected_sha256: str | None = None) -> StoredWeights:
    """Reads, hashes and checks the weights in ``folder``.

    Raises CheckpointError for unreadable files, NaN or Inf values, or bytes that do not hash to
    ``expected_sha256``. The tensors are views of the mapped files: who uses them watches the files (``Unchanged``)
    until they are done.
    """
    with Unchanged(folder):
        return _read_weights(folder, expected_sha256)


def _read_weights(folder: Path, expected_sha256: str | None) -> StoredWeights:
    files = weight_files(folder)
    with ThreadPoolExecutor(4) as pool:  # hashing releases the GIL, so it overlaps reading the tensors
        hashing = [pool.submit(file_sha256, file) for file in files]
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors |= read_file(file)
        hashes = {file.name: job.result() for file, job in zip(files, hashing, strict=True)}
    sha256 = combined_sha256(hashes)
    check_sha256(folder, sha256, expected_sha256)
    if not tensors:
        raise CheckpointError(f"the weight files in {folder} hold no tensors")
    refuse_non_finite(tensors)
    return StoredWeights(tensors, sha256, max(tensors.values(), key=Tensor.numel).dtype)


def check_sha256(folder: Path, found: str, expected: str | None) -> None:
    """Raises CheckpointError where a hash is ``expected`` and another was ``found``."""
    if expected is not None and found != expected:
        raise CheckpointError(
            f"the weights in {folder} hash to {found[:12]}..., the suite says {expected[:12]}...: "
            "the files were changed or damaged; fetch them again"
        )


def read_config(folder: Path) -> transformers.PretrainedConfig:
    """The model configuration in ``folder``."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"no config.json in {folder}: wanted a Hugging Face checkpoint folder")
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # a damaged configuration raises whatever its class's checks raise
        raise CheckpointError(f"{folder / 'config.json'} cannot be used: {_first_line(error)}") from error
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CheckpointError(
            f"{folder / 'config.json'} is of a {config.model_type!r} model: wanted a causal LM"
        )
    return config


def build_model(config: transformers.PretrainedConfig, weights: StoredWeights) -> nn.Module:
    """The model of ``config`` with ``weights`` upcast to float32, in eval mode, on the CPU.

    Raises CheckpointError where the weights do not fit the configuration exactly.
    """
    transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    model_class: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    try:
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=weights.tensors,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the weights do not load as {model_class.__name__}: {_first_line(error)}"
        ) from error
    superfluous = {name for name in info["unexpected_keys"] if not name.endswith(_BUFFER_SUFFIXES)}
    for problem, names in (
        ("of another shape than config.json says", {_name_of(key) for key in info["mismatched_keys"]}),
        ("missing", set(info["missing_keys"])),
        ("unknown to config.json's model", superfluous),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise CheckpointError(f"{len(names)} tensors are {problem}: {shown}")
    model.eval()
    model.requires_grad_(False)
    return model


def check_fit(config: transformers.PretrainedConfig, sequences: np.ndarray) -> None:
    """CheckpointError for a model that cannot take ``sequences`` (int64 (N, T)).

    Checked before any table is looked up: on a GPU an index beyond it ends the process's use of CUDA.
    """
    highest, length = int(sequences.max()), sequences.shape[1]
    if highest >= config.vocab_size:
        raise CheckpointError(
            f"its vocabulary has {config.vocab_size} ids, the evaluation tokens reach {highest}"
        )
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and length > context:
        raise CheckpointError(f"it takes {context} tokens, the evaluation sequences have {length}")


def read_file(file: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """The tensors called ``names`` (None: all) as views of the mapped ``file``: nothing is read before it is used.

    CheckpointError for a file that is damaged, or whose pickle holds anything but tensors.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in (opened.keys() if names is None else names)}
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file} is truncated or not safetensors: {_first_line(error)}") from error
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpickling a damaged file can raise anything; the reason goes with it
        raise CheckpointError(
            f"{file} cannot be loaded with weights_only=True: {_first_line(error)}"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{file} is not a state dict: wanted names mapped to tensors")
    return loaded if names is None else {name: loaded[name] for name in names}


def refuse_non_finite(tensors: dict[str, Tensor]) -> None:
    """Raises CheckpointError naming the first tensor that holds a NaN or Inf."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            nan, inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
            raise CheckpointError(f"tensor {name} holds {nan} NaN and {inf} Inf of {tensor.numel()} values")


def _name_of(key: Any) -> str:
    return key if isinstance(key, str) else str(key[0])


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
