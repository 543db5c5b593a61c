"""The verdict says what the numbers say, and says so when they say nothing."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.report.sections import problems_html, provenance_html
from pipeline.report.text import HIDDEN, percent, redact
from pipeline.report.verdict import make_verdict
from tests.report.synthetic import report

EVIDENCE = {"p_value": 0.4, "growth_ratio": 1.1, "rise": 0.0, "noise_sd": 0.01}


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({}, "INT4 damage takes off at step 900, 120 steps after full precision converges."),
        (
            {"convergence_step": 1000},
            "INT4 damage takes off at step 900, 100 steps before full precision converges.",
        ),
        (
            {"convergence_step": None},
            "INT4 damage takes off at step 900; full precision has not converged.",
        ),
        (
            {"onset_step": None, "onset_evidence": EVIDENCE, "convergence_step": None},
            "No onset: INT4 damage does not take off in this run.",
        ),
        (
            {"onset_step": None, "onset_evidence": EVIDENCE},
            "No onset: INT4 damage does not take off in this run, although full precision converges at step 780.",
        ),
        (
            {"onset_step": None, "onset_evidence": None, "convergence_step": None},
            "Cannot tell whether INT4 damage takes off.",
        ),
        (
            {"variant": "int3_g64_sym"},
            "INT3-G64-SYM damage takes off at step 900, 120 steps after full precision converges.",
        ),
    ],
)
def test_headline(changes: dict[str, Any], headline: str) -> None:
    assert make_verdict(report(**changes)).headline == headline


def test_an_interval_that_holds_zero_is_no_relation() -> None:
    test = {"pearson_r": 0.89, "pearson_ci": [-1.0, 1.0], "pearson_p": 0.3, "n": 43}
    sentences = " ".join(make_verdict(report(kurtosis_test=test)).magnitudes)
    assert "shows no clear relation" in sentences
    assert "rises with" not in sentences


def test_nothing_is_said_of_what_was_not_measured() -> None:
    verdict = make_verdict({"suite": "x", "n_checkpoints": 3})
    assert verdict.headline.startswith("Cannot tell")
    assert verdict.magnitudes == ()
    assert verdict.grounds == ()


def test_missing_checkpoints_are_named_first() -> None:
    warning = make_verdict(report(missing=[f"step{n:09d}" for n in range(20)])).warning
    assert warning.startswith("Incomplete: 20 expected checkpoints are missing")
    assert "step000000007, ..." in warning


def test_a_negative_gap_keeps_its_sign_and_a_tiny_one_is_zero() -> None:
    assert percent(-0.0012) == "\u22120.12 %"
    assert percent(-1e-9, sign=True) == "0 %"
    assert percent(5.17) == "517 %"


SECRETS = {
    "api_key": "abc123",
    "nested": [{"hf_token": "abc123"}],
    "url": "s3://user:pa55word@bucket/x?token=abc123",
    "log": "Authorization: Bearer abc123.def456 and hf_abc123abc123abc123",
    "key": "AKIAABCDEFGHIJKLMNOP",
}


def test_credentials_are_hidden_and_hashes_are_not() -> None:
    shown = str(redact(SECRETS))
    for secret in ("abc123", "pa55word", "AKIAABCDEFGHIJKLMNOP"):
        assert secret not in shown
    kept = {"tokens_sha256": "ab" * 32, "corpus": "tokens:eval.npy", "n_tokens": 65536}
    assert redact(kept) == kept


def test_credentials_do_not_reach_the_page() -> None:
    html = provenance_html(SECRETS, {}) + problems_html({"failures": {"step1": SECRETS["log"]}})
    assert "abc123" not in html
    assert HIDDEN in html
