"""State that a worker keeps between tasks: the prober, the device lock, and what else a kind of work keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.base.retry import retry_while_away
from pipeline.runs.folder import RunFolder
from pipeline.runs.tasks import DeviceLock, new_prober
from pipeline.spec import ProbeSpec
from pipeline.suites import Fetcher

if TYPE_CHECKING:
    from pipeline.probe import Prober


class WarmState:
    """State of one worker process, shared by its threads."""

    def __init__(self) -> None:
        self.turn = DeviceLock()
        """Lock of the device: measurements take turns, while reading and writing overlap them."""
        self._prober: Prober | None = None
        self._kept: dict[str, Any] = {}
        self._making = threading.Lock()

    def prober(self, spec: ProbeSpec, folder: RunFolder, device: str) -> Prober:
        """The prober of ``spec`` with the tokens in ``folder``; the last one is kept."""
        with self._making:
            if self._prober is None or self._prober.spec != spec:
                self._prober = retry_while_away(lambda: new_prober(spec, folder, device))
            return self._prober

    def fetcher(self, cache_gb: float | None) -> Fetcher:
        """What fetches the next checkpoints meanwhile; one per worker."""
        found: Fetcher = self.kept("fetcher", lambda: Fetcher(cache_gb))
        return found

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """The object kept under ``name``; made at the first call."""
        with self._making:
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]
