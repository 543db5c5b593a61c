"""``python -m tests.external``: the questions of this project put to other people's runs.

Reads ``outputs/reference/external/parameter_golf_pairs.csv`` and writes ``findings.json`` and ``README.md`` beside it.
Takes seconds and needs no network.
"""

from __future__ import annotations

import json

from tests.external.pairs import FOLDER, read_pairs
from tests.external.questions import findings
from tests.external.words import page


def main() -> None:
    """Write both files and print the page."""
    found = findings(read_pairs())
    (FOLDER / "findings.json").write_text(json.dumps(found, indent=1) + "\n")
    (FOLDER / "README.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
