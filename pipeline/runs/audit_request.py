"""Build an :class:`AuditRequest` from plain options and find every fault in them before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import UsageError
from pipeline.corpus import EvaluationTokens, TokenFile, evaluation_tokens, parse_corpus
from pipeline.corpus.calibration_text import CalibrationShape, require_disjoint
from pipeline.corpus.grammar import Corpus
from pipeline.corpus.overlap import KnownRuns
from pipeline.measurements import CheckpointMeasurement, parse_measurements, selected
from pipeline.models.memory import widest
from pipeline.quantize.mechanism_option import parse_mechanism
from pipeline.quantize.variant import require_models
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.calibration_request import CalibrationNeed, OnSample, calibration_tokens, parse_calibration
from pipeline.runs.calibration_tokens import CalibrationTokens
from pipeline.runs.execution_mode import choose_execution
from pipeline.runs.folder import RunFolder
from pipeline.runs.output import run_folder
from pipeline.runs.requests import AuditRequest
from pipeline.runs.swap_option import require_swap
from pipeline.spec import DEFAULT_VARIANTS, FLATNESS, ProbeSpec, TokenShape, Variant, parse_variants
from pipeline.suites import Suite, load_tokenizer
from pipeline.suites.model_config import context_length, model_config
from pipeline.suites.optimizer_moments import MOMENTS_FILE, keeps_moments
from pipeline.suites.unmeasurable import refuse_unmeasurable
from pipeline.train.on_demand import open_or_train, planned_suite

if TYPE_CHECKING:
    from pipeline.driver import Resources

DEFAULT_CORPUS = "docstrings"


FindSuite = Callable[[str, str | None], "Suite"]
"""Opens the suite of a name, reduced to the revisions that match."""


def build_request(
    options: AuditOptions,
    find_suite: FindSuite = open_or_train,
    on_sample: OnSample = lambda *_: None,
    *,
    calibrated_on: CalibrationTokens | None = None,
    require: Callable[[Suite], object] = lambda _: None,
) -> AuditRequest:
    """Build the request of ``options``; raises UsageError for whatever cannot be carried out.

    ``on_sample`` hears how far calibration text is that a model has to write (``calibration_request``).
    ``require`` raises UsageError for a suite that does not serve the caller; it sees the chosen checkpoints before any
    text is read, and before a suite is trained those of its recipe.
    ``calibrated_on``: the calibration tokens of an earlier audit, to be used as they are; OverlapError if the
    evaluation text repeats them.
    """
    from pipeline.driver import require_device, resolve_device

    variants = parse_variants(options.variants or DEFAULT_VARIANTS)
    measurements = parse_measurements(options.measurements)
    mechanism, by_layer = parse_mechanism(options.mechanism, variants)
    out = run_folder(options.out)
    out.check()
    resources = resources_of(options)
    require_device(resources)
    corpus = None if options.corpus is None else parse_corpus(options.corpus)

    def choose(suite: Suite) -> Suite:
        chosen = _chosen(options, suite, variants, measurements)
        require(chosen)
        return chosen

    whole = options.suite
    if isinstance(whole, str):
        if (planned := planned_suite(whole, options.revisions)) is not None:
            _require_context(token_shape(options, planned), planned, planned.recipe["seq_len"])
            choose(planned)
        whole = find_suite(whole, options.revisions)
    suite = choose(whole)
    warnings = [*suite.warnings, *_unmeasurable(suite, variants)]
    corpus_text = suite.default_corpus or DEFAULT_CORPUS if options.corpus is None else options.corpus
    shape = token_shape(options, suite)
    tokens, vocab_rows = _tokens(suite, corpus or parse_corpus(corpus_text), shape, warnings)
    resources = dataclasses.replace(resources, device=resolve_device(resources))
    execution = choose_execution(options, suite, widest(variants, mechanism), shape, resources)
    if execution.stream:
        _require_layered((*measurements, *([FLATNESS] if options.flatness else [])), swap=bool(options.swap))
    probe = ProbeSpec(
        variants, shape, tokens.sha256, vocab_rows, execution.arithmetic,
        measurements=measurements, mechanism=mechanism, by_layer=by_layer,
        flatness=tuple(sorted(set(options.flatness))), swap=tuple(sorted(options.swap)),
    )  # fmt: skip
    calibration, told = _calibration(
        options, whole, probe, calibrated_on, evaluation=tokens, out=out, on_sample=on_sample
    )
    if calibration is not None:
        probe = dataclasses.replace(probe, calibration_sha256=calibration.sha256)
    return AuditRequest(
        suite=suite,
        probe=probe,
        tokens=tokens,
        calibration=calibration,
        corpus=corpus_text,
        out=out,
        resources=dataclasses.replace(resources, cpu_worker_bytes=execution.cpu_worker_bytes),
        replace_stale=options.replace_stale,
        cache_gb=options.cache_gb,
        stream=execution.stream,
        notes=execution.notes,
        warnings=(*warnings, *told),
    )


def _chosen(
    options: AuditOptions, whole: Suite, variants: Sequence[Variant], measurements: Sequence[str]
) -> Suite:
    """The checkpoints that ``options`` choose; raises UsageError for options that do not fit them."""
    suite = whole.select(options.steps, options.limit)
    suite.require_steps(options.flatness, "--flatness")
    _require_moments(measurements, suite)
    require_swap(options.swap, suite, variants)
    if options.calibration is not None:
        parse_calibration(options.calibration, whole)
    return suite


def _unmeasurable(suite: Suite, variants: Sequence[Variant]) -> list[str]:
    """Which checkpoints cannot be measured, and why; raises UsageError if none can be, or for a misfit of variants."""
    failing = refuse_unmeasurable(suite)
    if config := model_config(suite):  # where none can be read, every checkpoint fails by name
        require_models(variants, config)
    return [f"{revision} cannot be measured: {reason}" for revision, reason in failing.items()]


def _require_moments(measurements: Sequence[str], suite: Suite) -> None:
    """Raise UsageError for a measurement that takes Adam's state, if no checkpoint of ``suite`` keeps it."""
    takers = [each.name for each in selected(measurements, CheckpointMeasurement) if each.takes_moments]
    if takers and not any(keeps_moments(Path(each.location)) for each in suite.checkpoints):
        raise UsageError(
            f"--measure {takers[0]}: no checkpoint of {suite.name} keeps Adam's state ({MOMENTS_FILE} beside its "
            "weights): train with pretrain --keep-optimizer-at STEP,..., or leave it out"
        )


