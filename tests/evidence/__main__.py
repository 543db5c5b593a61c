"""``python -m tests.evidence``: the findings and their pages, from the reports that ``make reference`` makes.

Writes regrets.json, the decision.json of every trained experiment, findings.json and FINDINGS.md under
``outputs/reference``, and the three findings of README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.evidence import regrets
from tests.evidence.claims import claims
from tests.evidence.convergence import convergence
from tests.evidence.interventions import MIN_CONFIRMING, interventions
from tests.evidence.pages import README_TEMPLATE, TEMPLATE, between_marks, fill
from tests.evidence.repetition import repetition
from tests.evidence.second_seed import second_seed
from tests.evidence.sizes import sizes

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "outputs" / "reference"

DECISIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "interventions": interventions,
    "interventions/confirmation": partial(interventions, wanted=MIN_CONFIRMING),
    "convergence": convergence,
    "sizes": sizes,
    "repetition": repetition,
    "methods/second": second_seed,
}
"""Folder of an experiment -> what its rule decides, once it was run."""


def main() -> None:
    """Write all files."""
    costs = regrets.regrets(REFERENCE)
    _write(REFERENCE / "regrets.json", costs)
    for name, decide in DECISIONS.items():
        if any((REFERENCE / name).glob("*/run.json")):
            _write(REFERENCE / name / "decision.json", decide(REFERENCE / name))
    found = claims(REFERENCE)
    _write(REFERENCE / "findings.json", [finding.to_json() for finding in found])
    texts = texts_of([finding.to_json() for finding in found], costs)
    (REFERENCE / "FINDINGS.md").write_text(fill(TEMPLATE.read_text(), texts))
    readme = ROOT / "README.md"
    readme.write_text(between_marks(readme.read_text(), fill(README_TEMPLATE.read_text(), texts)))


def texts_of(found: list[dict[str, Any]], costs: dict[str, Any]) -> dict[str, str]:
    """The words that go into the pages, by id."""
    told = {each["id"]: each["text"] for each in found}
    bare = {f"{each['id']}:bare": each["text"].replace(f" {each['unit']}", "", 1) for each in found}
    return {**told, **bare, "table:regrets": regrets.page(costs)}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
