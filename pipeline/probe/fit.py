"""Whether a checkpoint fits the memory as a whole; where it does not, it is measured layer by layer."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.probe.skeleton import WeightIndex

SPARE_BYTES = 2**30
"""Kept for activations and the runtime."""
USABLE_SHARE = 0.9
"""Of the free memory."""
_CGROUP = Path("/sys/fs/cgroup")


def fits_whole(folder: Path, n_variants: int, device: torch.device) -> bool:
    """Whether the whole-model path has room for the checkpoint in ``folder``: its float32 weights times
    (1 + variants), and a GiB to spare. ``CheckpointError`` where its weight files cannot be read.
    """
    elements = sum(shape.numel() for shape in WeightIndex.of(folder).shapes.values())
    return 4 * elements * (1 + n_variants) + SPARE_BYTES <= USABLE_SHARE * free_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Memory that this process could still take on ``device``."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_available(), _left_in_group())


def _available() -> int:
    """Bytes that Linux can give without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable line: Linux 3.14 or later is needed")


def _left_in_group() -> int:
    """What the limit of this process's control group (a container's, say) leaves; huge where there is none."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return 2**63
    return 2**63 if limit == "max" else max(0, int(limit) - int(used))
