"""Every command in the README and in docs/ is one that the command line understands, and the make targets exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from jobs.cli import main

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "outputs" / "reference" / "benchmark"
README = (ROOT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]
LINES = [
    line.split("#")[0].strip()
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("int4-collapse")])
def test_the_command_line_understands_it(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    with click.Context(main) as group:
        command = main.get_command(group, name)
        assert command is not None, f"no command {name}"
        command.make_context(name, arguments, parent=group)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("ray ")])
def test_ray_understands_it_and_what_it_submits(line: str) -> None:
    from ray.scripts.scripts import cli

    command, words = cli, shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context("ray", list(words))
    if "--" in words:
        entry = shlex.join(words[words.index("--") + 1 :])
        assert entry.startswith("python -m jobs ")
        test_the_command_line_understands_it(entry.replace("python -m jobs", "int4-collapse"))


def test_every_other_line_is_a_make_target_that_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    others = [line for line in LINES if not line.startswith(("int4-collapse", "ray "))]
    assert others
    for line in others:
        word, target = line.split()
        assert word == "make"
        assert target in targets


def test_every_command_is_shown_or_explained() -> None:
    with click.Context(main) as group:
        for name in main.list_commands(group):
            assert f"int4-collapse {name}" in README, f"{name} is not in the README"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda page: page.name
)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_speeds_in_the_documents_are_those_measured() -> None:
    page = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    probe, forks = (
        json.loads((MEASURED / f"h100-{name}.json").read_text()) for name in ("pythia-160m", "fork-nine-runs")
    )
    for way in probe["arithmetics"]["timings"]:
        row = "| {seconds_per_checkpoint:.2f} | {useful_tflops:.0f} | {peak_gib:.1f} |".format(**way)
        assert row in page, way["name"]
    useful = way["useful_tflops"] * way["seconds_per_checkpoint"] / probe["pipeline_s"]
    assert f"| **{probe['pipeline_s']:.2f}** | {useful:.0f} | {probe['peak_gib']:.1f} |" in page
    assert f"{probe['ratio']:.1f} times as fast as the naive loop" in page
    assert f"{probe['scipy_ratio']:.0f} times as fast as the loop that also takes" in page
    assert f"{forks['ours_s']:.0f} s against {forks['naive_runs_s']:.0f} s" in page
    assert f"**{forks['ratio']:.1f} times** as fast" in page
    assert f"{forks['live_ratio']:.2f} times against naive runs" in page
    steady = f"| **{probe['pipeline_s']:.2f}** | {useful:.0f} | {probe['peak_gib']:.1f} |"
    assert steady in README
