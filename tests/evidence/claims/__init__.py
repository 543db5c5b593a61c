"""Every number of the pages, with the file and the key that it is read from."""

from __future__ import annotations

from pathlib import Path

from tests.evidence.claims import costs, curvature, experiments, forks, paper, quantizers, schedules
from tests.evidence.findings_file import Finding

PARTS = (
    paper.settings,
    schedules.growth,
    schedules.whole_run,
    schedules.losses,
    paper.audited,
    forks.forks,
    forks.sweeps,
    quantizers.methods,
    quantizers.second,
    quantizers.grids,
    curvature.swaps,
    costs.others,
    experiments.interventions,
    experiments.confirmation,
    experiments.convergence,
    experiments.sizes,
    experiments.repetition,
)


def claims(reference: Path) -> list[Finding]:
    """All findings, in the order of the pages; ``reference``: outputs/reference, reduced and compared."""
    return [finding for part in PARTS for finding in part(reference)]
