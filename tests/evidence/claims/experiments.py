"""Trained experiments, by the decision that their rule makes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.evidence.findings_file import TEXT, TRAININGS, Finding, Source, derived

PARTS = {"times": "in all", "times_rate": "the rate's part", "times_norm": "the norm's part"}
TOKENS = 7_150 * 65_536
"""Training tokens of every suite of sizes/RULE.md."""
COLUMNS = ("damage_nats", "gptq_damage_nats", "sensitivity_nats")


def interventions(reference: Path) -> Iterator[Finding]:
    """The 2 x 2 of three seeds."""
    decision = Source(reference, "interventions/decision.json")
    yield from _square(decision, "iv")


def confirmation(reference: Path) -> Iterator[Finding]:
    """The 2 x 2 of more seeds, and the arms that should flatten the loss; nothing before it was run."""
    decided = "interventions/confirmation/decision.json"
    if not (reference / decided).is_file():
        return
    decision = Source(reference, decided)
    yield from _square(decision, "iv2")
    for arm, losses in decision.content["losses"].items():
        for name in losses:
            question = f"Loss of {name.removesuffix('_nats')} at the end, {arm} minus constant"
            key = ["losses", arm, name]
            yield decision.finding(
                f"iv2.{arm}.{name}", question, key, unit="nats", form="+.3f", interval=TRAININGS
            )
    for arm, found in decision.content["flattening"].items():
        place = ["flattening", arm]
        yield decision.finding(
            f"iv2.{arm}", f"What {arm} does to sensitivity", [*place, "verdict"], unit="", form=""
        )
        if "times_sensitivity" in found:
            question = f"Sensitivity at the end, {arm} over constant"
            key = [*place, "times_sensitivity"]
            yield decision.finding(f"iv2.{arm}.times", question, key, interval=TRAININGS)
        if "times_damage" in found:
            question = f"INT4 damage at the end, {arm} over constant"
            key = [*place, "times_damage"]
            yield decision.finding(f"iv2.{arm}.damage", question, key, interval=TRAININGS)


def _square(decision: Source, name: str) -> Iterator[Finding]:
    seeds = decision.content["seeds"]
    common: dict[str, Any] = {"trainings": 4 * len(seeds)}
    question = "Seeds of the 2 x 2"
    count: dict[str, Any] = {"how": "counted", "source": decision.path, "unit": "count", "form": "d"}
    yield derived(f"{name}.seeds", question, len(seeds), **count, **common)
    question = "Cause of the damage, rate or norm"
    yield decision.finding(f"{name}.cause", question, ["cause"], unit="", form="", **common)
    for column in COLUMNS:
        if "times" not in decision.content["two_by_two"][column]:
            continue
        place = ["two_by_two", column]
        question = f"Cause of {column} alone, rate or norm"
        yield decision.finding(
            f"{name}.{column}.cause", question, [*place, "cause"], unit="", form="", **common
        )
        for part, said in PARTS.items():
            question = f"{column} at the end of a decay over a constant rate, {said}"
            key = [*place, part]
            yield decision.finding(f"{name}.{column}.{part}", question, key, interval=TRAININGS, **common)


def convergence(reference: Path) -> Iterator[Finding]:
    """Training until full precision stands still, then both ways."""
    decision = Source(reference, "convergence/decision.json")
    content = decision.content
    common: dict[str, Any] = {"trainings": 2 * len(content["seeds"])}
    yield decision.finding("cv", "Convergence or decay", ["verdict"], unit="", form="", **common)
    count: dict[str, Any] = {"how": "counted", "source": decision.path, "unit": "count", "form": "d"}
    for key in ("seeds", "converged"):
        yield derived(f"cv.{key}", f"Seeds of the experiment: {key}", len(content[key]), **count, **common)
    losses = [each["fp32_nats"] for each in content["by_seed"].values()]
    gain = statistics.fmean(each["constant"] - each["wsd"] for each in losses)
    how = "mean over by_seed of fp32_nats.constant - fp32_nats.wsd"
    question = "Loss of full precision at the end, constant minus decay"
    yield derived(
        "cv.fp32.gain", question, gain, how=how, source=decision.path, unit="nats", form=".2f", **common
    )
    for reading, found in content["readings"].items():
        for key in ("growth_at_constant_rate", "decay_over_constant"):
            if key in found:
                place = ["readings", reading, key]
                question = f"Damage of {reading}: {key.replace('_', ' ')}"
                yield decision.finding(f"cv.{reading}.{key}", question, place, interval=TRAININGS, **common)


def sizes(reference: Path) -> Iterator[Finding]:
    """Four sizes under a constant and a falling rate."""
    decision = Source(reference, "sizes/decision.json")
    trainings: dict[str, Any] = {"trainings": 2 * len(decision.content["trainings"])}
    question = "Does the effect of the decay change with size"
    yield decision.finding("size", question, ["verdict"], unit="", form="", **trainings)
    for reading, found in decision.content["trend"].items():
        if "times_per_decade" in found:
            question = f"Factor of the decay's effect per tenfold size, {reading}"
            key = ["trend", reading, "times_per_decade"]
            yield decision.finding(f"size.{reading}", question, key, interval=TRAININGS, **trainings)
    left_out = decision.content["trend_without_one"]
    count: dict[str, Any] = {"source": decision.path, "unit": "count", "form": "d", **trainings}
    question, how = "Trainings whose removal changes the verdict on the trend", "trend_without_one"
    changed = sum(each["verdict"] != decision.content["verdict"] for each in left_out)
    yield derived("size.fragile", question, changed, how=how, **count)
    yield derived("size.trainings", "Trainings of the trend, pairs", len(left_out), how=how, **count)
    for size, found in decision.content["by_size"].items():
        question = f"What the decay does to the damage at {size}"
        yield decision.finding(f"size.{size}", question, ["by_size", size, "verdict"], unit="", form="")
        for index in range(found["trainings"]):
            question = f"Damage at the end of wsd over constant, {size}, training {index}"
            place = ["by_size", size, "times", index]
            yield decision.finding(f"size.{size}.{index}", question, place, interval=TEXT, trainings=2)
    for each in decision.content["trainings"]:
        name = f"size.{each['size']}.{each['seed'].removeprefix('seed')}"
        pick = ["trainings", {"size": each["size"], "seed": each["seed"]}]
        question = f"Damage with GPTQ at the end of wsd over constant, {each['size']}, {each['seed']}"
        yield decision.finding(f"{name}.gptq", question, [*pick, "gptq_times"], interval=TEXT, trainings=2)
        question = f"Damage of noise of the same size at the end of wsd over constant, {each['size']}, {each['seed']}"
        noise = math.exp(each["noise_log"])
        how = "exp of noise_log of trainings"
        yield derived(
            f"{name}.noise", question, noise, how=how, source=decision.path, unit="ratio", form=".2f"
        )
        question = f"INT4 damage at the end of wsd, {each['size']}, {each['seed']}"
        place = [*pick, "damage_nats", "wsd"]
        yield decision.finding(f"{name}.damage", question, place, unit="nats", form=".3f")
    for size, parameters in {
        each["size"]: each["parameters"] for each in decision.content["trainings"]
    }.items():
        question, how = "Parameters beside the embeddings", "parameters of trainings"
        millions: dict[str, Any] = {"source": decision.path, "unit": "M", "how": how}
        yield derived(f"models.{size}", question, parameters / 1e6, form=".1f", **millions)
        question = "Training tokens per parameter beside the embeddings"
        how = f"{TOKENS:,} tokens over parameters of trainings"
        tokens: dict[str, Any] = {"source": decision.path, "unit": "", "how": how}
        yield derived(f"tokens.{size}", question, TOKENS / parameters, form=",.0f", **tokens)


def repetition(reference: Path) -> Iterator[Finding]:
    """Text that is seen once and six times; nothing before it was run."""
    decided = "repetition/decision.json"
    if not (reference / decided).is_file():
        return
    decision = Source(reference, decided)
    content = decision.content
    trainings = sum(len(arm) for seed in content["by_seed"].values() for arm in seed.values())
    common: dict[str, Any] = {"trainings": trainings}
    for key in content["verdicts"]:
        question = f"Repetition of the text: {key}"
        yield decision.finding(f"rp.{key}", question, ["verdicts", key], unit="", form="", **common)
    for reading, found in content["readings"].items():
        for name, contrast in found["contrasts"].items():
            place = ["readings", reading, "contrasts", name]
            question = f"Seeds of the contrast {name}"
            yield decision.finding(
                f"rp.{reading}.{name}.seeds", question, [*place, "seeds"], unit="count", form="d", **common
            )
            if "times" in contrast:
                question = f"Damage of {reading}, {name}"
                yield decision.finding(
                    f"rp.{reading}.{name}", question, [*place, "times"], interval=TRAININGS, **common
                )
            for seed in contrast["by_seed"]:
                number = seed.removeprefix("seed")
                question = f"Damage of {reading}, {name}, {seed}"
                yield decision.finding(
                    f"rp.{reading}.{name}.{number}", question, [*place, "by_seed", seed], trainings=2
                )
