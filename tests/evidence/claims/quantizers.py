"""Several quantizers and grids on the same trainings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.evidence.findings_file import ROOT, SCHEDULES, TEXT, Finding, Source, derived


def methods(reference: Path) -> Iterator[Finding]:
    compared = Source(reference, "methods/comparison.json")
    for name in SCHEDULES:
        found = [
            each["growth"]
            for each in compared.content["found"]
            if each["folder"] == f"{ROOT}/methods/{name}" and each["variant"] != "int8"
        ]
        how = "growth intervals that lie above 1"
        value = sum(each["lower"] > 1 for each in found)
        yield derived(
            f"methods.{name}.grows",
            f"4-bit quantizers whose gap grows late, {name}",
            value,
            how=how,
            source=compared.path,
            unit="count",
            form="d",
        )
        yield derived(
            f"methods.{name}.all",
            f"4-bit quantizers measured, {name}",
            len(found),
            how="counted",
            source=compared.path,
            unit="count",
            form="d",
        )
        report = Source(reference, f"methods/{name}/report.json")
        for method in ("gptq", "awq"):
            yield report.finding(
                f"methods.{name}.{method}",
                f"Share of rounding's gap that {method} leaves at the end, {name}",
                ["methods", {"method": method}, "last"],
                unit="%",
                form=".0f",
                interval="text",
            )
        for label in ("int4", "int4_g128_asym_gptq", "nf4_b64"):
            pick = ["found", {"folder": f"{ROOT}/methods/{name}", "variant": label}, "growth"]
            yield compared.finding(
                f"methods.{name}.{label}.growth",
                f"Growth of the gap over the last quarter, {label}, {name}",
                pick,
                interval=TEXT,
            )
    causes = Source(reference, "methods/mechanism/comparison.json")
    for name in ("wsd", "cosine"):
        folder = f"{ROOT}/methods/{'cosine-mechanism' if name == 'cosine' else name}"
        pick = ["found", {"folder": folder, "variant": "int4"}, "factors", "shares"]
        yield causes.finding(
            f"cause.{name}", f"Cause of the late growth, {name}", [*pick, "cause"], unit="", form=""
        )
        share = [*pick, "factors", {"name": "sensitivity"}, "share"]
        yield causes.finding(
            f"cause.{name}.sensitivity",
            f"Share of sensitivity in the late growth, {name}",
            share,
            unit="%",
            form=".0f",
            interval="text, draws and checkpoints",
        )


def second(reference: Path) -> Iterator[Finding]:
    """The second seed of the same trainings."""
    decision = Source(reference, "methods/second/decision.json")
    for name, found in decision.content.items():
        for key in ("survives_in_both", "quantizers"):
            question = f"4-bit quantizers whose gap grows late in both seeds, {name}: {key}"
            yield decision.finding(f"second.{name}.{key}", question, [name, key], unit="count", form="d")
        for method in found["share_left"]:
            question = f"Share of rounding's gap that {method} leaves at the end, {name}, second seed"
            key = [name, "share_left", method]
            yield decision.finding(
                f"second.{name}.{method}", question, key, unit="%", form=".0f", interval=TEXT
            )
    compared = Source(reference, "methods/second/comparison.json")
    for name in decision.content:
        question = f"Cause of the late growth, {name}, second seed"
        yield decision.finding(f"second.{name}.cause", question, [name, "causes", 1], unit="", form="")
        pick = ["found", {"folder": f"{ROOT}/methods/second/{name}", "variant": "int4"}, "factors", "shares"]
        yield compared.finding(
            f"second.{name}.sensitivity",
            f"Share of sensitivity in the late growth, {name}, second seed",
            [*pick, "factors", {"name": "sensitivity"}, "share"],
            unit="%",
            form=".0f",
            interval="text, draws and checkpoints",
        )
    for name in SCHEDULES:
        for label in ("int4", "int4_g128_asym_gptq", "nf4_b64"):
            pick = ["found", {"folder": f"{ROOT}/methods/second/{name}", "variant": label}, "growth"]
            question = f"Growth of the gap over the last quarter, {label}, {name}, second seed"
            yield compared.finding(f"second.{name}.{label}.growth", question, pick, interval=TEXT)


def grids(reference: Path) -> Iterator[Finding]:
    grids = Source(reference, "grids/comparison.json")
    small = [each for each in grids.content["found"] if each["variant"].startswith(("int3", "int4", "int5"))]
    growths = [each["growth"]["estimate"] for each in small]
    how = "growth of the variants of three to five bits, with the head and without"
    for name, value in (("smallest", min(growths)), ("largest", max(growths))):
        yield derived(
            f"grids.{name}",
            "Growth of the gap over one cosine suite, by grid",
            value,
            how=f"{name} {how}",
            source=grids.path,
            unit="ratio",
            form=".2f",
        )
    yield derived(
        "grids.all",
        "Grids of three to five bits",
        len(small),
        how=how,
        source=grids.path,
        unit="count",
        form="d",
    )
    grow = sum(each["growth"]["lower"] > 1 for each in small)
    yield derived(
        "grids.grow",
        "Of these, grids whose gap grows",
        grow,
        how=f"{how}, interval above 1",
        source=grids.path,
        unit="count",
        form="d",
    )
