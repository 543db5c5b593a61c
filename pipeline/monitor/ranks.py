"""Measuring in a distributed run: on rank 0, for every process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pipeline.base.errors import CollapseError
from pipeline.monitor.verdicts import Observed


def on_rank_0(measured: Callable[[], Observed]) -> Observed:
    """Return the result of ``measured`` on rank 0 to every rank; its error too, so that no process waits forever."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return measured()
    said: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            said = [measured()]
        except CollapseError as error:
            said = [error]
        except Exception as error:
            torch.distributed.broadcast_object_list(
                [CollapseError(f"{type(error).__name__}: {error}")], src=0
            )
            raise
    torch.distributed.broadcast_object_list(said, src=0)
    if isinstance(said[0], CollapseError):
        raise said[0]
    observed: Observed = said[0]
    return observed
