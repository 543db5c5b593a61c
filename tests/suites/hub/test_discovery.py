"""What is known of a repository before any weight is downloaded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.suites.hub.client import command, python
from tests.suites.hub.server import Hub, serve

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 144_000, 1000)]
OPEN = """
import json
from pipeline.base.errors import CollapseError
from pipeline.suites import open_suite
try:
    suite = open_suite({name!r}, {revisions!r})
    print(json.dumps(dict(
        checkpoints=[(c.revision, c.step, c.stage, c.tokens_seen, c.commit, c.weights_sha256, c.duplicate_of)
                     for c in suite.checkpoints],
        skipped=suite.skipped, warnings=suite.warnings, tokenizer=suite.tokenizer)))
except CollapseError as error:
    print(json.dumps(f"{{type(error).__name__}}: {{error}}"))
"""


def weights(seed: int, size: int = 500) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def opened(hub, home, name="org/run", revisions=None, **settings):
    return python(hub, home, OPEN.format(name=name, revisions=revisions), **settings)


@pytest.fixture
def pythia():
    """154 revisions named like Pythia's and a main branch; step0 and step1 are equal, step3000 repeats step2000."""
    hub = Hub("org/run")
    same = {1: 0, 3000: 2000}
    for step in reversed(STEPS):
        hub.push(f"step{step}", {"config.json": b"{}", "model.safetensors": weights(same.get(step, step))})
    hub.push("main", {"README.md": b"-"})
    with serve(hub):
        yield hub


def test_a_listing_of_several_pages_is_read_to_its_end(tmp_path):
    shards = {f"model-{n:05d}-of-00004.safetensors": weights(n) for n in range(1, 5)}
    files = {"config.json": b"{}", "model.safetensors.index.json": b"{}", **shards}
    hub = Hub("org/run")
    hub.push("step1", files)
    hub.push("step2", {**files, "model-00004-of-00004.safetensors": weights(9)})
    with serve(hub):
        whole = opened(hub, tmp_path / "whole")
        hub.page, hub.log = 2, []
        assert opened(hub, tmp_path / "paged") == whole
    assert [duplicate for *_, duplicate in whole["checkpoints"]] == [None, None], (
        "they differ on the last page"
    )
    assert len([kind for kind, *_ in hub.log if kind == "tree"]) == 2 * 3


def test_154_revisions_take_at_most_two_requests_each(pythia, tmp_path):
    found = opened(pythia, tmp_path)
    assert [step for _, step, *_ in found["checkpoints"]] == STEPS
    assert [commit for *_, commit, _, _ in found["checkpoints"]] == [
        pythia.branches[f"step{s}"] for s in STEPS
    ]
    duplicates = {name: of for name, *_, of in found["checkpoints"] if of}
    assert duplicates == {"step1": "step000000000", "step3000": "step000002000"}
    assert found["skipped"] == ["main"]
    assert len(pythia.log) <= 2 * len(STEPS)
    assert not pythia.fetched()
    pythia.log.clear()
    assert opened(pythia, tmp_path) == found
    assert len(pythia.log) == 1, "a commit never changes, so only the branches are asked for again"
    pythia.log.clear()
    assert opened(pythia, tmp_path, HF_HUB_OFFLINE="1") == found
    assert not pythia.log


def test_revisions_are_chosen_by_a_regular_expression(pythia, tmp_path):
    found = opened(pythia, tmp_path, revisions=r"step1\d000")
    assert [step for _, step, *_ in found["checkpoints"]] == list(range(10_000, 20_000, 1000))
    assert len(pythia.log) == 1 + 10 + 1, "branches, files of each, and of main for a tokenizer"
    wrong = opened(pythia, tmp_path, revisions="stepp.*")
    assert wrong.startswith("UsageError: --revisions stepp.* matches none of the 154 checkpoints of org/run")
    assert "not a regular expression" in opened(pythia, tmp_path, revisions="(")


