"""The pages take every number from findings.json, and findings.json from the reports; losses by another computation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.evidence.__main__ import DECISIONS, texts_of
from tests.evidence.claims import claims
from tests.evidence.pages import BEGIN, END, PLACE, README_TEMPLATE, TEMPLATE, fill
from tests.test_reference import REFERENCE, assert_close

README = REFERENCE / "../../README.md"
NAMES = (
    r"`[^`]*`",  # code
    r"\]\([^)]*\)",  # targets of links
    r"arXiv \d{4}\.\d{5}",
    r"(INT|NF|fp)\d+",
    r"4-bit|95 % intervals|seed \d|- 1;",
    r"(?m)^\d\. ",  # a numbered list
)
"""What may hold a digit in a template."""


@pytest.fixture(scope="module")
def kept() -> list[dict[str, Any]]:
    return json.loads((REFERENCE / "findings.json").read_text())


@pytest.fixture(scope="module")
def costs() -> dict[str, Any]:
    return json.loads((REFERENCE / "regrets.json").read_text())


@pytest.fixture(scope="module")
def texts(kept, costs) -> dict[str, str]:
    return texts_of(kept, costs)


def test_the_findings_are_those_of_the_committed_reports(kept):
    assert_close([each.to_json() for each in claims(REFERENCE)], kept, "findings.json")
    assert len({each["id"] for each in kept}) == len(kept)


def test_every_number_read_from_a_report_stands_at_its_key(kept):
    read = [each for each in kept if each["source"].endswith(".json") and not computed(each)]
    assert len(read) > 90
    for each in read:
        value = json.loads((REFERENCE / each["source"]).read_text())
        for part in each["key"]:
            if isinstance(part, dict):
                (value,) = [row for row in value if part.items() <= row.items()]
            else:
                value = value[part]
        if isinstance(value, dict):
            assert value["lower"] == each["lower"]
            assert value["upper"] == each["upper"]
            value = value.get("estimate", value.get("ratio"))
        assert value == each["estimate"], each["id"]


def test_every_text_is_its_number_rounded(kept):
    for each in kept:
        if isinstance(each["estimate"], str):
            assert each["text"].startswith(each["estimate"])
            continue
        words = re.sub(r"(?<=\d),(?=\d)", "", each["text"])
        numbers = re.findall(r"[+-]?\d+(?:\.\d+)?", words)
        values = [each[name] for name in ("estimate", "lower", "upper") if each[name] is not None]
        scale = 100 if each["unit"] == "%" else 1
        for number, value in zip(numbers, values, strict=True):
            digits = len(number.partition(".")[2])
            assert abs(float(number) - scale * value) <= 0.5001 * 10**-digits, each


def computed(finding: dict[str, Any]) -> bool:
    return any(isinstance(part, dict) and "computed" in part for part in finding["key"])


@pytest.mark.parametrize("template", [TEMPLATE, README_TEMPLATE], ids=["FINDINGS", "README"])
def test_a_template_holds_no_number_of_its_own(template: Path):
    words = PLACE.sub("", template.read_text())
    for name in NAMES:
        words = re.sub(name, "", words)
    assert not re.findall(r".{0,30}\d.{0,30}", words)


def test_the_pages_are_the_templates_filled_in(texts):
    assert (REFERENCE / "FINDINGS.md").read_text() == fill(TEMPLATE.read_text(), texts)
    block = README.read_text().split(BEGIN)[1].split(END)[0]
    assert block == fill(README_TEMPLATE.read_text(), texts)


def bounded(value: Any) -> Iterator[dict[str, float]]:
    """Every estimate with its interval in a file of decisions."""
    if isinstance(value, dict):
        if value.keys() >= {"estimate", "lower", "upper"}:
            yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from bounded(each)


@pytest.mark.parametrize("rule", sorted(DECISIONS))
def test_the_intervals_of_a_rules_result_are_in_its_decision_or_the_findings(rule: str, kept):
    decision = json.loads((REFERENCE / rule / "decision.json").read_text())
    held = {re.sub(r" %| nats| points", "", each["text"]) for each in kept}
    for each in bounded(decision):
        held.add("{estimate:.2f} [{lower:.2f}, {upper:.2f}]".format(**each))
    result = (REFERENCE / rule / "RULE.md").read_text().split("## Result")[1]
    told = re.findall(r"\d[\d.]*(?: %)?\s\[\d[\d., ]*\]", result)
    assert told
    for each in told:
        assert re.sub(r"\s+", " ", each.replace(" %", "")) in held


def test_losses_and_their_gains_are_those_of_the_tables(kept):
    found = {each["id"]: each["estimate"] for each in kept}
    late = {}
    for name in ("constant", "wsd", "cosine"):
        for seed in (0, 1):
            table = pl.read_csv(
                REFERENCE / "schedules" / f"{name}-seed{seed}" / "tables" / "trajectory.csv"
            ).to_dicts()
            losses = [row["int4_nll_nats"] for row in table if 27_600 <= row["step"] <= 28_600]
            late[name, seed] = sum(losses) / len(losses)
            assert found[f"loss.int4.{name}.{seed}"] == pytest.approx(late[name, seed])
    gains = sorted(late["constant", seed] - late[name, seed] for name in ("wsd", "cosine") for seed in (0, 1))
    assert (found["gain.smallest"], found["gain.largest"]) == pytest.approx((gains[0], gains[-1]))


def test_regrets_are_what_the_tables_say(costs):
    seen = 0
    for suite in costs["suites"]:
        table = REFERENCE / suite["suite"] / "tables" / "trajectory.csv"
        if not table.is_file():
            table = REFERENCE / f"{suite['suite']}.csv"
        if not table.is_file():
            continue  # of methods/ only the reports are kept
        seen += 1
        rows = pl.read_csv(table, infer_schema_length=None)
        if "duplicate_of" in rows.columns:
            rows = rows.filter(pl.col("duplicate_of").is_null())
        fp32, int4, step = (rows[name].to_numpy() for name in ("fp32_nll_nats", "int4_nll_nats", "step"))
        lowest, rules = int4.min(), suite["rules"]
        assert suite["best_step"] == step[int4.argmin()]
        assert rules["last checkpoint"]["regret_nats"] == pytest.approx(int4[-1] - lowest)
        assert rules["best fp32"]["regret_nats"] == pytest.approx(int4[fp32.argmin()] - lowest)
        for rule in rules.values():
            shipped = int4[np.flatnonzero(step == rule["shipped_step"])[0]]
            assert rule["regret_nats"] == pytest.approx(shipped - lowest)
        waited, stop = 0, None
        for index in range(1, len(int4)):
            waited = 0 if int4[index] < int4[:index].min() else waited + 1
            if waited == 3:
                stop = int(step[index])
                break
        assert rules["patience 3"]["stopped_at"] == stop
    assert seen >= 11


def test_the_regret_of_the_last_checkpoint_is_that_of_the_reports_decision(costs):
    for suite in costs["suites"]:
        if suite["regret_of_last"] is not None:
            last = suite["rules"]["last checkpoint"]["regret_nats"]
            assert suite["regret_of_last"]["estimate"] == pytest.approx(last, abs=1e-9)


def test_the_documents_name_no_file_that_is_not_there():
    for document in REFERENCE.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
