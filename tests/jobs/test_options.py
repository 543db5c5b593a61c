"""Options made of the fields of a dataclass: type, default, limits and name are the field's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from jobs.options import options_of, picked
from pipeline.base.option_fields import option


@dataclass(frozen=True)
class Toy:
    out: str = option(help="A place.")
    count: int = option(3, least=1, help="How many.")
    share: float | None = option(None, least=0, open=True, below=1, help="A share.")
    most: float | None = option(None, least=0, help="At most.")
    names: tuple[str, ...] = option((), name="--name", bare="all", help=lambda: "Made when it is shown.")
    steps: tuple[int, ...] = option((), help="Steps.")
    way: str = option("auto", choices=("auto", "fast"), help="A way.")
    quick: bool = option(False, help="Hurry.")
    compiled: bool | None = option(None, help="Compile.")
    size: float | None = option(None, help="A size without limits.")
    kept: int = 7


def run(*arguments: str) -> tuple[Result, Toy | None]:
    made: list[Toy] = []

    @click.command()
    @options_of(Toy)
    def command(**options: Any) -> None:
        made.append(Toy(**picked(Toy, options)))

    result = CliRunner().invoke(command, arguments)
    return result, made[0] if made else None


def test_what_is_not_given_is_the_fields_default() -> None:
    assert run("--out", "x")[1] == Toy("x")


def test_what_is_given_has_the_fields_type() -> None:
    given = "--out x --count 2 --share 0.5 --name a --name --steps 0,10 --way fast --quick --no-compiled"
    assert run(*given.split())[1] == Toy("x", 2, 0.5, None, ("a", "all"), (0, 10), "fast", True, False)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "--out x --count 0",
        "--out x --share 0",
        "--out x --share 1",
        "--out x --share nan",
        "--out x --most inf",
        "--out x --most nan",
        "--out x --size nan",
        "--out x --way slow",
        "--out x --kept 8",
    ],
)
def test_what_the_field_does_not_allow_is_refused(wrong: str) -> None:
    result, made = run(*wrong.split())
    assert (result.exit_code, made) == (2, None)


def test_the_help_shows_defaults_and_limits() -> None:
    said = " ".join(run("--help")[0].output.split())
    for part in ("[required]", "[default: 3; x>=1]", "[0<x<1]", "[auto|fast]", "Made when it is shown."):
        assert part in said


def test_the_help_shows_no_limit_where_there_is_none() -> None:
    assert "None" not in run("--help")[0].output
