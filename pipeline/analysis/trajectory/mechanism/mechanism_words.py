"""The mechanism in plain English: every sentence that a report, a terminal or a page says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.analysis.statistics.intervals import Bounded
from pipeline.analysis.trajectory.compared_runs import RunFactors
from pipeline.analysis.trajectory.mechanism.growth_shares import Cause, FactorGrowth, GrowthShares
from pipeline.analysis.trajectory.mechanism.mechanism_report import VariantMechanism
from pipeline.analysis.trajectory.mechanism.trace_check import TraceCheck
from pipeline.spec import variant_label

FACTOR_WORDS = {
    "error_size": "error size",
    "sensitivity": "sensitivity",
    "alignment": "alignment with the grid",
}
FACTOR_MEANINGS = {
    "error_size": "how far rounding moves the weights: (|D| / |W|)^2",
    "sensitivity": "what a random error of that size costs: nats per unit of it",
    "alignment": "what rounding costs over what its error with random signs costs; 1 = no more than noise",
}
_CAUSES = {
    Cause.ERROR_SIZE: "because rounding moves the weights further than before",
    Cause.SENSITIVITY: "because the loss became more sensitive to errors of the weights, whatever their direction",
    Cause.ALIGNMENT: "because rounding hurts more than noise of its size, as a misfit of the weights to the grid would",
}


def cause_sentence(found: VariantMechanism) -> str:
    """Sentence on the cause of the damage's growth."""
    name, split = found.label, found.shares
    if split is None:
        first = f" The first window is {found.first_is}; `compare` takes others." if found.first_is else ""
        return f"Why {name} damage grew cannot be said: {found.not_split}.{first}"
    span = f"from {found.first_is or 'the first window'} (steps {_first_steps(split)}) to the end"
    if split.cause is Cause.NO_GROWTH:
        return (
            f"{name} damage did not clearly grow {span}: it is {times(split.times)} times what it was, so there is no "
            "growth to explain."
        )
    grown = f"{name} damage grew {times(split.times)} times {span}"
    shares = ", ".join(f"{FACTOR_WORDS[each.name]} {share_of(each)}" for each in split.factors)
    if split.cause is Cause.CANNOT_TELL:
        return f"{grown}; the data cannot tell one cause: of the growth's logarithm {shares}."
    return f"{grown} {_CAUSES[split.cause]}: of the growth's logarithm {shares}."


def run_sentence(found: RunFactors) -> str:
    """The factors of one run beside others, in a line."""
    split = found.shares
    if split is None:
        return f"growth not split: {found.not_split}"
    told = ", ".join(
        f"{FACTOR_WORDS[each.name]} x {each.times.estimate:.2f} ({share_of(each)})" for each in split.factors
    )
    cause = FACTOR_WORDS.get(split.cause, str(split.cause))
    return f"damage x {times(split.times)} = {told}; cause: {cause}"


def even_sentence(found: VariantMechanism) -> str:
    """Sentence on the even part; empty if it was not measured."""
    even = found.even
    if even is None:
        return ""
    quiet = (
        ""
        if even.variance_ratio is None
        else f", whose scatter between checkpoints has {_ratio(even.variance_ratio)} the gap's variance,"
    )
    if even.onset_step is None:
        told = "shows no onset" if even.growth != "learning_rate" else "grows as the learning rate falls"
    elif even.onset_ci is None:
        told = f"takes off at step {even.onset_step:,}"
    else:
        told = f"takes off at step {even.onset_step:,} (95 % interval {even.onset_ci[0]:,} to {even.onset_ci[-1]:,})"
    best = "" if even.best_step is None else f"; with it alone step {even.best_step:,} has the lowest loss"
    return f"Without the accident of rounding, {found.label} damage{quiet} {told}{best}."


def parabola_sentence(found: VariantMechanism) -> str:
    """Sentence on whether a parabola describes the damage; empty if it was not measured."""
    share = found.parabola_share
    if share is None:
        return ""
    return (
        f"A parabola through half of the rounding error, ahead and back, says {100 * share:.0f} % of "
        f"{found.label} damage at the end."
    )


def trace_sentence(checks: Sequence[TraceCheck]) -> str:
    """Sentence on how well the trace of the Hessian predicts what noise costs; empty if it was not measured."""
    if not checks:
        return ""
    agree = sum(check.agrees for check in checks)
    steps = len({check.step for check in checks})
    return (
        f"The trace of the Hessian predicts what noise costs within the errors of both in {agree} of {len(checks)} "
        f"comparisons at {steps} {'step' if steps == 1 else 'steps'}."
    )


def noise_words(check: TraceCheck, labels: Mapping[str, str]) -> str:
    """Such as ``noise of 2 % of the weights``; ``labels``: column prefix -> label of the variants."""
    if check.noise == "relative":
        return f"noise of {100 * check.share:g} % of the weights"
    kind = "with random signs" if check.noise == "signs" else "as normal noise"
    return f"error of {variant_label(check.variant, labels)} {kind}"


def factors_note(found: VariantMechanism) -> str:
    """Contents of the chart of the factors."""
    if found.shares is None:
        return f"Factors of {found.label} damage in their own units. Bands: 95 %, over text and draws."
    window = _first_steps(found.shares)
    first = found.first_is or "the first window"
    return (
        f"Factors of {found.label} damage over their values in {first} (steps {window}). "
        "Bands: 95 %, over text and draws."
    )


def share_of(factor: FactorGrowth) -> str:
    """Such as ``72 % [60, 85]``; a dash where the damage did not clearly grow."""
    share = factor.share
    if share is None:
        return "-"
    middle, low, high = (round(100 * value) for value in (share.estimate, share.lower, share.upper))
    return f"{middle} % [{low}, {high}]"


def times(number: Bounded) -> str:
    """Such as ``1.41 [1.29, 1.54]``."""
    return f"{number.estimate:.2f} [{number.lower:.2f}, {number.upper:.2f}]"


def _first_steps(split: GrowthShares) -> str:
    return f"{split.first.first:,} to {split.first.last:,}"


def _ratio(variance_ratio: float) -> str:
    return f"{1 / variance_ratio:.2f} times" if variance_ratio < 100 else "less than a hundredth of"
