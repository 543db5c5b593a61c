"""Find checkpoints that cannot be measured, from their files, before any work begins."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.base.files import load_json, open_regular
from pipeline.spec import Checkpoint
from pipeline.suites.checkpoint_files import weight_files
from pipeline.suites.foreign import names_below, what_it_is
from pipeline.suites.hub.remote import config_file, list_commit
from pipeline.suites.suite import HUB, Suite

PREFIXES = {
    "_orig_mod.": "torch.compile: save model._orig_mod",
    "module.": "DistributedDataParallel: save model.module",
    "_forward_module.": "Lightning: save the inner model",
    "_fsdp_wrapped_module.": "FSDP: gather the full state dict and save it",
}
MOST_HEADER_BYTES = 100 * 10**6
"""Longest header that safetensors allows."""


def refuse_quantized(config_file: Path) -> None:
    """Raise CheckpointError if a config.json says that its weights are quantized, or is no small regular file."""
    try:
        config = load_json(config_file)
    except OSError as error:
        raise CheckpointError(f"{config_file} cannot be read: {error.strerror or error}") from error
    except ValueError:
        return  # building the model names the fault
    said = quantization(config)
    if said is not None:
        raise CheckpointError(
            f"{config_file} says that it is already quantized ({said}): measure the checkpoint that was quantized"
        )


def quantization(config: Any) -> str | None:
    """Quantization that a config.json states, such as ``gptq, 4 bits``; None if it states none."""
    if not isinstance(config, dict):
        return None
    for name in ("quantization_config", "compression_config", "quantization"):
        said = config.get(name)
        if isinstance(said, dict) and said:
            method = said.get("quant_method") or said.get("quant_algo") or name
            bits = said.get("bits") or next((n for n in (4, 8) if said.get(f"load_in_{n}bit") is True), None)
            return f"{method}, {bits} bits"[:80] if bits else f"{method}"[:80]
    return quantization(config.get("text_config"))


def refuse_wrapped(file: Path) -> None:
    """Raise CheckpointError if all tensor names in a weight file have the prefix of a wrapper around the model."""
    names = _tensor_names(file)
    for prefix, what in PREFIXES.items():
        if names and all(name.startswith(prefix) for name in names):
            raise CheckpointError(
                f"the tensors' names in {file} begin with {prefix!r}, as under {what}, or take the prefix off"
            )


def unmeasurable(suite: Suite) -> dict[str, str]:
    """Revision -> reason for checkpoints that cannot be measured, as far as their files show it.

    On a hub only the first and the last configuration are read; if both are quantized, all checkpoints count as such.
    """
    if suite.location.startswith(HUB):
        ends = [
            _said(_refuse_quantized_on_hub, each) for each in suite.checkpoints[:1] + suite.checkpoints[-1:]
        ]
        if all(ends):
            return {checkpoint.revision: str(ends[0]) for checkpoint in suite.checkpoints}
    refuse = _refuse_foreign_on_hub if suite.location.startswith(HUB) else _refuse_local
    with ThreadPoolExecutor(8) as pool:
        reasons = pool.map(lambda each: _said(refuse, each), suite.checkpoints)
        return {
            checkpoint.revision: reason
            for checkpoint, reason in zip(suite.checkpoints, reasons, strict=True)
            if reason is not None
        }


def refuse_unmeasurable(suite: Suite) -> dict[str, str]:
    """Like :func:`unmeasurable`; raises UsageError if no checkpoint of the suite can be measured."""
    found = unmeasurable(suite)
    if found and len(found) == len(suite.checkpoints):
        revision, reason = next(iter(found.items()))
        others = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
        raise UsageError(f"no checkpoint of {suite.name} can be measured: {revision}{others}: {reason}")
    return found


def _said(refuse: Callable[[Checkpoint], None], checkpoint: Checkpoint) -> str | None:
    try:
        refuse(checkpoint)
    except CheckpointError as error:
        return str(error)
    return None


def _refuse_local(checkpoint: Checkpoint) -> None:
    folder = Path(checkpoint.location)
    try:
        files = weight_files(folder)
    except (
        CheckpointError
    ):  # incomplete: it may be complete when it is measured, unless it is of another kind
        if folder.is_dir() and what_it_is(names_below(folder)) is not None:
            raise
        return
    refuse_quantized(folder / "config.json")
    refuse_wrapped(files[0])


def _refuse_foreign_on_hub(checkpoint: Checkpoint) -> None:
    try:
        listing = list_commit(checkpoint.location.removeprefix(HUB), checkpoint.commit or "")
    except Exception:  # noqa: BLE001 (a hub that does not answer is named when the checkpoint is measured)
        return
    what = None if listing.weights else what_it_is(listing.names)
    if what is not None:
        raise CheckpointError(f"it {what}")


def _refuse_quantized_on_hub(checkpoint: Checkpoint) -> None:
    try:
        path = config_file(checkpoint)
    except CheckpointError:
        return
    refuse_quantized(path)


def _tensor_names(file: Path) -> list[str]:
    """Names of the tensors in a weight file, from its header alone; none if it is unreadable."""
    with suppress(Exception):  # a damaged file fails by name when it is measured
        if file.suffix == ".safetensors":
            with open_regular(file) as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(min(length, MOST_HEADER_BYTES)))
            return [name for name in header if name != "__metadata__"]
        with zipfile.ZipFile(file) as archive:
            (member,) = (each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            with archive.open(member) as opened:
                state = _NamesUnpickler(opened).load()
        return [name for name in state if isinstance(name, str)]
    return []


class _Nothing:
    """Placeholder for every object of a pickle that is not a name."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _NamesUnpickler(pickle.Unpickler):
    """An unpickler that reads a state dict's names and looks up or calls nothing."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Nothing

    def persistent_load(self, _: Any) -> Any:
        return None
