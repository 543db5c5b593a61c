"""Every command in the README is one that the command line understands, and the make targets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from jobs.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINES = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
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


def test_files_that_it_names_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
