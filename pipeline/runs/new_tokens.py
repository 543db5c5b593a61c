"""An audit on the tokens of a corpus that come after those of an earlier audit."""

from __future__ import annotations

import dataclasses

from pipeline.base.fingerprints import tokens_sha256
from pipeline.corpus import EvaluationTokens
from pipeline.runs.requests import AuditRequest


def without_first(request: AuditRequest, batches: int) -> AuditRequest:
    """``request`` without its first ``batches``; a corpus is cut in order, so an audit on those shares no token."""
    array = request.tokens.array[batches:]
    tokens = EvaluationTokens(array, tokens_sha256(array))
    shape = dataclasses.replace(request.probe.shape, batches=len(array))
    probe = dataclasses.replace(request.probe, shape=shape, tokens_sha256=tokens.sha256)
    return dataclasses.replace(request, tokens=tokens, probe=probe)
