"""Quantization methods side by side: seconds per checkpoint and the losses they reach, beside other libraries.

Every variant is measured alone with fp32, whose own time is told beside it, and then all of them together, as an audit
does. Times are of one process with the checkpoint on the local disk, after a first checkpoint has paid for compiling,
and count reading, calibrating, quantizing and evaluating. Libraries do the same work on one checkpoint: they load it,
quantize it on the same calibration tokens, and are evaluated on the same evaluation tokens (``method_peers``).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.benchmark.method_peers import PEERS
from pipeline.benchmark.outcome import Benchmark, OnPart, OnStep, Seconds, Timing
from pipeline.probe import Prober
from pipeline.probe.result import device_name
from pipeline.spec import ProbeSpec, TokenShape


def compare_methods(
    suite: str,
    folders: Sequence[Path],
    spec: ProbeSpec,
    tokens: np.ndarray,
    calibration: np.ndarray | None,
    *,
    device: str,
    pythons: Sequence[str] = (),
    on_step: OnStep = lambda *_: None,
    on_part: OnPart = lambda _: None,
) -> Benchmark:
    """Time every variant of ``spec`` on the checkpoints in ``folders``; losses are of the last one.

    tokens: int64 (batches, batch_size, seq_len); calibration: int64 (sequences, seq_len), None where nothing needs it.
    ``pythons``: interpreters of environments in which other libraries may be.
    """
    fp32, *others = spec.variants
    found = Benchmark(
        "methods", suite, unit="checkpoint", base="fp32", device=device_name(torch.device(device))
    ).plus(
        checkpoints=len(folders),
        n_tokens=tokens.size,
        calibration_tokens=0 if calibration is None else calibration.size,
    )
    for name, variants in (
        ("fp32", (fp32,)),
        *((str(variant), (fp32, variant)) for variant in others),
        ("all together", spec.variants),
    ):

        def on_checkpoint(done: int, name: str = name) -> None:
            on_step(name, done, len(folders))

        own = ProbeSpec(variants, TokenShape(*tokens.shape), "", spec.vocab_rows, spec.arithmetic)
        prober = Prober(own, tokens, device, calibration=calibration if own.is_calibrated else None)
        found = found.plus(_timed(name, prober, folders, on_checkpoint))
        on_part(found)
    for peer in PEERS:
        for variant in filter(peer.does, others):
            on_step(f"{peer.name}, {variant}", 0, 1)
            row = peer.timing(variant, folders[-1], tokens, calibration, device=device, pythons=pythons)
            ours = found.row(str(variant)).nll_nats
            if row.nll_nats is not None and ours is not None:
                differences = {str(variant): row.nll_nats - ours}
                row = dataclasses.replace(row, differences_nats=differences, against="our method")
            found = found.plus(row)
            on_part(found)
    return found.plus(complete=True)


def _timed(
    name: str, prober: Prober, folders: Sequence[Path], on_checkpoint: Callable[[int], None]
) -> Timing:
    """The row ``name``; the loss where no more than one variant is measured beside fp32."""
    prober.measure(folders[0])
    times, peak = [], 0
    for done, folder in enumerate(folders):
        on_checkpoint(done)
        start = time.perf_counter()
        measured = prober.measure(folder)
        times.append(time.perf_counter() - start)
        peak = max(peak, measured.peak_bytes)
    return Timing(
        name,
        ours=True,
        seconds=Seconds.of(times),
        peak_gib=peak / 2**30,
        nll_nats=measured.results[-1].nll_nats if len(measured.results) <= 2 else None,
    )
