"""The same quantization by other libraries: GPTQModel and llm-compressor, each in an environment where it is installed.

They run as a program of their own (``quantize_elsewhere``), with a Python that the user names or with this one, and
have limited time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.benchmark.outcome import Seconds, Timing
from pipeline.quantize import Method, Variant
from pipeline.quantize.integer import IntegerGrid

PROGRAM = Path(__file__).with_name("quantize_elsewhere.py")
LIMIT_S = 600.0
"""Seconds that a library may take for one checkpoint."""


@dataclass(frozen=True)
class Peer:
    """One library."""

    name: str
    module: str
    """What is imported."""
    methods: tuple[str, ...]
    """Names of the methods that it has."""

    def does(self, variant: Variant) -> bool:
        """Whether it has the method and the grid of ``variant``."""
        method = _method(variant)
        return method is not None and method.name in self.methods and isinstance(method.grid, IntegerGrid)

    def timing(
        self,
        variant: Variant,
        folder: Path,
        tokens: np.ndarray,
        calibration: np.ndarray | None,
        *,
        device: str,
        pythons: Sequence[str] = (),
        limit_s: float = LIMIT_S,
    ) -> Timing:
        """Seconds and loss of its quantization of the checkpoint in ``folder``, or the reason why there are none.

        tokens: int64 (batches, batch_size, seq_len); calibration: int64 (sequences, seq_len). ``pythons``: interpreters
        to look for it in, before this one.
        """
        what = f"{self.name}, {variant}"
        python = next((each for each in (*pythons, sys.executable) if _has(each, self.module)), None)
        if python is None:
            return Timing(what, ours=False, absent=f"{self.module} is not installed here")
        if calibration is None:
            return Timing(what, ours=False, absent="no calibration tokens")
        with tempfile.TemporaryDirectory(prefix="int4-collapse-") as scratch:
            place = Path(scratch)
            np.save(place / "tokens.npy", tokens)
            np.save(place / "calibration.npy", calibration)
            call = self._call(variant, folder, place, device)
            try:
                code, said = _run([python, str(PROGRAM), json.dumps(call)], place, limit_s)
            except subprocess.TimeoutExpired:
                return Timing(what, ours=False, absent=f"stopped after {limit_s:.0f} s")
            if code:
                last = (said.strip().splitlines() or ["nothing said"])[-1]
                return Timing(what, ours=False, absent=f"failed with {last:.300}")
            answer = json.loads((place / "answer.json").read_text())
        seconds = Seconds.of([answer["seconds"]])
        return Timing(what, ours=False, seconds=seconds, nll_nats=answer["nll_nats"])

    def _call(self, variant: Variant, folder: Path, place: Path, device: str) -> dict[str, object]:
        method = _method(variant)
        assert method is not None
        assert isinstance(method.grid, IntegerGrid)
        return {
            "library": self.module,
            "method": method.name,
            "bits": method.grid.bits,
            "group_size": method.grid.group_size,
            "symmetric": method.grid.symmetric,
            "folder": str(folder.absolute()),
            "tokens": str(place / "tokens.npy"),
            "calibration": str(place / "calibration.npy"),
            "answer": str(place / "answer.json"),
            "device": device,
        }


PEERS = (Peer("GPTQModel", "gptqmodel", ("gptq",)), Peer("llm-compressor", "llmcompressor", ("gptq", "awq")))


def _run(command: list[str], folder: Path, limit_s: float) -> tuple[int, str]:
    """Exit code and stderr of ``command``; whatever it started ends with it, or after ``limit_s`` seconds."""
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=limit_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, said


@cache
def _has(python: str, module: str) -> bool:
    """Whether ``module`` can be imported by the interpreter ``python``."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    try:
        return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _method(variant: Variant) -> Method | None:
    """Its one method; None where it has none, or rules for single layers, or the output head in it."""
    if len(variant.rules) != 1 or variant.head or not isinstance(variant.rules[0].quantizer, Method):
        return None
    return variant.rules[0].quantizer
