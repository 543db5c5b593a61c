"""The documents of the reference result say what its tables hold."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import polars as pl

from tests.test_reference import AUDITS, FORKS, REFERENCE, SCHEDULES


def test_the_differences_of_the_forks_are_those_of_their_tables():
    words = findings()
    assert {"fork", "sweeps/amplitude", "sweeps/equal-mean", "sweeps/level"} <= set(FORKS)
    for name in FORKS:
        report = json.loads((REFERENCE / name / "tables" / "schedules.json").read_text())
        for row in report["comparisons"]:
            if row["weights"] != "live":
                continue
            at_end = row["at_end"]
            gap, end = (interval(each["gap_points"], "+.2f") for each in (row["over_run"], at_end))
            told = [gap, f"{row['tests']['wins']} of {row['tests']['pairs']}", end]
            if name == "fork":
                told += [
                    f"{at_end['fp32_nats']['estimate']:+.3f}",
                    interval(row["over_run"]["variant_nats"], "+.3f"),
                ]
            told.append(interval(at_end["variant_nats"], "+.3f"))
            assert " | ".join(told) in words, f"FINDINGS.md does not give {name}, {row['arm']}: {told}"
        (sweep,) = report["sweeps"] or [None]
        if sweep is not None:
            assert f"r = {sweep['spearman_r']:.2f}, p = {sweep['p_value']:.4f}" in words


def test_what_is_left_of_the_largest_amplitude_at_an_equal_mean_rate_is_told():
    texts = (findings(),)
    for name, arm in (
        ("amplitude", "oli-amplitude3"),
        ("equal-mean", "oli-amplitude3-bump_fraction0.25-mean_factor0.55"),
    ):
        report = json.loads((REFERENCE / "sweeps" / name / "tables" / "schedules.json").read_text())
        means = [report["arms"][each]["mean_learning_rate"] for each in (arm, "cosine")]
        assert math.isclose(*means, rel_tol=1e-3) == (name == "equal-mean")
        (row,) = (row for row in report["comparisons"] if (row["arm"], row["weights"]) == (arm, "live"))
        for text in texts:
            assert (
                f"{-row['over_run']['gap_points']['estimate']:.2f} {smaller(row['over_run']['gap_points'])}"
                in text
                or (interval(row["over_run"]["gap_points"], "+.2f") in text)
            )


def test_what_averaging_gives_is_what_was_measured():
    words = findings()
    report = json.loads((REFERENCE / "fork" / "tables" / "schedules.json").read_text())
    for row in report["averages"]:
        at_end = row["at_end"]
        if row["arm"] == "cosine":
            assert interval(row["over_run"]["gap_points"], "+.2f") in words
            assert f"{row['over_run']['variant_nats']['estimate']:+.3f}" in words
            assert interval(at_end["gap_points"], "+.2f") in words
            assert interval(at_end["variant_nats"], "+.3f") in words
        if row["arm"] != "noop":
            assert at_end["variant_nats"]["upper"] < 0, "it helps along every schedule that trains"


def findings(document: str = "FINDINGS.md") -> str:
    """The document in one line, without the units before its intervals."""
    words = " ".join((REFERENCE / document).read_text().split())
    return re.sub(r" (points|nats) \[", " [", words)


def interval(estimate: dict[str, float], form: str) -> str:
    return f"{{estimate:{form}}} [{{lower:{form}}}, {{upper:{form}}}]".format(**estimate)


def smaller(difference: dict[str, float]) -> str:
    """As so many points less, in the middle of a sentence."""
    return "[{:.2f}, {:.2f}]".format(*(abs(difference[each]) for each in ("upper", "lower")))


def test_the_mean_rates_of_the_forks_are_those_of_their_tables():
    words = " ".join((REFERENCE / "FINDINGS.md").read_text().split())
    report = json.loads((REFERENCE / "fork" / "tables" / "schedules.json").read_text())
    names = {"sgdr": "SGDR", "constant": "constant", "wsd": "WSD", "cosine": "cosine", "oli": "OLI"}
    for arm, name in names.items():
        assert f"{name} {1e3 * report['arms'][arm]['mean_learning_rate']:.1f}e-3" in words
    assert report["arms"]["noop"]["mean_learning_rate"] == 0


def test_what_is_said_of_the_small_model_and_of_the_grids_is_what_was_measured():
    words = (REFERENCE / "FINDINGS.md").read_text()
    readme = (REFERENCE / "../../README.md").read_text()
    (small,) = json.loads((REFERENCE / "overtrained" / "comparison.json").read_text())["found"]
    end = "{:.1f} % [{:.1f}, {:.1f}]".format(
        *(100 * small["end"][key] for key in ("estimate", "lower", "upper"))
    )
    assert end in words
    assert end in readme
    assert "{estimate:.2f}-fold [{lower:.2f}, {upper:.2f}]".format(**small["growth"]) in words
    curve = pl.read_parquet(REFERENCE / "overtrained" / "tables" / "trajectory.parquet")

    def loss(variant: str, first: int, last: int) -> Any:
        return curve.filter(pl.col("step").is_between(first, last))[f"{variant}_nll_nats"].mean()

    gains = [
        loss(variant, first, last) - loss(variant, 132_200, 140_000)
        for first, last in ((110_000, 120_000), (120_000, 130_000))
        for variant in ("int4", "fp32")
    ]
    assert [round(gain, 3) for gain in gains] == [0.007, 0.016, -0.003, 0.003]
    assert curve.sort("int4_nll_nats")["step"][0] == 129_360
    assert "its best checkpoint is 129,360 of 140,000" in " ".join(words.split())
    grids = json.loads((REFERENCE / "grids" / "comparison.json").read_text())["found"]
    measured = {
        "{estimate:.2f} [{lower:.2f}, {upper:.2f}]".format(**each["growth"])
        for each in grids
        if each["growth"]
    }
    (table,) = re.findall(r"\| width \|.*?\n\n", words, flags=re.DOTALL)
    told = set(re.findall(r"\d+\.\d\d \[[^\]]+\]", table))
    assert len(told) > 20
    assert told <= measured


def test_what_is_said_of_weights_and_losses_at_the_end_is_what_was_measured():
    words = " ".join((REFERENCE / "FINDINGS.md").read_text().split())
    suites = {name: [EndOfSuite.read(name, seed) for seed in (0, 1)] for name in SCHEDULES}
    for name, ends in suites.items():
        columns = (
            ("{:.1f} %", [100 * end.gap for end in ends]),
            ("{:.4f}", [end.relative_error for end in ends]),
            ("{:.1f}", [end.norm for end in ends]),
            ("{:.1f}", [end.error_norm for end in ends]),
            ("{:.2f}", [end.kurtosis for end in ends]),
        )
        row = " | ".join(", ".join(form.format(value) for value in values) for form, values in columns)
        assert re.search(rf"\| `{name}`[^|]*\| {re.escape(row)} \|", words), f"{name}: {row}"
        losses = "{:.3f} and {:.3f}".format(*(end.int4_nll_nats for end in ends))
        assert losses in words, f"the INT4 losses of {name} are {losses}"
        assert all(end.best_int4_step > 28_600 * 6 / 7 for end in ends), name
    # the ordering that section 2 draws on
    for constant, wsd, cosine in zip(*(suites[name] for name in ("constant", "wsd", "cosine")), strict=True):
        assert constant.norm > wsd.norm > cosine.norm
        assert constant.gap < wsd.gap < cosine.gap
    fp32, int4 = ([end.late_change(each) for end in suites["cosine"]] for each in ("fp32", "int4"))
    assert "{:.3f} and {:.3f} nats, and INT4 by {:.3f} and {:.3f};".format(*fp32, *int4) in words
    changes = [end.late_change(each) for each in ("fp32", "int4") for end in suites["wsd"]]
    assert [round(change, 2) for change in changes] == [0.09, 0.09, 0.07, 0.07]


@dataclass(frozen=True)
class EndOfSuite:
    """The late window of one suite of the comparison."""

    curve: pl.DataFrame
    gap: float
    relative_error: float
    norm: float
    """Of all quantized weights, the root of the summed squares."""
    error_norm: float
    kurtosis: float

    @classmethod
    def read(cls, name: str, seed: int) -> EndOfSuite:
        tables = REFERENCE / "schedules" / f"{name}-seed{seed}" / "tables"
        late, curve = (
            pl.col("step").is_between(27_600, 28_600),
            pl.read_parquet(tables / "trajectory.parquet"),
        )
        squares = pl.col("n") * (pl.col("std") ** 2 + pl.col("mean") ** 2)
        (weights,) = (
            pl.read_parquet(tables / "tensors.parquet")
            .filter(late, pl.col("variant") == "int4-g128-asym")
            .with_columns(squares=squares, errors=squares * pl.col("relative_error") ** 2)
            .group_by("step")
            .agg(
                pl.col("relative_error", "kurtosis").mean(),
                pl.col("squares", "errors").sum().sqrt(),
            )
            .mean()
            .to_dicts()
        )
        gap: Any = curve.filter(late)["int4_gap"].mean()
        return cls(
            curve, gap, weights["relative_error"], weights["squares"], weights["errors"], weights["kurtosis"]
        )

    @property
    def int4_nll_nats(self) -> float:
        return self._loss("int4", 27_600, 28_600)

    @property
    def best_int4_step(self) -> int:
        step: int = self.curve.sort("int4_nll_nats")["step"][0]
        return step

    def late_change(self, variant: str) -> float:
        """By how much the loss fell from steps 24,000-25,200 to the end, in nats."""
        return self._loss(variant, 24_000, 25_200) - self._loss(variant, 27_600, 28_600)

    def _loss(self, variant: str, first: int, last: int) -> float:
        loss: Any = self.curve.filter(pl.col("step").is_between(first, last))[f"{variant}_nll_nats"].mean()
        return float(loss)


def test_the_ratio_over_trainings_is_told_as_it_was_computed():
    (ratio,) = json.loads((REFERENCE / "schedules" / "trainings" / "comparison.json").read_text())["groups"]
    assert (ratio["trainings"], ratio["trainings_against"]) == (5, 4)
    assert (ratio["permutation_p_one_sided"], ratio["dealings"]) == (1 / 60, 60)
    said = "{ratio:.2f} [{lower:.2f}, {upper:.2f}]".format(**ratio)
    findings, readme = (
        " ".join((REFERENCE / name).read_text().split()) for name in ("FINDINGS.md", "../../README.md")
    )
    assert said in findings
    assert said in readme
    assert "p = 1/60" in findings


def test_what_is_said_of_onsets_doses_and_kurtosis_is_what_was_found():
    words = " ".join((REFERENCE / "FINDINGS.md").read_text().split())
    reports = {
        name: json.loads((REFERENCE / name / "report.json").read_text())
        for name in (*(f"schedules/{s}-seed{seed}" for s in SCHEDULES for seed in (0, 1)), "sweeps/suite")
    }
    for name, report in reports.items():
        assert report["onset_step"] is None, name
        assert report["kurtosis_test"]["reason"]  # no third phase
        if "constant" in name:
            assert report["growth"] == "none"
            assert report["dose"] is None
            continue
        assert report["growth"] == "learning_rate"
        dose = "{estimate:.2f} [{lower:.2f}, {upper:.2f}]".format(**report["dose"])
        number, _, interval = dose.partition(" ")
        assert re.search(rf"{number} (points )?{re.escape(interval)}", words), f"{name}: {dose}"
    beyond = [f"{reports[f'schedules/wsd-seed{s}']['p_beyond_learning_rate']:.2f}" for s in (0, 1)]
    assert f"(p = {beyond[0]} and {beyond[1]})" in words


def test_int8_is_as_harmless_as_is_said():
    largest = max(
        pl.read_parquet(REFERENCE / name / "tables" / "trajectory.parquet")["int8_gap"].max()
        for name in AUDITS
    )
    assert (
        f"largest gap of any checkpoint of any suite {largest:.2%}".replace("%", " %")
        in (REFERENCE / "FINDINGS.md").read_text()
    )


def test_the_six_sentences_say_what_the_tables_hold():
    readme, words = (
        " ".join((REFERENCE / name).read_text().split()) for name in ("../../README.md", "FINDINGS.md")
    )
    six = words[words.index("1. **Damage grew") : words.index("## Claim by claim")].strip()
    ends = {name: [EndOfSuite.read(name, seed).int4_nll_nats for seed in (0, 1)] for name in SCHEDULES}
    gains = [
        constant - fell
        for falling in ("wsd", "cosine")
        for constant, fell in zip(ends["constant"], ends[falling], strict=True)
    ]
    for text in (readme, six):
        assert f"{min(gains):.2f} to {max(gains):.2f} nats better" in text
    reports = {
        name: json.loads((REFERENCE / name / "report.json").read_text()) for name in AUDITS if name != "tiny"
    }
    regrets = [each["decision"]["regret_of_last"]["estimate"] for each in reports.values()]
    assert f"within {max(regrets):.3f} nats of the best" in six
    growths = {name: each["square_law"]["growth"]["ratio"] for name, each in reports.items()}
    falling = [growths[f"schedules/{s}-seed{seed}"] for s in ("wsd", "cosine") for seed in (0, 1)]
    falling.append(growths["sweeps/suite"])
    constant = sorted(growths[f"schedules/constant-seed{seed}"] for seed in (0, 1))
    assert f"{min(falling):.2f} to {max(falling):.2f} times in five trainings" in six
    assert "{:.2f} and {:.2f} times in two".format(*constant) in six
    forks = json.loads((REFERENCE / "fork" / "tables" / "schedules.json").read_text())
    (sgdr,) = (row for row in forks["comparisons"] if (row["arm"], row["weights"]) == ("sgdr", "live"))
    end = sgdr["at_end"]["gap_points"]
    assert f"{-end['estimate']:.2f} points {smaller(end)} lower" in six
    assert (
        "{estimate:.3f} nats [{lower:.3f}, {upper:.3f}] worse".format(**sgdr["at_end"]["variant_nats"]) in six
    )
    (ema,) = (row for row in forks["averages"] if (row["arm"], row["weights"]) == ("cosine", "ema"))
    gain = ema["at_end"]["variant_nats"]
    assert f"{-gain['estimate']:.3f} [{-gain['upper']:.3f}, {-gain['lower']:.3f}]" in six


def test_what_is_said_of_the_square_law_is_what_was_found():
    words = " ".join((REFERENCE / "FINDINGS.md").read_text().split())

    def kappa(name: str) -> str:
        report = json.loads((REFERENCE / name / "report.json").read_text())
        return f"{report['square_law']['end']['kappa']:.1f}"

    for schedule in SCHEDULES:
        first, second = (kappa(f"schedules/{schedule}-seed{seed}") for seed in (0, 1))
        assert f"{first} and {second} under `{schedule}`" in words
    assert f"{kappa('overtrained')} in `overtrained`" in words


def test_the_documents_name_no_file_that_is_not_there():
    for document in REFERENCE.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
