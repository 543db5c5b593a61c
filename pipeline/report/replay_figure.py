"""The figure of a monitored run: losses with the stops of every rule, evidence for a worsening, and regrets."""

from __future__ import annotations

import math
from typing import Any

from pipeline.monitor.replay import Replay
from pipeline.report.axes import SCHEMA, Spec
from pipeline.report.figures import WIDTH
from pipeline.report.render import figure_png
from pipeline.report.theme import distinct_colours, tokens
from pipeline.spec import variant_label

HEIGHTS = {"loss": 240, "evidence": 110, "regret": 130}
LEAST_EVIDENCE = 1e-3
"""Shares of the limit below this are drawn at it: the axis is logarithmic."""


def replay_png(replay: Replay) -> bytes:
    """Draw a replay as PNG."""
    return figure_png(replay_spec(replay), tokens((), dark=False))


def replay_spec(replay: Replay) -> Spec:
    """The chart of a replay: three views, the first two on the axis of steps."""
    rules = [each.rule for each in replay.rules]
    colour = {
        "field": "rule", "type": "nominal", "sort": rules, "title": None,
        "scale": {"domain": rules, "range": distinct_colours(len(rules))}, "legend": {"orient": "top"},
    }  # fmt: skip
    x: Spec = {
        "field": "step", "type": "quantitative", "scale": {"nice": False, "zero": False},
        "axis": {"title": None, "labelExpr": "format(datum.value, '~s')"},
    }  # fmt: skip
    losses, evidence = _curves(replay)
    stops = [
        {"step": each.stopped_at, "rule": each.rule} for each in replay.rules if each.stopped_at is not None
    ]
    regrets = [{"rule": each.rule, "regret": each.regret_nats, "shown": _stop(each)} for each in replay.rules]
    y = {"type": "quantitative", "axis": {"title": None, "tickCount": 4}}
    variant = variant_label(replay.variant)
    alarm = "no alarm" if replay.alarm_step is None else f"alarm at step {replay.alarm_step:,}"
    lines = {
        "data": {"values": losses},
        "mark": {"type": "line", "strokeWidth": 1.6},
        "encoding": {
            "x": x,
            "y": {**y, "field": "loss", "scale": {"zero": False}},
            "strokeDash": {"field": "weights", "type": "nominal", "title": None, "legend": {"orient": "top"}},
        },
    }
    marks = {
        "data": {"values": stops},
        "mark": {"type": "rule", "strokeWidth": 1.5},
        "encoding": {"x": x, "color": colour},
    }
    return {
        "$schema": SCHEMA,
        "spacing": 16,
        "resolve": {"scale": {"x": "independent"}},
        "vconcat": [
            _view("loss", "Loss (nats)", f"Vertical lines: stops. Best in hindsight: step {replay.best_step:,}.",
                  [lines, marks]),
            _view("evidence", f"Evidence that {variant} got worse, in its limit: {alarm}", "", [
                {"data": {"values": evidence}, "mark": {"type": "line", "strokeWidth": 1.6},
                 "encoding": {"x": x, "y": {**y, "field": "share", "scale": {"type": "log"}}}},
                {"data": {"values": [{}]}, "mark": {"type": "rule", "strokeDash": [4, 3]},
                 "encoding": {"y": {"datum": 1}}},
            ]),
            _view("regret", "Regret of what each rule ships (nats above the run's best)", "", [
                {"data": {"values": regrets}, "mark": {"type": "bar"},
                 "encoding": {"y": {"field": "shown", "type": "nominal", "sort": None, "axis": {"title": None,
                                                                                              "labelLimit": 320}},
                              "x": {**y, "field": "regret"}, "color": {**colour, "legend": None}}},
            ]),
        ],
    }  # fmt: skip


def _view(name: str, title: str, subtitle: str, layer: list[Spec]) -> Spec:
    return {
        "width": WIDTH,
        "height": HEIGHTS[name],
        "title": {"text": title, "subtitle": subtitle},
        "layer": layer,
    }


def _curves(replay: Replay) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the losses and of the evidence, without what is not finite."""
    losses, evidence = [], []
    for step, verdict in replay.verdicts:
        for name in ("fp32", replay.variant):
            loss = verdict.numbers[f"{name}_nll_nats"]
            if math.isfinite(loss):
                losses.append({"step": step, "weights": name, "loss": loss})
        share = verdict.numbers["evidence"] / verdict.numbers["evidence_limit"]
        evidence.append({"step": step, "share": max(share, LEAST_EVIDENCE)})
    return losses, evidence


def _stop(outcome: Any) -> str:
    """A rule with its stop and its delay."""
    if outcome.stopped_at is None:
        return f"{outcome.rule}: to the end"
    return f"{outcome.rule}: step {outcome.stopped_at:,} ({outcome.delay_steps:+,})"
