import re

import pytest

from pipeline.base.errors import UsageError
from pipeline.suites import open_suite
from pipeline.suites.revisions import parse_revision, sort_revisions


@pytest.mark.parametrize(
    ("name", "step", "stage", "tokens"),
    [
        ("step143000", 143000, "", None),
        ("step00100", 100, "", None),
        ("step1000-tokens4B", 1000, "", 4 * 10**9),
        ("step50000-tokens1.5T", 50000, "", 1_500_000_000_000),
        ("step100-tokens500M", 100, "", 5 * 10**8),
        ("step1-tokens2.5K", 1, "", 2500),
        ("stage1-step150-tokens1B", 150, "stage1", 10**9),
        ("stage2-ingredient3-step1000-tokens3B", 1000, "stage2-ingredient3", 3 * 10**9),
        ("stage2-step-40000", 40000, "stage2", None),
        ("ckpt_007", 7, "", None),
        ("checkpoint-500", 500, "", None),
        ("iter_0000100", 100, "", None),
        ("global_step25", 25, "", None),
    ],
)
def test_every_family_of_names_is_understood(name, step, stage, tokens):
    found = parse_revision(name)
    assert (found.step, found.stage, found.tokens) == (step, stage, tokens)


@pytest.mark.parametrize(
    "name",
    ["main", "step", "stepx", "step12-old", "my-step12", "checkpoint-best", "step-1", "step" + "9" * 30],
)
def test_other_names_are_not_checkpoints(name):
    assert parse_revision(name) is None


def test_order_is_by_number_and_stage():
    names = [
        "stage2-ingredient10-step5-tokens1B",
        "stage2-ingredient2-step5-tokens1B",
        "stage1-step9-tokens1B",
    ]
    revisions, skipped = sort_revisions([*names, "main"])
    assert [revision.name for revision in revisions] == names[::-1]
    assert skipped == ["main"]
    assert [r.step for r in sort_revisions({"step10", "step9", "step1000", "step0"})[0]] == [0, 9, 10, 1000]


@pytest.mark.parametrize(
    ("pattern", "name", "complaint"),
    [
        ("checkpoint-(?P<step>.+)", "checkpoint-best", r"reads in 'checkpoint-best' 'best' as the step"),
        ("run(?P<step>\\d*)", "run", r"'' as the step"),
        ("run(?P<step>\\d+)", "run\u0663", "as the step"),
        ("run(?P<step>\\d+)", "run" + "9" * 19, "as the step"),
        ("run(?P<step>-?\\d+)", "run-3", "'-3' as the step"),
        ("s(?P<step>\\d+)-(?P<tokens>.+)(?P<unit>B)", "s1-fewB", "'few' as the tokens"),
        ("s(?P<step>\\d+)-(?P<tokens>[\\d.]+)(?P<unit>B)", "s1-1.2.3B", r"'1.2.3' as the tokens"),
        (
            "s(?P<step>\\d+)-(?P<tokens>\\d+)(?P<unit>.*)",
            "s1-5Q",
            "'Q' as the unit of its tokens: wanted K, M",
        ),
        ("s(?P<step>\\d+)-(?P<tokens>\\d+)(?P<unit>.*)", "s1-99999999T", "wanted a number below"),
    ],
)
def test_a_group_that_holds_something_else_is_refused(tmp_path, pattern, name, complaint):
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=complaint):
        open_suite(str(tmp_path), pattern)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("500M", 5 * 10**8), ("500m", 5 * 10**8), ("7k", 7000), ("0.29B", 290_000_000), ("12", 12), ("", None)],
)
def test_tokens_of_any_unit_are_read(text, tokens):
    pattern = re.compile(r"s(?P<step>\d+)-(?P<tokens>[\d.]+)?(?P<unit>[a-zA-Z])?")
    assert parse_revision(f"s8-{text}", pattern).tokens == tokens
