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
    keys: tuple[mechanism_charts.Line, ...] = ()
    """Labels of its lines, if they are not variants."""

    @property
    def height(self) -> int:
        return int(self.spec["height"])


def make_panels(frame: Frame, n_events: int = 0) -> tuple[Panel, ...]:
    """Events, perplexity, damage, learning rate, measurements of the weights and kappa, as far as they are known."""
    panels = []
    if n_events:
        note = "Dots with 95 % intervals. Shading: the phases."
        panels.append(Panel("events", "Events of the run", note, timeline(frame, n_events)))
    if frame.series:
        cut = " The initial fall runs off the top." if _cut(frame) else ""
        note = f"Lower is better. Logarithmic axis.{cut}"
        panels.append(Panel("perplexity", "Perplexity", note, curves.perplexity(frame)))
    if measured := measures(frame):
        charts = {measure.name: curves.damage(frame, measure) for measure in measured}
        note, first = damage_note(frame, measured[0]), charts[measured[0].name]
        panels.append(Panel("damage", "Damage by quantization", note, first, charts))
    if methods.has_repairs(frame):
        chart = methods.repair_chart(frame)
        panels.append(Panel("methods", "What the method repairs", methods.NOTE, chart))
    panels += _of_mechanism(frame)
    if frame.finite("learning_rate"):
        chart = curves.single(frame, "learning_rate", ".1~e", zero=True)
        panels.append(Panel("learning_rate", "Learning rate", "", chart))
    panels += [
        Panel(each.name, each.label, each.note, curves.single(frame, each.name, each.format, zero=False))
        for each in unvaried_columns()
        if frame.finite(each.name)
    ]
    if frame.finite("kappa"):
        note = "kappa: nats per squared relative weight error, fitted over all variants. Band: 95 % over the text."
        chart = curves.single(frame, "kappa", ",.3~g", zero=True, edges=("kappa_lower", "kappa_upper"))
        panels.append(Panel("kappa", "Sensitivity of the loss to rounding", note, chart))
    return tuple(panels)


def _of_mechanism(frame: Frame) -> list[Panel]:
    if frame.mechanism is None:
        return []
    panels = []
    own = frame.mechanism.by_variant[frame.mechanism.headline]
    if lines := mechanism_charts.shown_lines(frame):
        chart, keys = mechanism_charts.factors_chart(frame), tuple(lines.values())
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
