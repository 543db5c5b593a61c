import pytest

from pipeline.suites.revisions import parse_revision, sort_revisions


@pytest.mark.parametrize(
    ("name", "step", "stage", "tokens"),
    [
        ("step143000", 143000, "", None),
        ("step00100", 100, "", None),
        ("step1000-tokens4B", 1000, "", 4 * 10**9),
        ("step50000-tokens1.5T", 50000, "", 1_500_000_000_000),
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
    "name", ["main", "step", "stepx", "step12-old", "my-step12", "checkpoint-best", "step-1"]
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
