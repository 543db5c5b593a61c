"""The arithmetics of one GPU side by side: the same checkpoints and tokens, one run, errors against float64.

The naive loop (``naive.py``), the same with TF32 products, and the probe in every arithmetic, which also yields
divergences and weight statistics, are compared. Times are of the steady state: after the first checkpoint, which
includes compilation, with weights on the local disk and the next checkpoint read in the background.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.benchmark.naive import naive_losses
from pipeline.benchmark.outcome import Benchmark, Seconds, Timing
from pipeline.models.arithmetic import available_arithmetics, float32_products
from pipeline.models.linear_layers import linear_sites
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.probe import Prober
from pipeline.quantize import round_trip
from pipeline.spec import ProbeSpec, TokenShape, Variant

CEILING_SIZE = 8192
"""Size of the square matrix product whose speed is the ceiling."""
REFERENCE_BATCHES = 1
"""Batches of tokens evaluated in float64, at a few percent of the other ways' speed: one resolves 1e-7 nats."""
REPEATS = 8
"""Checkpoints that the arithmetic of audits is timed on; slower ones on two."""


def with_arithmetics(
    found: Benchmark,
    folders: list[Path],
    tokens: np.ndarray,
    variants: tuple[Variant, ...],
    *,
    on_step: Callable[[str], None],
    on_part: Callable[[Benchmark], None],
) -> Benchmark:
    """``found`` with a row for every way on ``folders`` (used in turn) and ``tokens`` (int64 (batches, batch_size,
    seq_len)).

    A row's numbers: ``first_s`` (the first checkpoint, compilation included), ``tokens_per_s`` (per variant),
    ``useful_tflops`` (2 x weights x tokens x variants over the time, whatever the arithmetic computes) and their
    ``share_of_ceiling``, the speed of a float16 product. ``on_step`` is called before each measurement, ``on_part``
    with each result.
    """
    device, n = "cuda", REFERENCE_BATCHES
    exact, weights = _reference(folders[0], tokens[:n], variants, device, on_step)
    on_step("matrix products")
    fp16, fp32 = (_ceiling(dtype, device) for dtype in (torch.float16, torch.float32))
    found = found.plus(float16_product_tflops=fp16, float32_product_tflops=fp32, float64_batches=n)

    def add(name: str, times: list[float], first_s: float, peak: int, batch_nll: dict[str, Any]) -> None:
        nonlocal found
        seconds = Seconds.of(times)
        useful = 2e-12 * weights * tokens.size * len(variants) / seconds.median
        row = Timing(
            f"one process: {name}",
            ours=name.startswith("probe"),
            seconds=seconds,
            peak_gib=peak / 2**30,
            differences_nats={
                key: float(np.mean(values[:n]) - exact[key]) for key, values in batch_nll.items()
            },
            against="float64",
            numbers={
                "first_s": first_s,
                "tokens_per_s": tokens.size / seconds.median,
                "useful_tflops": useful,
                "share_of_ceiling": useful / fp16,
            },
        )
        found = found.plus(row)
        on_part(found)

    for tf32 in (False, True):
        name = "naive loop, TF32" if tf32 else "naive loop"
        on_step(name)
        add(name, *_time_naive(folders, tokens, variants, device, tf32=tf32, n=n))
    for arithmetic in reversed(available_arithmetics(device)):
        on_step(f"probe, {arithmetic}")
        count = REPEATS if arithmetic == "split" else 2
        timed = _time_probe(folders, tokens, variants, device, arithmetic=arithmetic, repeats=count)
        add(f"probe, {arithmetic}", *timed)
    return found


Timed = tuple[list[float], float, int, dict[str, Any]]


def _time_naive(
    folders: list[Path], tokens: np.ndarray, variants: tuple[Variant, ...], device: str, *, tf32: bool, n: int
) -> Timed:
    """``n``: batches whose losses are returned one by one."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    with float32_products(torch.device(device), tf32=tf32):
        start = time.perf_counter()
        naive_losses(folders[0], variants, tokens[:1], device)
        first_s, times = time.perf_counter() - start, []
        for folder in folders[:2]:
            start = time.perf_counter()
            naive_losses(folder, variants, tokens, device)
            times.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated(device)
        batches = [naive_losses(folders[0], variants, batch[None], device) for batch in tokens[:n]]
    return times, first_s, peak, {key: [batch[key] for batch in batches] for key in batches[0]}


def _time_probe(
    folders: list[Path],
    tokens: np.ndarray,
    variants: tuple[Variant, ...],
    device: str,
    *,
    arithmetic: str,
    repeats: int,
) -> Timed:
    torch.cuda.empty_cache()
    spec = ProbeSpec(variants, TokenShape(*tokens.shape), "", None, arithmetic)
    prober = Prober(spec, tokens, device)
    start = time.perf_counter()
    measured = prober.measure(folders[0])
    first_s = time.perf_counter() - start
    batch_nll = {result.variant: result.batch_nll_nats for result in measured.results}
    cycle = [folders[i % len(folders)] for i in range(1, repeats + 3)]
    prober.prefetch(cycle[0])
    times, peak = [], 0
    for folder, following in itertools.pairwise(cycle):
        start = time.perf_counter()
        prober.prefetch(following)
        peak = max(peak, prober.measure(folder).peak_bytes)
        times.append(time.perf_counter() - start)
    return times[1:], first_s, peak, batch_nll  # the first checkpoint had no measurement to be read behind


@torch.inference_mode()
def _reference(
    folder: Path,
    tokens: np.ndarray,
    variants: tuple[Variant, ...],
    device: str,
    on_step: Callable[[str], None],
) -> tuple[dict[str, float], int]:
    """Mean nll per variant in float64, one variant and one sequence at a time; and the number of weights per token."""
    on_step(f"float64 reference on {tokens.size:,} tokens")
    model = build_model(read_config(folder), read_weights(folder))
    sites = linear_sites(model)
    stored = [site.weight().clone() for site in sites]
    transposed = [site.weight().shape != site.module.weight.shape for site in sites]
    model = model.double().to(device)
    found = {}
    for variant in variants:
        on_step(f"float64 reference, {variant}")
        for site, weight, turned in zip(sites, stored, transposed, strict=True):
            value = weight
            quantizer = variant.quantizer_of(site.name, is_head=site.is_head)
            if quantizer is not None:
                value = round_trip(quantizer, weight)
            value = (value.T if turned else value).double().to(device)
            site.module.weight = nn.Parameter(value, requires_grad=False)
        losses = []
        for sequence in tokens.reshape(-1, tokens.shape[-1]):
            ids = torch.tensor(sequence[None], device=device)
            log_p = model(input_ids=ids).logits[0, :-1].double().log_softmax(dim=-1)
            losses.append(-log_p.gather(1, ids[0, 1:, None]).mean().item())
        found[str(variant)] = float(np.mean(losses))
    return found, sum(weight.numel() for weight in stored)


def _ceiling(dtype: torch.dtype, device: str) -> float:
    """TFLOP/s of a large product in ``dtype``, accumulated in float32; TF32 off."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(CEILING_SIZE, CEILING_SIZE, generator=generator, device=device).to(dtype)
        for _ in range(2)
    )
    times = []
    with float32_products(torch.device(device)):
        for _ in range(8):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            torch.mm(a, b)
            stop.record()
            torch.cuda.synchronize(device)
            times.append(start.elapsed_time(stop))
    return 2e-9 * CEILING_SIZE**3 / float(np.median(times))
