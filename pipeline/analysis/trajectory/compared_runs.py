"""The comparison of several audits between two windows of steps: growth by training, by group, and by factor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.trajectory.growth import Growth, Window, compare_growth
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses
from pipeline.analysis.trajectory.mechanism.growth_shares import GrowthShares, NoShares, split_growth
from pipeline.analysis.trajectory.trainings import GroupRatio, Training, compare_groups
from pipeline.base.errors import UsageError
from pipeline.base.typed_json import INLINE


@dataclass(frozen=True)
class RunFactors:
    """The growth of one variant's damage in one run, factor by factor."""

    run: str
    variant: str
    """Column prefix."""
    shares: GrowthShares | None
    not_split: str | None
    """Why there are no shares; None where there are."""


def factors_of_runs(
    measured: Mapping[str, Sequence[ControlLosses]],
    variants: Iterable[str],
    before: Window,
    end: Window,
    *,
    seed: int = 0,
) -> list[RunFactors]:
    """The factors of every run and variant that has controls, variant by variant.

    ``measured``: by run. ``seed``: of the bootstrap, the same for all, so that equal evaluation text is drawn alike.
    """
    found = []
    for variant in variants:
        for run, every in measured.items():
            for losses in every:
                if losses.variant == variant:
                    split = split_growth(losses, before, end, seed=seed)
                    shares = split if isinstance(split, GrowthShares) else None
                    reason = split.reason if isinstance(split, NoShares) else None
                    found.append(RunFactors(run, variant, shares, reason))
    return found


@dataclass(frozen=True)
class TrainingGroups:
    """Which trainings belong together; all by name."""

    kinds: dict[str, tuple[str, ...]]
    """Groups that are compared, the first with each other one."""
    strata: dict[str, tuple[str, ...]]
    """Trainings that the exact test permutes among themselves; empty: all."""

    def names(self) -> tuple[str, ...]:
        """Every training of a group once."""
        return tuple(dict.fromkeys(name for kind in self.kinds.values() for name in kind))


@dataclass(frozen=True)
class TrainingGrowth:
    """What one variant's gap did in one training."""

    folder: str
    variant: str
    """Column prefix."""
    found: Growth = field(metadata=INLINE)
    factors: RunFactors | None
    """None where the variant has no controls."""


@dataclass(frozen=True)
class VariantRatio:
    """One group over another, for the gap of one variant."""

    variant: str
    found: GroupRatio = field(metadata=INLINE)


@dataclass(frozen=True)
class RunComparison:
    """All of it, variant by variant."""

    found: tuple[TrainingGrowth, ...]
    groups: tuple[VariantRatio, ...]

    def factors(self) -> list[RunFactors]:
        """The factors of all that have some."""
        return [each.factors for each in self.found if each.factors is not None]


def compare_runs(
    trainings: Sequence[tuple[str, Curve]],
    controls: Mapping[str, Sequence[ControlLosses]],
    variants: Iterable[str],
    windows: tuple[Window, Window],
    groups: TrainingGroups,
    *,
    threshold: float = 1.0,
    seed: int = 0,
) -> RunComparison:
    """Compare the ``trainings`` (name and curve; a name may stand twice), some of which have ``controls``, by name.

    ``threshold``: of the rule whose power is reported; ``seed``: of the factors' bootstrap. Raises UsageError where the
    trainings cannot be compared.
    """
    found: list[TrainingGrowth] = []
    ratios: list[VariantRatio] = []
    for variant in variants:
        grown = compare_growth([curve for _, curve in trainings], variant, *windows, threshold=threshold)
        own = [(name, growth) for (name, _), growth in zip(trainings, grown, strict=True)]
        split = {each.run: each for each in factors_of_runs(controls, [variant], *windows, seed=seed)}
        found += [TrainingGrowth(name, variant, growth, split.get(name)) for name, growth in own]
        ratios += [VariantRatio(variant, each) for each in _ratios(groups, dict(own), variant, threshold)]
    return RunComparison(tuple(found), tuple(ratios))


def _ratios(
    groups: TrainingGroups, grown: Mapping[str, Growth], variant: str, threshold: float
) -> list[GroupRatio]:
    """The ratio of every group to the first."""
    if not groups.kinds:
        return []
    if len(groups.kinds) == 1:
        raise UsageError(f"one group, {next(iter(groups.kinds))}: wanted --group at least twice")
    place = {member: name for name, members in groups.strata.items() for member in members}
    members: dict[str, list[Training]] = {}
    for kind, names in groups.kinds.items():
        for name in dict.fromkeys(names):
            growth = grown[name].growth
            if growth is None:
                raise UsageError(
                    f"{name}: the gap of {variant} before cannot be told from 0, so it has no growth; "
                    "choose other windows"
                )
            if groups.strata and name not in place:
                raise UsageError(f"{name} is in no --stratum: wanted every training of a group in one")
            members.setdefault(kind, []).append(Training(name, growth.estimate, place.get(name, "")))
    first, *others = members
    return [
        compare_groups(kind, members[kind], first, members[first], threshold=threshold) for kind in others
    ]
