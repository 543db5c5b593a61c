"""What the registry says, held against the names that are published."""

import pytest

from pipeline.suites import HubSuite, known_suites, registered_suite, repository_suite
from pipeline.suites.revisions import RevisionChoice, parse_revision

PYTHIA = [f"step{step}" for step in (0, *(2**n for n in range(10)), *range(1000, 144_000, 1000))]


@pytest.mark.parametrize(
    ("suite", "name", "step", "stage", "tokens"),
    [
        ("pythia-1.4b-deduped", "step143000", 143_000, "", 299_892_736_000),
        ("pythia-410m-seed9", "step512", 512, "", 1_073_741_824),
        ("olmo-7b", "step1000-tokens4B", 1000, "", 4 * 10**9),
        ("olmoe-1b-7b", "step1220000-tokens5117B", 1_220_000, "", 5117 * 10**9),
        ("olmo-2-1b", "stage1-step1000-tokens3B", 1000, "stage1", 3 * 10**9),
        ("olmo-2-32b", "stage2-ingredient3-step900-tokens8B", 900, "stage2-ingredient3", 8 * 10**9),
        ("smollm3-3b", "stage1-step-40000", 40_000, "stage1", 94_371_840_000),
        ("apertus-70b", "step50000-tokens0.2T", 50_000, "", 2 * 10**11),
        ("amber", "ckpt_358", 358, "", None),
        ("open-sci-1.7b", "iter_0005000", 5000, "", None),
    ],
)
def test_the_names_of_every_family_are_read(suite, name, step, stage, tokens):
    entry = registered_suite(suite)
    found = parse_revision(name, RevisionChoice(entry.pattern).pattern())
    assert (found.step, found.stage) == (step, stage)
    assert (entry.tokens_seen(name, step) or found.tokens) == tokens
    assert repository_suite(entry.repository) is entry


def test_the_known_defects_of_pythia_name_what_was_reported():
    large = registered_suite("pythia-2.8b")
    assert sum("step" in warning for warning in large.warnings(PYTHIA)) == 1
    assert len([name for name in PYTHIA if large.warnings([name])]) == 86
    assert "EleutherAI/pythia#205" in large.warnings(PYTHIA)[0]
    assert registered_suite("pythia-160m").warnings(PYTHIA) == []
    assert registered_suite("pythia-12b").warnings(["step50000"])[0].endswith("(EleutherAI/pythia#206)")


def test_every_learning_rate_of_pythia_is_flat_from_where_the_clip_begins():
    for name in known_suites():
        entry = registered_suite(name)
        if isinstance(entry, HubSuite) and name.startswith("pythia"):
            rates = [entry.learning_rate(f"step{step}", step) for step in (0, 1, 1431, 115_200, 143_000)]
            peak = entry.training.peak_lr
            assert rates == pytest.approx([0, 0, peak, peak / 10, peak / 10], rel=1e-3)


def test_the_rate_of_olmo_2_is_that_of_its_first_stage():
    entry = registered_suite("olmo-2-7b")
    assert entry.learning_rate("stage1-step2001-tokens9B", 2001) == pytest.approx(3e-4)
    assert entry.tokens_seen("stage1-step928646-tokens3896B", 928_646) == pytest.approx(3896e9, abs=1e9)
    last = entry.learning_rate("stage1-step928646-tokens3896B", 928_646)
    assert last == pytest.approx(6.14e-5, rel=1e-2), "the stage ended before its cosine did"
    assert entry.learning_rate("stage2-ingredient1-step1000-tokens5B", 1000) is None
    assert entry.tokens_seen("stage2-ingredient1-step1000-tokens5B", 1000) is None
