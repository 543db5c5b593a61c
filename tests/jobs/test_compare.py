"""The compare command over groups of trainings, on the tables of the reference."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests.test_reference import REFERENCE

WINDOWS = ("--before", "20000:22800", "--end", "27600:28600")
SUITES = REFERENCE / "schedules"


def table(name: str) -> str:
    return str(SUITES / name / "tables" / "trajectory.parquet")


CONSTANT = {0: [table("constant-seed0"), str(SUITES / "earlier" / "constant-seed0.csv")],
            1: [table("constant-seed1"), str(SUITES / "earlier" / "constant-seed1.csv")]}  # fmt: skip
DECAYED = {0: [table("wsd-seed0"), table("cosine-seed0"), str(REFERENCE / "sweeps/suite/tables/trajectory.parquet")],
           1: [table("wsd-seed1"), table("cosine-seed1")]}  # fmt: skip


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments, *WINDOWS])


def listed(name: str, *members: list[str]) -> str:
    return f"{name}={','.join(each for part in members for each in part)}"


def test_nine_trainings_in_two_groups_are_nine_observations():
    told = compare(
        "--group", listed("constant", *CONSTANT.values()), "--group", listed("decayed", *DECAYED.values()),
        "--stratum", listed("seed 0", CONSTANT[0], DECAYED[0]), "--stratum", listed("seed 1", CONSTANT[1], DECAYED[1]),
        "--threshold", "1.25", "--json",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    *trainings, ratio = (json.loads(line) for line in told.output.splitlines())
    growths = [each["growth"]["estimate"] for each in trainings]
    assert len(growths) == 9
    assert max(growths[:4]) < min(growths[4:]), "every decayed training grew more than every constant one"
    assert (ratio["group"], ratio["against"], ratio["trainings"], ratio["trainings_against"]) == (
        "decayed", "constant", 5, 4,
    )  # fmt: skip
    assert [round(ratio[key], 2) for key in ("ratio", "lower", "upper")] == [1.29, 1.18, 1.41]
    assert ratio["permutation_p_one_sided"] == pytest.approx(1 / 60)
    assert ratio["power"]["threshold"] == 1.25
    assert {each["intervals"] for each in trainings} <= {"checkpoints", "checkpoints and text"}


def test_what_is_told_names_the_units_and_the_exact_test():
    told = compare(
        "--group", listed("constant", *CONSTANT.values()), "--group", listed("decayed", *DECAYED.values())
    )
    assert told.exit_code == 0, told.output
    words = " ".join(told.output.split())
    assert "decayed over constant ratio of growths 1.290 [1.179, 1.412], over 5 against 4 trainings" in words
    assert "one-sided 1/126" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"nothing to compare: wanted DIR"),
        (["--group", "constant"], r"--group constant: wanted NAME=DIR,DIR"),
        (["--group", listed("a", CONSTANT[0])], r"one group, a: wanted --group at least twice"),
        (["--group", listed("a", CONSTANT[0]), "--group", listed("b", CONSTANT[0])], "is in both b and a"),
        (["--group", listed("a", CONSTANT[0]), "--group", listed("a", DECAYED[0])], "--group a was given twice"),
        (
            [f"--{kind}={listed(name, part[0])}" for kind, name, part in
             (("group", "a", CONSTANT), ("group", "b", DECAYED), ("stratum", "0", CONSTANT))],
            "is in no --stratum",
        ),
        ([CONSTANT[0][0], "--stratum", listed("0", CONSTANT[0])], "without --group"),
    ],
)  # fmt: skip
def test_what_cannot_be_grouped_is_wrong_usage(arguments: list[str], message: str):
    told = compare(*arguments)
    assert told.exit_code == 2
    assert message in told.stderr


@pytest.mark.parametrize("before", ["27600:28600", "20000:27700", "20000:27600", "30000:30100"])
def test_windows_out_of_order_or_with_common_steps_are_wrong_usage(before: str):
    told = CliRunner().invoke(main, ["compare", CONSTANT[0][0], "--before", before, "--end", "27600:28600"])
    assert told.exit_code == 2
    assert f"--before {before} --end 27600:28600" in told.stderr
