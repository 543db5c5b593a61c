"""The reduction: a folder of shards -> tables and ``report.json``."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.analysis.statistics.curve_tables import curve_from_frame
from pipeline.analysis.statistics.curves import MIN_ROWS, Curve
from pipeline.analysis.trajectory.audit_report import AuditReport, CalibrationText
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses
from pipeline.analysis.trajectory.mechanism.explain import explain, read_controls
from pipeline.analysis.trajectory.mechanism.factor_table import layer_table, mechanism_columns
from pipeline.analysis.trajectory.mechanism.mechanism_report import Mechanism
from pipeline.analysis.trajectory.mechanism.swapping import swaps_of
from pipeline.analysis.trajectory.mechanism.trace_check import trace_checks
from pipeline.analysis.trajectory.method_repair import calibration_problems, with_repairs
from pipeline.analysis.trajectory.shipping import decisions_of, shipping_decision
from pipeline.analysis.trajectory.square_law import square_law
from pipeline.analysis.trajectory.stages import phase_of
from pipeline.analysis.trajectory.summary import Summary, summarise, summarise_gaps
from pipeline.analysis.trajectory.trajectory_table import (
    headline_variant,
    measured_variants,
    tensor_table,
    trajectory_table,
)
from pipeline.base.english import counted
from pipeline.base.typed_json import to_json
from pipeline.base.versions import versions
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import FolderStatus, finished
from pipeline.runs.output import run_folder
from pipeline.runs.plans import RunPlan
from pipeline.runs.result_files import REPORT, TABLES
from pipeline.runs.shard import Shard
from pipeline.runs.table_files import read_frame
from pipeline.spec import column_of


@dataclass(frozen=True)
class Reduction:
    """Result of a reduction."""

    trajectory: pl.DataFrame
    """One row per checkpoint (``analysis.trajectory``) with its ``phase``."""
    tensors: pl.DataFrame
    """One row per checkpoint, variant and quantized tensor."""
    report: AuditReport
    layers: pl.DataFrame | None = None
    """One row per checkpoint, variant and layer that was quantized alone (``--mechanism layers``)."""


def reduce_run(folder: RunFolder, *, allow_missing: bool = False, seed: int = 0) -> Reduction:
    """Join the shards of ``folder`` and analyse them; writes nothing.

    Raises as ``finished``.
    """
    plan, found = finished(folder, allow_missing=allow_missing)
    done = set(found.done)
    shards = shown(plan, folder.shards.require([c.key for c in plan.checkpoints if c.key in done]))
    trajectory = trajectory_table(shards, plan.checkpoints)
    names = _names(shards)
    summary = _summary(trajectory, names, seed)
    phases = phase_of(summary.phases, trajectory["step"].to_numpy())
    trajectory = trajectory.insert_column(4, pl.Series("phase", phases, dtype=pl.Int64))
    duplicates = {c.key: c.duplicate_of for c in plan.checkpoints if c.key in done and c.duplicate_of}
    trajectory = trajectory.with_columns(mechanism_columns(shards))
    law = square_law(shards, duplicates=list(duplicates))
    if law is not None:
        trajectory = trajectory.with_columns(law.columns([shard.key for shard in shards]))
    why = _mechanism(shards, trajectory, summary, list(duplicates), seed)
    trajectory, repairs = with_repairs(trajectory, shards[0].measured)
    swaps = swaps_of(shards, plan.config.get("swap", ()), seed=seed)
    said = [*summary.verdict, *([] if why is None else [why.sentence])]
    said += [*(each.sentence for each in swaps), *(each.sentence for each in repairs)]
    tensors = tensor_table(shards)
    decisions = decisions_of(trajectory, seed=seed)
    report = replace(
        _measured(plan, found, shards),
        summary=replace(summary, verdict=tuple(said)),
        decision=shipping_decision(decisions, headline_variant(trajectory), seed, names),
        mechanism=why,
        swap=swaps or None,
        methods=repairs,
        calibration_problems=calibration_problems(tensors),
        square_law=None if law is None else law.law,
        duplicates=duplicates,
    )
    return Reduction(trajectory, tensors, report, layer_table(shards))


def _measured(plan: RunPlan, found: FolderStatus, shards: Sequence[Shard]) -> AuditReport:
    """The report before any analysis: what was measured, how, and what was not."""
    return AuditReport(
        suite=plan.suite,
        n_checkpoints=len(shards),
        variants=_names(shards),
        failures=found.failed,
        missing=tuple(found.to_measure),
        skipped=tuple(plan.skipped),
        notes={shard.key: tuple(shard.notes) for shard in shards if shard.notes},
        corpus=plan.corpus,
        calibration=_calibration_of(plan, shards),
        config=plan.config,
        fingerprint=plan.fingerprint,
        wall_s=plan.wall_s,
        idle_share=plan.idle_share,
        versions=measured_versions(shards),
        reduced_with=versions(),
    )


def read_table(table: str) -> Curve:
    """The curve of a file, at a local path or a URL; raises as ``read_frame`` and ``curve_from_frame``."""
    return curve_from_frame(read_frame(table), name=table)


def read_curve(folder: RunFolder, *, name: str) -> Curve:
    """The losses of the audit in ``folder``, also per batch; ``name``: its name in messages. Raises as ``finished``."""
    plan, _ = finished(folder)
    shards = shown(plan, [folder.shards.read(checkpoint.key) for checkpoint in plan.checkpoints])
    return curve_from_frame(trajectory_table(shards, plan.checkpoints), name=name)


def read_mechanism(folder: RunFolder) -> list[ControlLosses]:
    """Losses under the controls of every variant of the audit in ``folder`` that has them; raises as above."""
    plan = folder.read_plan()
    shards = shown(plan, [folder.shards.read(checkpoint.key) for checkpoint in plan.checkpoints])
    steps = np.array([checkpoint.step for checkpoint in plan.checkpoints], dtype=np.int64)
    return read_controls(shards, steps, duplicates=[c.key for c in plan.checkpoints if c.duplicate_of])


def shown(plan: RunPlan, shards: Sequence[Shard]) -> list[Shard]:
    """``shards`` with the rows for the tables: the wanted variants, then every other variant that all shards have.

    A shard may hold more than the last request; a variant that only some checkpoints have makes no column.
    """
    wanted = list(plan.probe["variants"])
    everywhere = set[str]().union(*(shard.measured for shard in shards))
    everywhere = everywhere.intersection(*(shard.measured for shard in shards))
    variants = [*wanted, *sorted(everywhere.difference(wanted))]
    return [shard.only(variants) for shard in shards]


def write_reduction(folder: RunFolder, reduction: Reduction) -> None:
    """Writes ``tables/trajectory.parquet`` and ``.csv``, ``tables/tensors.parquet`` and ``report.json``."""
    frames = {"trajectory": reduction.trajectory, "tensors": reduction.tensors}
    if reduction.layers is not None:
        frames["mechanism_layers"] = reduction.layers
    for name, frame in frames.items():
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        folder.results.write_table(f"{name}.parquet", buffer.getvalue())
    folder.results.write_table(
        "trajectory.csv", reduction.trajectory.select(pl.exclude(pl.List)).write_csv().encode()
    )
    write_report(folder, reduction.report)


def redecide(
    folder: RunFolder, *, tolerance_nats: float | None = None, level: float | None = None
) -> list[str]:
    """Which checkpoint to ship, in sentences; where ``tolerance_nats`` or ``level`` differ from what the reduction in
    ``folder`` decided with, its report.json gets the decision made anew. Empty where nothing was reduced.
    """
    report = folder.results.read_as(AuditReport, REPORT)
    table = folder.results.read(f"{TABLES}/trajectory.parquet")
    if report is None or table is None or report.decision is None:
        return []
    decided = report.decision
    settings = decided.settings.changed(tolerance_nats, level)
    if settings != decided.settings:
        trajectory = pl.read_parquet(table)
        found = decisions_of(trajectory, settings, seed=decided.seed)
        headline = headline_variant(trajectory)
        decided = shipping_decision(found, headline, decided.seed, report.variants) or decided
        write_report(folder, replace(report, decision=decided))
    return [decided.headline.sentence]


def write_report(folder: RunFolder, report: AuditReport) -> None:
    """Writes ``report.json``."""
    folder.results.write(REPORT, json.dumps(to_json(report), indent=1, allow_nan=False))


def _summary(trajectory: pl.DataFrame, names: Mapping[str, str], seed: int) -> Summary:
    """The analysis of the headline variant; where its gap cannot be analysed, the gaps alone and why."""
    variant = headline_variant(trajectory)
    steps = trajectory["step"].to_numpy()
    reason = None
    if variant is None:
        reason = "only fp32 was measured: there is no gap to analyse"
    elif len(steps) < MIN_ROWS:
        reason = f"{counted(len(steps), 'checkpoint', are=True)} too few: at least {MIN_ROWS} are needed"
    elif np.any(np.diff(steps) <= 0):
        reason = "step numbers restart between stages: audit one stage at a time to find its phases"
    if variant is None or reason is not None:
        variants = measured_variants(trajectory)
        fp32, *others = (trajectory[f"{name}_nll_nats"].to_numpy() for name in ("fp32", *variants))
        gaps = summarise_gaps(steps, fp32, dict(zip(variants, others, strict=True)))
        return Summary(gaps=gaps, verdict=(f"No phases: {reason}.",))
    curve = curve_from_frame(trajectory, name="trajectory")
    return summarise(curve, variant=variant, seed=seed, names=names)


def _mechanism(
    shards: Sequence[Shard], trajectory: pl.DataFrame, summary: Summary, duplicates: Sequence[str], seed: int
) -> Mechanism | None:
    rates = trajectory["learning_rate"]
    known = rates.null_count() < len(rates)
    return explain(
        read_controls(shards, trajectory["step"].to_numpy(), duplicates=duplicates),
        headline=headline_variant(trajectory),
        labels=_names(shards),
        phases=summary.phases,
        learning_rate=rates.cast(pl.Float64).to_numpy() if known else None,
        seed=seed,
        checks=trace_checks([shard for shard in shards if shard.key not in duplicates]),
    )


def _names(shards: Sequence[Shard]) -> dict[str, str]:
    """Column prefix -> name of the variant."""
    return {column_of(variant): variant for variant in shards[0].measured}


def _calibration_of(plan: RunPlan, shards: Sequence[Shard]) -> CalibrationText | None:
    """The calibration text and the hash of its tokens; None where no variant is calibrated."""
    found = {shard.config.get("calibration_sha256") for shard in shards} - {None}
    return CalibrationText(plan.calibration, ", ".join(sorted(map(str, found)))) if found else None


def measured_versions(shards: Sequence[Shard]) -> dict[str, str]:
    """Package -> versions that measured the shards; all of them if they differ."""
    found: dict[str, list[str]] = {}
    for shard in shards:
        for package, version in shard.versions.items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    return {package: ", ".join(each) for package, each in found.items()}


def trajectory_of(out: str | Path, *, allow_missing: bool = False, seed: int = 0) -> pl.DataFrame:
    """The table of the audit in ``out`` (a folder or URL): one row per checkpoint, columns as in trajectory.parquet.

    Made from the shards; writes nothing. Raises as ``finished``.
    """
    return reduce_run(run_folder(out), allow_missing=allow_missing, seed=seed).trajectory


def curve_of(out: str | Path) -> Curve:
    """The losses of the audit in ``out``, per evaluation batch too: what :func:`detect_phases` reads."""
    return read_curve(run_folder(out), name=str(out))