def test_names_of_several_projects_are_read_and_keyed(tmp_path):
    hub = Hub("org/run")
    names = [
        "stage1-step1000-tokens3B",
        "stage2-ingredient1-step1000-tokens4B",
        "stage1-step900-tokens2B",
        "odd-7",
    ]
    for seed, name in enumerate(names):
        hub.push(name, {"config.json": b"{}", "model.safetensors": weights(seed)})
    with serve(hub):
        found = opened(hub, tmp_path)
        assert [(name, stage, tokens) for name, _, stage, tokens, *_ in found["checkpoints"]] == [
            ("stage1-step900-tokens2B", "stage1", 2 * 10**9),
            ("stage1-step1000-tokens3B", "stage1", 3 * 10**9),
            ("stage2-ingredient1-step1000-tokens4B", "stage2-ingredient1", 4 * 10**9),
        ]
        assert found["skipped"] == ["odd-7"]
        part = opened(hub, tmp_path, revisions="stage1-.*")
        assert [entry[2] for entry in part["checkpoints"]] == ["stage1", "stage1"], (
            "keys as in the whole suite"
        )
        own = opened(hub, tmp_path, revisions=r"odd-(?P<step>\d+)")
        assert [(name, step) for name, step, *_ in own["checkpoints"]] == [("odd-7", 7)]


def test_a_registered_suite_knows_its_run_and_its_defects(tmp_path):
    hub = Hub("EleutherAI/pythia-12b")
    for step in (0, 50_000, 58_000, 143_000):
        first = weights(143_000 if step in (50_000, 58_000) else step)
        files = {"config.json": b"{}", "model-00001-of-00002.safetensors": first}
        hub.push(f"step{step}", {**files, "model-00002-of-00002.safetensors": weights(step + 1)})
    with serve(hub):
        shown = command(hub, tmp_path, "suites", "pythia-12b", "--verify")
        assert shown.returncode == 0, shown.stderr
        assert "step50000, step58000 serve the final checkpoint's first weight file" in shown.stdout
        assert "step50000, step58000, step143000 share model-00001-of-00002.safetensors" in shown.stdout
        listed = command(hub, tmp_path, "suites", "EleutherAI/pythia-12b").stdout
    head, *rows = [line.split("\t") for line in listed.splitlines()]
    last = dict(zip(head, rows[-1], strict=True))
    assert [row[0] for row in rows] == ["0", "50000", "58000", "143000"]
    assert last["tokens"] == str(143_000 * 2_097_152)
    assert float(last["learning_rate"]) == pytest.approx(1.2e-5), "the end of the clipped cosine"
    assert last["commit"] == hub.branches["step143000"]


def test_a_refused_listing_is_waited_out_and_a_missing_revision_is_named(pythia, tmp_path):
    for status in (429, 500, 503):
        pythia.fault("status", "step512", file="tree", status=status, times=1)
    pythia.fault("gone", "step64", file="tree")
    found = opened(pythia, tmp_path)
    by_name = {entry[0]: entry for entry in found["checkpoints"]}
    assert by_name["step512"][5] is not None
    assert by_name["step64"][5] is None
    assert found["warnings"] == ["files of step64 cannot be listed: there is no such revision, HTTP 404"]


def test_a_private_repository_needs_its_token_which_is_never_shown(tmp_path):
    hub = Hub("org/run", token="hf_verysecrettoken")
    hub.push("step1", {"config.json": b"{}", "model.safetensors": weights(1)})
    with serve(hub):
        refused = command(hub, tmp_path, "suites", "org/run")
        assert refused.returncode == 2
        assert "there is no such repository, or it is private" in refused.stderr
        shown = command(hub, tmp_path, "suites", "org/run", HF_TOKEN=hub.token)
    assert shown.returncode == 0, shown.stderr
    assert "verysecret" not in shown.stdout + shown.stderr + refused.stderr
    kept = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert kept
    assert "verysecret" not in json.dumps(kept)
