"""Every command in the README and in docs/ is one that the command line understands, and the make targets exist."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest

import int4_collapse
from jobs.cli import main
from pipeline.analysis.trajectory import phase_detection as phases
from pipeline.benchmark import read_benchmark

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "outputs" / "reference" / "benchmark"
README = (ROOT / "README.md").read_text()
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page.read_text() for page in FILES]
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


def test_every_other_line_is_a_make_target_or_a_test_that_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    others = [line for line in LINES if not line.startswith(("int4-collapse", "ray ", "python -m tests."))]
    assert others
    for line in others:
        word, *options, target = line.split()
        if word == "make":
            assert target in targets
        else:
            assert (word, *options) == (".venv/bin/python", "-m", "pytest", "-x")
            assert (ROOT / target).is_file()


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("python -m tests.")])
def test_a_module_of_the_tests_understands_it(line: str) -> None:
    name, *arguments = shlex.split(line)[2:]
    found = importlib.util.find_spec(name)
    assert found is not None, name
    module = importlib.import_module(name if found.submodule_search_locations is None else f"{name}.__main__")
    if isinstance(module.main, click.Command):
        module.main.make_context(name, arguments)
    else:
        assert not arguments


def test_every_command_is_in_the_table_of_commands() -> None:
    table = (ROOT / "docs" / "commands.md").read_text()
    with click.Context(main) as group:
        for name in main.list_commands(group):
            assert f"`int4-collapse {name} " in table, f"docs/commands.md lacks {name}"


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 150
    findings = re.findall(r"^\d\. (.*?)(?=^\d\. |^\S)", README, flags=re.DOTALL | re.MULTILINE)
    assert len(findings) == 3
    for finding in findings:
        assert len(finding.split()) <= 25, finding


def test_the_decision_rules_are_those_that_the_code_states() -> None:
    rules = re.search(r"\n1\. .*?\n(?=\n\S)", phases.__doc__ or "", flags=re.DOTALL)
    assert rules is not None
    assert rules[0] in (ROOT / "docs" / "decision-rules.md").read_text()


def test_the_lines_of_python_are_those_that_are_carried_out() -> None:
    lines = re.search(r"::\n\n(.*?)\n\n``", int4_collapse.__doc__ or "", flags=re.DOTALL)
    assert lines is not None
    for page in ("README.md", "docs/python.md"):
        assert f"```python\n{textwrap.dedent(lines[1])}\n```" in (ROOT / page).read_text(), page


def test_every_public_name_is_in_the_page_of_the_python_api() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    for name in set(int4_collapse.__all__) - {"__version__"}:
        assert f"`{name}" in page, name


@pytest.mark.parametrize("page", FILES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_documentation_site_builds_and_a_broken_link_fails(tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    for part in ("docs", "outputs/reference", "pipeline", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "shards*"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copyfile(file, copy / file.name)

    def build() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, copy / "docs/site/build.py", tmp_path / "site"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    built = build()
    assert built.returncode == 0, built.stdout + built.stderr
    assert "Damage followed decay" in (tmp_path / "site/html/index.html").read_text()
    page = copy / "docs" / "storage.md"
    for broken in ("[no such section](fork.md#nothing)", "[no such file](nothing.md)"):
        page.write_text(f"{(ROOT / 'docs/storage.md').read_text()}\n{broken}\n")
        assert build().returncode == 1, broken


def test_the_speeds_in_the_documents_are_those_measured() -> None:
    page = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    probe, forks = (
        read_benchmark(MEASURED / f"h100-{name}.json") for name in ("pythia-160m", "fork-nine-runs")
    )
    for way in probe.rows:
        if way.what.startswith("one process"):
            numbers = f"{way.seconds.median:.2f} | {way.numbers['useful_tflops']:.0f} | {way.peak_gib:.1f}"
            assert f"| {numbers} |" in page, way.what
    pipeline = probe.row("pipeline")
    seconds = pipeline.seconds.median
    useful = way.numbers["useful_tflops"] * way.seconds.median / seconds
    assert f"| **{seconds:.2f}** | {useful:.0f} | {pipeline.peak_gib:.1f} |" in page
    assert f"{probe.ratio:.1f} times as fast as the naive loop" in page
    scipy = probe.row("naive loop with SciPy's kurtosis")
    assert f"{scipy.ratio:.0f} times as fast as the loop that also takes" in page
    ours, naive, live = forks.rows
    assert f"{ours.seconds.median:.0f} s against {naive.seconds.median:.0f} s" in page
    assert f"**{naive.ratio:.1f} times** as fast" in page
    assert f"{live.ratio:.2f} times against naive runs" in page
    steady = f"| **{seconds:.2f}** | {useful:.0f} | {pipeline.peak_gib:.1f} |"
    assert steady in README
