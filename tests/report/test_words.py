"""The verdict says what the numbers say, and says so when they say nothing."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.report.html_text import HIDDEN, percent, redact
from pipeline.report.sections import problems_html, provenance_html
from pipeline.report.verdict import make_verdict
from tests.report.synthetic import fields, read, report

EVIDENCE = {
    "growth_ratio": 1.1, "growth_scale": "gap", "rise": 0.0, "noise_sd": 0.01, "noise_memory": 0.1,
}  # fmt: skip


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
            "INT4 damage takes off at step 900; full precision was not seen to converge.",
        ),
        (
            {"onset_step": None, "onset_evidence": EVIDENCE, "convergence_step": None},
            "No onset was detected: no step was found from which INT4 damage takes off.",
        ),
        (
            {"onset_step": None, "onset_evidence": EVIDENCE},
            "No onset was detected: no step was found from which INT4 damage takes off, "
            "although full precision converges at step 780.",
        ),
        (
            {"convergence_at_limit": True},
            "INT4 damage takes off at step 900, 120 steps after full precision may converge.",
        ),
        (
            {"onset_step": None, "onset_evidence": None, "convergence_step": None},
            "Cannot tell whether INT4 damage takes off.",
        ),
        (
            {"variant": "int3_g64_sym", "variants": {"int3_g64_sym": "int3-g64-sym"}},
            "int3-g64-sym damage takes off at step 900, 120 steps after full precision converges.",
        ),
    ],
)
def test_headline(changes: dict[str, Any], headline: str) -> None:
    assert make_verdict(report(**changes)).headline == headline


def kurtosis_words(**changes: Any) -> str:
    return " ".join(make_verdict(report(kurtosis_test=fields()["kurtosis_test"] | changes)).magnitudes)


def test_a_relation_of_kurtosis_is_told_with_what_is_left_of_it_without_trends() -> None:
    assert "weight kurtosis rises with the gap (r = 0.93" in kurtosis_words()
    assert "n = 54; without straight trends r = 0.61, p = 0.0010)" in kurtosis_words()
    assert "falls as the gap grows" in kurtosis_words(pearson_r=-0.93)


def test_a_correlation_of_trends_is_no_relation() -> None:
    words = kurtosis_words(related=False, detrended_pearson_r=0.04, detrended_pearson_p=0.8)
    assert "shows no clear relation to the gap (r = 0.93" in words
    assert "without straight trends r = 0.04" in words
    assert "rises with" not in words


def test_checkpoints_that_are_worth_less_than_is_assumed_are_told() -> None:
    test = fields()["kurtosis_test"] | {"n_effective": 3.0, "n_effective_unclipped": 0.6}
    grounds = dict(make_verdict(report(kurtosis_test=test)).grounds)
    assert grounds["Kurtosis"] == "54 checkpoints are worth 0.6 independent ones (p is that of 3)"


def test_how_sure_convergence_is_stands_beside_it() -> None:
    grounds = dict(make_verdict(report(convergence_share=0.72, convergence_at_limit=True)).grounds)
    assert grounds["Convergence"].endswith(
        "72 % of the resampled curves converge; the step lies at the limit of what the rule sees"
    )
    none = dict(
        make_verdict(report(convergence_step=None, convergence_ci=None, convergence_share=0.5)).grounds
    )
    assert none["Convergence"] == "none is claimed; 50 % of the resampled curves converge"


def test_nothing_is_said_of_what_was_not_measured() -> None:
    verdict = make_verdict(read({"suite": "x", "n_checkpoints": 3}))
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
    told = report(config=SECRETS, failures={"step1": SECRETS["log"]}, missing=[SECRETS["log"]])
    html = provenance_html(told) + problems_html(told)
    assert "abc123" not in html
    assert HIDDEN in html


def test_a_report_of_an_earlier_version_is_told_without_what_it_did_not_ask() -> None:
    test = fields()["kurtosis_test"]
    earlier = {key: test[key] for key in test if key != "related" and not key.startswith("detrended")}
    words = " ".join(make_verdict(report(kurtosis_test=earlier)).magnitudes)
    assert "weight kurtosis beside the gap (r = 0.93" in words
