"""Processes of their own that begin with torch and transformers loaded: copies of one that has loaded them.

A test that kills a process, or gives it another environment, need not wait for its imports too.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]
LOADED = (
    "pytest", "torch", "transformers.modeling_utils", "transformers.models.gpt_neox.modeling_gpt_neox",
    "transformers.models.llama.modeling_llama", "scipy.stats", "pandas", "pyarrow.dataset", "ray",
)  # fmt: skip
"""What takes long to import and starts no threads, which a copy would lack."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(LOADED))


class Forked:
    """A process that calls ``function``, which must be a module's, and ends as a program would.

    It leads a session of its own. Its interface is :class:`subprocess.Popen`'s.
    """

    def __init__(
        self, function: Callable[..., object], *arguments: object, env: Mapping[str, str] | None = None
    ) -> None:
        self._said = Path(tempfile.mkdtemp(prefix="forked-"))
        given = (
            str(self._said),
            str(Path.cwd()),
            dict(os.environ if env is None else env),
            function,
            arguments,
        )
        self._process = _context.Process(target=_call, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = 280) -> int:
        """The exit code; minus a signal's number where that ended it."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"it has not ended after {timeout} s"
        return self._process.exitcode

    def communicate(self, timeout: float | None = 280) -> tuple[str, str]:
        """What it wrote to its standard output and error, once it has ended."""
        self.wait(timeout)
        return self.said("out"), self.said("err")

    def said(self, stream: str) -> str:
        """What it has written so far to ``out`` or ``err``."""
        path = self._said / stream
        return path.read_text() if path.exists() else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None:
            self.kill()
        self.wait()
        self._process.close()
        shutil.rmtree(self._said, ignore_errors=True)


def ended(
    function: Callable[..., object], *arguments: object, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What became of a process that called ``function``."""
    with Forked(function, *arguments, env=env) as process:
        said, error = process.communicate()
        return subprocess.CompletedProcess(function.__name__, process.wait(), said, error)


def run_code(code: str, *words: str) -> None:
    """What ``python -c CODE WORDS`` does."""
    sys.argv = ["-c", *words]
    exec(code, {"__name__": "__main__"})


def run_script(path: Path, *words: str) -> None:
    """What ``python PATH WORDS`` does."""
    sys.argv = [str(path), *words]
    runpy.run_path(str(path), run_name="__main__")


def _call(
    said: str, folder: str, environment: dict[str, str], function: Callable[..., object], arguments: Any
) -> None:
    gc.freeze()  # what was loaded is no garbage
    os.setsid()
    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    # The hub client reads its settings when it is imported, and names them by their module when it uses them.
    importlib.reload(importlib.import_module("huggingface_hub.constants"))
    function(*arguments)
