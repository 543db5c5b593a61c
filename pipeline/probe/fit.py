"""Whether a checkpoint fits the memory as a whole; if not, it is measured layer by layer."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.models.arithmetic import has_triton
from pipeline.models.loading import read_config, text_config, vocabulary
from pipeline.models.memory import (
    USABLE_SHARE,
    ModelSize,
    calibration_bytes,
    cpu_logit_bytes,
    cpu_weight_bytes,
    whole_bytes,
    widest,
)
from pipeline.models.placeholders import WeightIndex
from pipeline.spec import ProbeSpec
from pipeline.suites.checkpoint_files import weight_files

SPARE_BYTES = 2**30
"""Bytes reserved for activations and the runtime."""
_CGROUP = Path("/sys/fs/cgroup")


def fits_whole(folder: Path, spec: ProbeSpec, device: torch.device, calibration_tokens: int = 0) -> bool:
    """Whether the whole checkpoint in ``folder`` fits the free memory of ``device``.

    On a CPU it takes the float32 weights times (1 + variants), the logits of a chunk and ``SPARE_BYTES``, on a GPU
    ``memory.whole_bytes``; calibrated variants take ``memory.calibration_bytes`` beside it, a swap the other
    checkpoint. The numbers do not depend on it. Raises CheckpointError if its weight files cannot be read.
    """
    needed, free = _needed(folder, spec, device, calibration_tokens), free_bytes(device)
    # The driver compared the bound with a share of a GPU's memory; here it is compared with the free memory.
    return needed <= (free if device.type == "cuda" else USABLE_SHARE * free)


def _needed(folder: Path, spec: ProbeSpec, device: torch.device, calibration_tokens: int) -> int:
    variants = widest(spec.variants, spec.mechanism)
    stored = _stored_bytes(folder)
    size = ModelSize.of(text_config(read_config(folder)).to_dict(), stored)
    calibrating = 0 if size is None else calibration_bytes(size, spec.variants, calibration_tokens)
    beside = calibrating + (stored if spec.swap else 0)
    if size is not None and device.type == "cuda" and has_triton():
        return beside + whole_bytes(size, variants, spec.shape, spec.arithmetic)
    logits = cpu_logit_bytes(vocabulary(read_config(folder)), len(variants), spec.shape)
    weights = cpu_weight_bytes(WeightIndex.of(folder).elements, len(variants))
    return beside + weights + logits + SPARE_BYTES


def _stored_bytes(folder: Path) -> int:
    """Lower bound on the bytes of all tensors."""
    files = weight_files(folder)
    if all(file.suffix == ".safetensors" for file in files):
        # Without opening the files, which takes 5 ms that a busy GPU may wait for.
        return sum(file.stat().st_size for file in files)
    # A pickle holds a tensor with two names once; on a GPU it is there twice.
    return sum(outline.nbytes for outline in WeightIndex.of(folder).outlines.values())


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can allocate on ``device``; on a GPU including what it holds for other checkpoints."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return min(_available(), _left_in_group())


def _available() -> int:
    """Bytes that Linux can allocate without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable line: Linux 3.14 or later is needed")


def _left_in_group() -> int:
    """Bytes left by the limit of this process's control group (such as a container's); huge without a limit."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return 2**63
    return 2**63 if limit == "max" else max(0, int(limit) - int(used))
