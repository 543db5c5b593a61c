"""From command-line options to an :class:`AuditRequest`: everything wrong with them is found here, before work."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from jobs.options import absolute_out, parse_steps
from pipeline.corpus import EvaluationTokens, TokenFile, evaluation_tokens, parse_corpus
from pipeline.errors import UsageError
from pipeline.shards import RunFolder
from pipeline.spec import DEFAULT_VARIANTS, ProbeSpec, TokenShape, parse_variants

if TYPE_CHECKING:
    from pipeline.audit import AuditRequest
    from pipeline.suites import Suite

DEFAULT_CORPUS = "docstrings"


@dataclass(frozen=True)
class AuditOptions:
    """The options of ``audit`` as typed."""

    suite: str
    out: str
    steps: str | None = None
    limit: int | None = None
    corpus: str | None = None
    variants: tuple[str, ...] = ()
    batches: int | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    address: str | None = None
    device: str = "auto"
    workers: int | None = None
    workers_per_gpu: int = 1
    replace_stale: bool = False

    @classmethod
    def from_command(cls, options: dict[str, Any]) -> AuditOptions:
        """Takes the options that ``audit`` has and leaves the others."""
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})


def build_request(options: AuditOptions) -> AuditRequest:
    """The request of ``options``; UsageError for whatever cannot be carried out."""
    from jobs.suite import resolve_suite
    from pipeline.audit import AuditRequest
    from pipeline.driver import Resources

    variants = parse_variants(options.variants or DEFAULT_VARIANTS)
    out = RunFolder(absolute_out(options.out))
    steps = parse_steps(options.steps)
    resources = Resources(options.address, options.device, options.workers_per_gpu, options.workers)
    corpus = parse_corpus(options.corpus) if options.corpus else None
    suite = resolve_suite(options.suite).select(steps, options.limit)
    corpus_text = options.corpus or suite.default_corpus or DEFAULT_CORPUS
    shape = _shape(options, suite)
    tokens, vocab_rows = _tokens(suite, corpus or parse_corpus(corpus_text), shape)
    probe = ProbeSpec(variants=variants, shape=shape, tokens_sha256=tokens.sha256, vocab_rows=vocab_rows)
    return AuditRequest(
        suite=suite,
        probe=probe,
        tokens=tokens,
        corpus=corpus_text,
        out=out,
        resources=resources,
        replace_stale=options.replace_stale,
    )


def _shape(options: AuditOptions, suite: Suite) -> TokenShape:
    base = suite.default_shape or TokenShape()
    return TokenShape(
        batches=base.batches if options.batches is None else options.batches,
        batch_size=base.batch_size if options.batch_size is None else options.batch_size,
        seq_len=base.seq_len if options.seq_len is None else options.seq_len,
    )


def _tokens(suite: Suite, corpus: Any, shape: TokenShape) -> tuple[EvaluationTokens, int | None]:
    """The evaluation tokens, and the number of real rows in the head where the suite's tokenizer tells it."""
    from pipeline.suites import load_tokenizer
    from pipeline.suites.model_config import model_config

    config = model_config(suite)
    context = config.get("max_position_embeddings") or config.get("n_positions")
    if isinstance(context, int) and shape.seq_len > context:
        raise UsageError(
            f"--seq-len {shape.seq_len}: the models of {suite.name} take at most {context} tokens"
        )
    tokenizer = None if suite.tokenizer is None else load_tokenizer(suite)
    if tokenizer is None and not isinstance(corpus, TokenFile):
        raise UsageError(
            f"suite {suite.name} has no tokenizer, so it cannot read text: give --corpus tokens:FILE.npy"
        )
    vocab_size = config.get("vocab_size")
    tokens = evaluation_tokens(corpus, shape, tokenizer, vocab_size=vocab_size)
    rows = None if tokenizer is None else len(tokenizer)
    return tokens, rows if rows is not None and isinstance(vocab_size, int) and rows < vocab_size else None
