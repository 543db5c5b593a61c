"""Quantization methods side by side: seconds per checkpoint and the losses they reach, beside other libraries.

Every variant is measured alone with fp32, whose own time is told beside it, and then all of them together, as an audit
does. Times are of one process with the checkpoint on the local disk, after a first checkpoint has paid for compiling,
and count reading, calibrating, quantizing and evaluating. Libraries do the same work on one checkpoint: they load it,
quantize it on the same calibration tokens, and are evaluated on the same evaluation tokens (``method_peers``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.benchmark.method_peers import PEERS, Peer
from pipeline.benchmark.naive import evaluate
from pipeline.probe import Prober
from pipeline.probe.result import device_name
from pipeline.spec import ProbeSpec, TokenShape, Variant

OnStep = Callable[[str, int, int], None]
"""Called with what is measured, checkpoints done and checkpoints in all."""


@dataclass(frozen=True)
class MethodTiming:
    """One variant, or several together."""

    name: str
    seconds_per_checkpoint: float
    """Median over the checkpoints, fp32 included."""
    nll_nats: float | None
    """Loss at the last checkpoint; None for several variants together."""
    peak_gib: float
    """GPU: most memory allocated. CPU: peak resident size of the process so far."""


@dataclass(frozen=True)
class PeerTiming:
    """Another library's quantization of the last checkpoint."""

    name: str
    """Library and variant."""
    seconds: float | None
    """From the folder to the quantized model in memory; None where there is none."""
    nll_nats: float | None
    reason: str = ""
    """Why there is no time: the library is not installed, or what it said."""


@dataclass(frozen=True)
class MethodComparison:
    """All methods on one device."""

    suite: str
    device: str
    checkpoints: int
    n_tokens: int
    """Tokens of the evaluation."""
    calibration_tokens: int
    """0 where no variant is calibrated."""
    timings: tuple[MethodTiming, ...]
    """fp32 alone first, all variants together last."""
    peers: tuple[PeerTiming, ...]

    def lines(self) -> list[str]:
        """The timings as text."""
        alone = self.timings[0]
        rows = [("", "s/checkpoint", "more than fp32", "nll nats", "peak GiB")]
        for each in self.timings:
            more = each.seconds_per_checkpoint - alone.seconds_per_checkpoint
            nll = "" if each.nll_nats is None else f"{each.nll_nats:.6f}"
            rows.append(
                (each.name, f"{each.seconds_per_checkpoint:.3f}", f"{more:+.3f}", nll, f"{each.peak_gib:.2f}")
            )
        for peer in self.peers:
            if peer.seconds is None:
                rows.append((f"{peer.name}: {peer.reason}", "", "", "", ""))
            else:
                nll = "" if peer.nll_nats is None else f"{peer.nll_nats:.6f}"
                rows.append((peer.name, f"{peer.seconds:.3f}", "", nll, ""))
        widths = [max(len(row[column]) for row in rows if row[1]) for column in range(5)]
        table = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in rows
        ]
        head = (
            f"{self.suite} on {self.device}: {self.checkpoints} checkpoints, {self.n_tokens:,} evaluation and "
            f"{self.calibration_tokens:,} calibration tokens"
        )
        return [head, *(line.rstrip() for line in table)]


def compare_methods(
    suite: str,
    folders: Sequence[Path],
    spec: ProbeSpec,
    tokens: np.ndarray,
    calibration: np.ndarray | None,
    *,
    device: str,
    on_step: OnStep = lambda *_: None,
) -> MethodComparison:
    """Times every variant of ``spec`` on the checkpoints in ``folders``.

    tokens: int64 (batches, batch_size, seq_len); calibration: int64 (sequences, seq_len), None where nothing needs it.
    """
    fp32, *others = spec.variants
    timings = []
    for name, variants in (
        ("fp32", (fp32,)),
        *((str(variant), (fp32, variant)) for variant in others),
        ("all together", spec.variants),
    ):

        def on_checkpoint(done: int, name: str = name) -> None:
            on_step(name, done, len(folders))

        own = ProbeSpec(variants, TokenShape(*tokens.shape), "", spec.vocab_rows, spec.arithmetic)
        timings.append(
            _timed(
                name,
                own,
                folders,
                tokens,
                calibration=calibration,
                device=device,
                on_checkpoint=on_checkpoint,
            )
        )
    peers = []
    for peer in PEERS:
        for variant in filter(peer.does, others):
            on_step(f"{peer.name}, {variant}", 0, 1)
            peers.append(_peer(peer, variant, folders[-1], tokens, calibration=calibration, device=device))
    return MethodComparison(
        suite=suite,
        device=device_name(torch.device(device)),
        checkpoints=len(folders),
        n_tokens=tokens.size,
        calibration_tokens=0 if calibration is None else calibration.size,
        timings=tuple(timings),
        peers=tuple(peers),
    )


def _timed(
    name: str,
    spec: ProbeSpec,
    folders: Sequence[Path],
    tokens: np.ndarray,
    *,
    calibration: np.ndarray | None,
    device: str,
    on_checkpoint: Callable[[int], None],
) -> MethodTiming:
    prober = Prober(spec, tokens, device, calibration=calibration if spec.is_calibrated else None)
    prober.measure(folders[0])
    times, peak, nll = [], 0, None
    for done, folder in enumerate(folders):
        on_checkpoint(done)
        start = time.perf_counter()
        measured = prober.measure(folder)
        times.append(time.perf_counter() - start)
        peak, nll = max(peak, measured.peak_bytes), measured.results[-1].nll_nats
    return MethodTiming(name, float(np.median(times)), nll if len(spec.variants) <= 2 else None, peak / 2**30)


def _peer(
    peer: Peer,
    variant: Variant,
    folder: Path,
    tokens: np.ndarray,
    *,
    calibration: np.ndarray | None,
    device: str,
) -> PeerTiming:
    name = f"{peer.name}, {variant}"
    if not peer.is_installed:
        return PeerTiming(name, None, None, f"{peer.module} is not installed here")
    if calibration is None:
        return PeerTiming(name, None, None, "no calibration tokens")
    try:
        start = time.perf_counter()
        model = peer.quantized(folder, variant, calibration, device)
        seconds = time.perf_counter() - start
        return PeerTiming(name, seconds, evaluate(model.eval(), tokens, device))
    except Exception as error:  # noqa: BLE001 - another library fails with whatever it fails with
        first_line = (str(error).splitlines() or [""])[0]
        return PeerTiming(name, None, None, f"failed with {type(error).__name__}: {first_line}")
