"""Adam's state beside a checkpoint of a local suite, by parameter name (``pretrain --keep-optimizer-at``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.errors import CheckpointError
from pipeline.base.files import open_regular

if TYPE_CHECKING:
    from torch import Tensor

MOMENTS_FILE = "moments.pt"


def keeps_moments(folder: Path) -> bool:
    """Whether Adam's state stands beside the weights in ``folder``."""
    return (folder / MOMENTS_FILE).is_file()


def read_moments(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Read Adam's state beside a checkpoint. Raises CheckpointError if it is missing or damaged."""
    import torch

    path = folder / MOMENTS_FILE
    try:
        with open_regular(path):  # opening a named pipe would block
            pass
        moments: dict[str, dict[str, Tensor]] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling a damaged file can raise anything; the message keeps the reason
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return moments