def _require_layered(measurements: tuple[str, ...], *, swap: bool) -> None:
    """Raise UsageError for what is impossible layer by layer."""
    if swap:
        raise UsageError(
            "--swap needs the weights of two checkpoints in memory, and these are measured layer by layer: leave it out"
        )
    if whole := selected(measurements, CheckpointMeasurement):
        raise UsageError(
            f"measurement {whole[0].name!r} needs the whole model, and these are measured layer by layer: "
            "leave it out"
        )


def _calibration(
    options: AuditOptions,
    suite: Suite,
    probe: ProbeSpec,
    calibrated_on: CalibrationTokens | None,
    *,
    evaluation: EvaluationTokens,
    out: RunFolder,
    on_sample: OnSample,
) -> tuple[CalibrationTokens | None, tuple[str, ...]]:
    """The calibration tokens where a variant of ``probe`` needs them, and what a user should know of them.

    ``suite``: all of it.
    """
    if calibrated_on is not None:
        known = KnownRuns(evaluation.array, probe.shape.seq_len)
        require_disjoint(calibrated_on.source, calibrated_on.array, known)
        return calibrated_on, ()
    shape = CalibrationShape(options.calibration_sequences, probe.shape.seq_len)
    if not probe.is_calibrated:
        unused = f"--calibration {options.calibration}: no variant is calibrated, so it is not used"
        return None, () if options.calibration is None else (unused,)
    need = CalibrationNeed(
        suite=suite,
        shape=shape,
        evaluation=evaluation.array,
        vocab_size=_count(model_config(suite), "vocab_size"),
        vocab_rows=probe.vocab_rows,
        cache_gb=options.cache_gb,
    )
    return calibration_tokens(options.calibration, need, out, on_sample)


def resources_of(options: AuditOptions) -> Resources:
    from pipeline.driver import Resources

    return Resources(
        address=options.address,
        device=options.device,
        workers_per_gpu=options.workers_per_gpu,
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
        task_timeout_s=options.task_timeout_s,
    )


def token_shape(options: AuditOptions, suite: Suite) -> TokenShape:
    base = suite.default_shape or TokenShape()
    return TokenShape(
        batches=base.batches if options.batches is None else options.batches,
        batch_size=base.batch_size if options.batch_size is None else options.batch_size,
        seq_len=base.seq_len if options.seq_len is None else options.seq_len,
    )


def _require_context(shape: TokenShape, suite: Suite, context: int | None) -> None:
    if context is not None and shape.seq_len > context:
        raise UsageError(
            f"--seq-len {shape.seq_len}: the models of {suite.name} take at most {context} tokens; "
            f"give --seq-len {context} or fewer"
        )


def _tokens(
    suite: Suite, corpus: Corpus, shape: TokenShape, warnings: list[str]
) -> tuple[EvaluationTokens, int | None]:
    """The evaluation tokens, and how many rows of the head stand for tokens (None: all, or not known)."""
    config = model_config(suite)
    _require_context(shape, suite, context_length(config))
    tokenizer = _tokenizer(suite, corpus, warnings)
    vocab_size = _count(config, "vocab_size")
    tokens = evaluation_tokens(corpus, shape, tokenizer, vocab_size=vocab_size)
    rows = None if tokenizer is None else len(tokenizer)
    padded = rows is not None and vocab_size is not None and rows < vocab_size
    return tokens, rows if padded else None


def _count(config: dict[str, Any], name: str) -> int | None:
    """A positive whole number in config.json; None for anything else, which fails by name when it is measured."""
    value = config.get(name)
    return value if type(value) is int and value > 0 else None


def _tokenizer(suite: Suite, corpus: Corpus, warnings: list[str]) -> Any:
    """The suite's tokenizer; None if it is missing or damaged and ``corpus`` does not need it."""
    if suite.tokenizer is None:
        if isinstance(corpus, TokenFile):
            return None
        raise UsageError(
            f"suite {suite.name} has no tokenizer, so it cannot read text: give --corpus tokens:FILE.npy"
        )
    try:
        return load_tokenizer(suite)
    except UsageError as error:
        if not isinstance(corpus, TokenFile):
            raise
        warnings.append(
            f"{error}; continuing without it, because {corpus} needs none: rows that pad the vocabulary are not known "
            "and count as weights"
        )
        return None
