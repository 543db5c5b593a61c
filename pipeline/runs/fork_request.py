"""Build a :class:`ForkRequest` from plain options and find every fault in them before any work."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.base.devices import cuda_memory
from pipeline.base.errors import UsageError
from pipeline.quantize.mechanism_option import parse_mechanism
from pipeline.runs.audit_request import FindSuite, build_request
from pipeline.runs.calibration_request import OnSample
from pipeline.runs.fork_course import ForkCourse, keeps_start, optimizer_of, settle_course
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.output import run_folder
from pipeline.runs.requests import AuditRequest, ForkRequest
from pipeline.runs.shard_schema import FORK
from pipeline.runs.training_tokens import read_training
from pipeline.spec import DEFAULT_VARIANTS, parse_variants
from pipeline.suites import fetch, weight_files
from pipeline.train.arms import check_rates, parse_arms
from pipeline.train.fork_spec import ForkSpec
from pipeline.train.on_demand import open_or_train
from pipeline.train.start import Start

if TYPE_CHECKING:
    from pipeline.driver import Resources

SMALL_WEIGHTS_BYTES = 2**26
"""Weight files below this size, bytes, belong to models that are too small for four runs to fill a GPU."""
COMPILE_FROM_STEPS = 300
"""Updates from which compiling pays off for a run on a GPU."""
STATE_AFTER_S = 60.0
"""Shortest time in seconds between two states of a run without ``--state-every``: losing a minute costs less than
saving ten times the weights (with moments and averages) at every probe."""


def build_fork_request(
    options: ForkOptions, find_suite: FindSuite = open_or_train, on_sample: OnSample = lambda *_: None
) -> ForkRequest:
    """Build the request of ``options``; raises UsageError for whatever cannot be carried out.

    ``on_sample``: as in ``build_request``.
    """
    _check_numbers(options)
    _check_probes(options)
    arms = parse_arms(options.schedules, sweep=options.sweep, optimizers=options.optimizers)
    out = run_folder(options.audit.out, FORK)
    audit = build_request(
        options.audit, find_suite, on_sample, require=lambda chosen: settle_course(options, chosen, arms)
    )
    suite = audit.suite
    course = settle_course(options, suite, arms)
    start, rates, resolved = course.start, course.rates, course.arms
    train = read_training(options.train_corpus, options.data, suite, out)
    epochs = _epochs(options, len(train.tokens), rates.steps, course.step_tokens[0])
    for arm in resolved:  # slow in runs that are longer than the text
        check_rates(arm, rates)
    spec = _spec(options, audit, course, train_sha256=train.sha256)
    return ForkRequest(
        suite=suite.name,
        checkpoint=start.checkpoint,
        start_rule=start.rule,
        spec=spec,
        arms=resolved,
        seeds=options.seeds,
        tokens=audit.tokens,
        train=train,
        calibration=audit.calibration,
        corpus=audit.corpus,
        out=out,
        resources=_resources(options, audit, start),
        state_every=spec.probe_every if options.state_every is None else options.state_every,
        state_after_s=STATE_AFTER_S if options.state_every is None else 0.0,
        notes=(*epochs, *_cold_note(course, spec)),
        warnings=audit.warnings,
        replace_stale=options.audit.replace_stale,
        monitor=options.monitor,
    )


def _spec(options: ForkOptions, audit: AuditRequest, course: ForkCourse, *, train_sha256: str) -> ForkSpec:
    """The settings that the runs share."""
    every, (tokens, seq_len) = course.probe_every, course.step_tokens
    precision = _precision(options)
    pays_off = precision == "bf16" and course.rates.steps >= COMPILE_FROM_STEPS
    return ForkSpec(
        content_id=course.start.checkpoint.content_id,
        rates=course.rates,
        probe=audit.probe,
        probe_every=every,
        sequences=tokens // seq_len,
        seq_len=seq_len,
        train_sha256=train_sha256,
        optimizer=optimizer_of(audit.suite),
        moments=course.moments,
        precision=precision,
        compiled=pays_off if options.compile is None else options.compile,
        # a memory of two probe intervals
        ema_decay=1 - 1 / (2 * every) if options.ema_decay is None else options.ema_decay,
        lawa_window=options.lawa_window,
    )


def _cold_note(course: ForkCourse, spec: ForkSpec) -> tuple[str, ...]:
    if spec.moments != "cold":
        return ()
    why = "muon has no use for the suite's" if keeps_start(course.start) else "the suite keeps none"
    ramp = spec.rates.rewarm_steps
    return (f"Adam's moments start cold, after a learning-rate ramp of {ramp} steps: {why}",)


def _check_probes(options: ForkOptions) -> None:
    """Raise UsageError for probes that no fork has."""
    variants = parse_variants(options.audit.variants or DEFAULT_VARIANTS)
    if parse_mechanism(options.audit.mechanism, variants)[1]:
        raise UsageError(
            "--mechanism layers: the layers of a fork's runs are not measured alone; audit their suite"
        )
    if options.monitor and all(each.is_fp32 for each in variants):
        raise UsageError(
            "--monitor: fp32 alone is measured; wanted a quantized variant, such as --variant int4"
        )


def _check_numbers(options: ForkOptions) -> None:
    """Raise UsageError for a number that no suite could be forked with."""
    counts = (
        ("seeds", options.seeds, 1), ("steps", options.n_steps, 2), ("probe-every", options.probe_every, 1),
        ("tokens-per-step", options.tokens_per_step, 1), ("rewarm-steps", options.rewarm_steps, 0),
        ("state-every", options.state_every, 1), ("lawa-window", options.lawa_window, 1),
    )  # fmt: skip
    for name, given, least in counts:
        if given is not None and given < least:
            raise UsageError(f"--{name} {given}: wanted at least {least}")
    if options.ema_decay is not None and not 0 <= options.ema_decay < 1:
        raise UsageError(f"--ema-decay {options.ema_decay:g}: wanted 0 to less than 1")
    if options.precision not in ("auto", "fp32", "bf16"):
        raise UsageError(f"--precision {options.precision}: wanted auto, fp32 or bf16")
    rate = options.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"--learning-rate {rate:g}: wanted a number above 0")


def _resources(options: ForkOptions, audit: AuditRequest, start: Start) -> Resources:
    """The requested resources; by default several runs share a GPU, because one small model does not fill it."""
    if not options.share_gpu:
        return audit.resources
    folder = fetch(start.checkpoint)
    small = sum(file.stat().st_size for file in weight_files(folder)) < SMALL_WEIGHTS_BYTES
    return replace(audit.resources, workers_per_gpu=4 if small else 2)


def _epochs(options: ForkOptions, available: int, steps: int, tokens_per_step: int) -> tuple[str, ...]:
    """A note if the runs see a token more than once; raises UsageError unless that is allowed."""
    epochs = steps * tokens_per_step / max(available, 1)
    if epochs <= 1:
        return ()
    told = f"{steps:,} steps of {tokens_per_step:,} tokens are {epochs:.1f} epochs of the {available:,} training tokens"
    if not options.allow_epochs:
        raise UsageError(
            f"{told}: give a larger --train-corpus or fewer --steps, or allow it with --allow-epochs"
        )
    return (told,)


def _precision(options: ForkOptions) -> str:
    if options.precision != "auto":
        return options.precision
    if options.audit.device == "cpu":
        return "fp32"
    return "bf16" if options.audit.device == "cuda" or cuda_memory() else "fp32"
