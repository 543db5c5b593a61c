"""The charts of a trajectory, in reading order; charts without data are left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.analysis.trajectory.mechanism.mechanism_words import factors_note
from pipeline.measurements import Column, unvaried_columns
from pipeline.report import curve_charts as curves
from pipeline.report import mechanism_charts, methods
from pipeline.report.axes import Spec
from pipeline.report.frame import Frame
from pipeline.report.timeline import timeline


@dataclass(frozen=True)
class LineKey:
    """One line of a chart, with its label."""

    label: str
    colour: str
    """Token."""
    dash: tuple[int, ...]
    stroke: str
    """The line style in words, for black-and-white figures."""


@dataclass(frozen=True)
class Panel:
    """One chart with its heading and note."""

    name: str
    """Id in the page and name of the figure."""
    title: str
    """Heading."""
    note: str
    """Note on what is drawn and how to read it."""
    spec: Spec
    """Vega-Lite with tokens."""
    choices: dict[str, Spec] = field(default_factory=dict)
    """Alternative measures: name -> specification."""
    keys: tuple[LineKey, ...] = ()
    """Labels of its lines, if they are not variants."""

    @property
    def height(self) -> int:
        return int(self.spec["height"])


def make_panels(frame: Frame, n_events: int = 0) -> tuple[Panel, ...]:
    """Events, perplexity, damage, learning rate, measurements of the weights and kappa, as far as they are known."""
    panels = []
    if n_events:
        panels.append(
            Panel(
                "events",
                "Events of the run",
                "Dots with 95 % intervals. Shading: the phases.",
                timeline(frame, n_events),
            )
        )
    if frame.series:
        panels.append(
            Panel(
                "perplexity",
                "Perplexity",
                "Lower is better. Logarithmic axis."
                + (" The initial fall runs off the top." if _cut(frame) else ""),
                curves.perplexity(frame),
            )
        )
    measured = measures(frame)
    if measured:
        panels.append(
            Panel(
                "damage",
                "Damage by quantization",
                damage_note(frame, measured[0]),
                curves.damage(frame, measured[0]),
                {measure.name: curves.damage(frame, measure) for measure in measured},
            )
        )
    if methods.has_repairs(frame):
        chart = methods.repair_chart(frame)
        panels.append(Panel("methods", "What the method repairs", methods.NOTE, chart))
    panels += _of_mechanism(frame)
    if frame.finite("learning_rate"):
        panels.append(
            Panel(
                "learning_rate", "Learning rate", "", curves.single(frame, "learning_rate", ".1~e", zero=True)
            )
        )
    panels += [
        Panel(each.name, each.label, each.note, curves.single(frame, each.name, each.format, zero=False))
        for each in unvaried_columns()
        if frame.finite(each.name)
    ]
    if frame.finite("kappa"):
        panels.append(
            Panel(
                "kappa",
                "Sensitivity of the loss to rounding",
                "kappa: nats per squared relative weight error, fitted over all variants. Band: 95 % over the text.",
                curves.single(frame, "kappa", ",.3~g", zero=True, edges=("kappa_lower", "kappa_upper")),
            )
        )
    return tuple(panels)


def _of_mechanism(frame: Frame) -> list[Panel]:
    if frame.mechanism is None:
        return []
    panels = []
    own = frame.mechanism.by_variant[frame.mechanism.headline]
    if mechanism_charts.shown_lines(frame):
        chart = mechanism_charts.factors_chart(frame)
        keys = tuple(
            LineKey(
                mechanism_charts.WORDS[name],
                mechanism_charts.COLOURS[name],
                tuple(mechanism_charts.DASHES[name]),
                mechanism_charts.STROKES[name],
            )
            for name in mechanism_charts.shown_lines(frame)
        )
        panels.append(Panel("factors", "Why the damage grows", factors_note(own), chart, keys=keys))
    if frame.finite(mechanism_charts.PARABOLA):
        note = (
            f"What a parabola through half of the rounding error says of {own.label} damage; 1 = all of it."
        )
        chart = curves.single(frame, mechanism_charts.PARABOLA, "~%", zero=False)
        panels.append(Panel(mechanism_charts.PARABOLA, "Share of a parabola", note, chart))
    return panels


def _cut(frame: Frame) -> bool:
    top = curves.perplexity_top(frame)
    return any(value > top for one in frame.series for _, value in frame.finite(f"{one.key}_perplexity"))


def damage_note(frame: Frame, measure: Column) -> str:
    """The words under the damage chart's heading."""
    banded = measure is curves.GAP and any(frame.has(f"{one.key}_gap_lo") for one in frame.quantized)
    return f"{measure.note} Bands: 95 %, paired over batches." if banded else measure.note


def measures(frame: Frame) -> tuple[Column, ...]:
    """The damage measures with a finite value for at least one quantized variant."""
    return tuple(
        measure
        for measure in curves.measures()
        if any(frame.finite(f"{one.key}_{measure.name}") for one in frame.quantized)
    )
