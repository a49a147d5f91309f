"""The row of a trial: as planned, with what its model reached, and whether that meets its bound."""

import math
import platform
from dataclasses import asdict, replace

import torch

from pareto_unlearn.models import save_model
from pareto_unlearn.records import (
    EMBEDDING_FILE,
    MODEL_FILE,
    BankEntry,
    CurveRow,
    Phase,
    Role,
    Scales,
    TrialRecord,
    TrialResult,
    TrialSpec,
    TrialState,
    name_bounded,
)
from pareto_unlearn.solver import FlatParameters
from pareto_unlearn.trial.auditing import audit_rows
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.embedding import embed_pictures
from pareto_unlearn.trial.gpu_memory import peak_memory
from pareto_unlearn.trial.measuring import (
    Completeness,
    Residual,
    RetainLoss,
    completeness_rows,
    draw_samples,
    level_of,
    measure_completeness,
    measure_metrics,
    measure_residual,
    measure_retain,
)

LOWEST_SLACK = 0.1
"""Share by which f2 may exceed the lowest boundary's tolerance before the trial is called infeasible."""
ARRIVAL_SLACK = 0.01
"""How far, in e, the highest boundary may lie above the end of the path, and the model of a course above the
lowest level of its bank."""


def plan_record(spec: TrialSpec, code_version: str) -> TrialRecord:
    """Return the record of a trial that has measured nothing yet."""
    return TrialRecord(
        **asdict(spec),
        start="original",
        state=TrialState.RUNNING,
        reason="",
        code_version=code_version,
    )


def failed_result(spec: TrialSpec, reason: str, code_version: str) -> TrialResult:
    """Return the row of a trial that raised or whose process died."""
    record = replace(plan_record(spec, code_version), state=TrialState.FAILED, reason=reason)
    return TrialResult(record=record, files={})


def diverged_result(record: TrialRecord, curves: tuple[CurveRow, ...], reason: str) -> TrialResult:
    """Return the result of a trial without a model; NaN means that a value was measured and is no number."""
    nan = float("nan")
    return TrialResult(
        record=replace(record, state=TrialState.DIVERGED, reason=reason, f1=nan, f2=nan),
        curves=curves,
        files={},
    )


def measure_trial(
    trial: Trial, flat: FlatParameters, record: TrialRecord, curves: tuple[CurveRow, ...]
) -> TrialResult:
    """Measure the model and fill in the record; the first thing checked is that the outputs are finite.

    Ranks measure f1, f2 and the residual together. Then they part: rank 0 makes pictures, metrics and audit,
    the others return a result without them.
    """
    config, spec, material = trial.config, trial.spec, trial.material
    train, heldout = (measure_completeness(material, split) for split in ("train", "heldout"))
    kept = measure_retain(material, "train"), measure_retain(material, "heldout")
    losses = kept[0].f2, kept[1].f2
    if not all(math.isfinite(value) for value in (train.f1, heldout.f1, *losses)):
        return diverged_result(record, curves, "diverged: f1 or f2 over the whole sets is not finite")
    record = _with_costs(_with_residual(record, measure_residual(material, flat)), (train, heldout), losses)
    record = _with_errors(record, (train, heldout), kept)
    material.ranks.close()
    if not material.ranks.is_first:
        return TrialResult(record=record, files={})
    trial = trial.alone()
    material = trial.material
    record = _with_quality(_with_levels(trial, record, (train, heldout)), trial.scales, losses)
    record = replace(
        record, peak_memory_bytes=peak_memory(material.device), device=_name_device(material.device)
    )
    if spec.epsilon is not None:
        record = _with_shares(record, (train, heldout), trial.scales.normalised_f1(spec.epsilon))
    metrics = (
        *completeness_rows(
            train, "train", material.split.forget_train, material.evaluated.get(("forget", "train"))
        ),
        *completeness_rows(
            heldout, "heldout", material.split.forget_heldout, material.evaluated.get(("forget", "heldout"))
        ),
        *measure_metrics(config, material),
        *audit_rows(config, material),
    )
    samples = draw_samples(config, material, with_truth=spec.phase is Phase.ORIGINAL)
    return TrialResult(
        record=_judge(trial, record),
        curves=curves,
        metrics=metrics,
        samples=tuple(samples),
        files=_files(trial),
    )


def _files(trial: Trial) -> dict[str, bytes]:
    """Return the files of the model; none of the original, whose weights lie in its own file."""
    if trial.spec.phase is Phase.ORIGINAL:
        return {}
    files = {MODEL_FILE: save_model(trial.material.model)}
    if trial.config.evaluate.tsne:
        files[EMBEDDING_FILE] = embed_pictures(trial.config, trial.material)
    return files


def _with_costs(
    record: TrialRecord, parts: tuple[Completeness, Completeness], losses: tuple[float, float]
) -> TrialRecord:
    """Fill in f1, f2 and the completeness of both splits, training first."""
    (train, heldout), (f2, f2_heldout) = parts, losses
    return replace(
        record,
        f1=train.f1,
        f2=f2,
        f1_heldout=heldout.f1,
        f2_heldout=f2_heldout,
        e=train.e,
        e_heldout=heldout.e,
        completeness=1.0 - train.e,
        completeness_worst_class=train.worst_class,
        completeness_worst_5pct=train.worst_5pct,
        completeness_heldout=1.0 - heldout.e,
        completeness_worst_class_heldout=heldout.worst_class,
        completeness_worst_5pct_heldout=heldout.worst_5pct,
        f1_image_std=train.f1_image_std,
    )


def _with_errors(
    record: TrialRecord, parts: tuple[Completeness, Completeness], kept: tuple[RetainLoss, RetainLoss]
) -> TrialRecord:
    """Fill in the standard errors of f1 and f2; they stay None where all images were measured."""
    return replace(
        record,
        f1_error=parts[0].f1_error,
        f1_error_heldout=parts[1].f1_error,
        f2_error=kept[0].error,
        f2_error_heldout=kept[1].error,
    )


def _with_levels(trial: Trial, record: TrialRecord, parts: tuple[Completeness, Completeness]) -> TrialRecord:
    """Fill in what epsilon bounds, on both splits."""
    bounded, scales = trial.config.solver.completeness, trial.scales
    level, heldout = (
        level_of(part, scales, bounded, split)
        for part, split in zip(parts, ("train", "heldout"), strict=True)
    )
    return replace(record, level=level, level_heldout=heldout)


def _with_quality(record: TrialRecord, scales: Scales, losses: tuple[float, float]) -> TrialRecord:
    """Fill in the retained quality of both splits."""
    return replace(
        record,
        retained_quality=1.0 - losses[0] / scales.variance_retain,
        retained_quality_heldout=1.0 - losses[1] / scales.variance_retain_heldout,
    )


def _with_residual(record: TrialRecord, residual: Residual) -> TrialRecord:
    """Fill in the first-order facts."""
    return replace(
        record,
        residual_multiplier=residual.multiplier,
        residual_norm_f1=residual.norm_f1,
        residual_norm_f2=residual.norm_f2,
        residual_cosine=residual.cosine,
    )


def _with_shares(record: TrialRecord, parts: tuple[Completeness, Completeness], e: float) -> TrialRecord:
    """Fill in which share of the images lies above epsilon, on both splits."""
    train, heldout = (part.share_above(e) for part in parts)
    return replace(
        record,
        share_above_epsilon=train[0],
        share_above_epsilon_high=train[1],
        share_above_epsilon_heldout=heldout[0],
        share_above_epsilon_heldout_high=heldout[1],
    )


def _judge(trial: Trial, record: TrialRecord) -> TrialRecord:
    """Fill in the violation and, where a bound is missed, the state and the numbers."""
    config, spec = trial.config, trial.spec
    if spec.epsilon is not None and record.level is not None:
        allowed = config.epsilon.violation_tolerance * (spec.range_width or 0.0)
        return _judge_epsilon(trial, record, spec.epsilon, allowed)
    if spec.phase is Phase.HARDENED and record.level is not None:
        end, name = trial.scales.f1_at(config.solver.path.end), name_bounded(config.solver.completeness)
        return _with_violation(record, name, record.level, end, ARRIVAL_SLACK * trial.scales.f1_range)
    if spec.role is Role.LOWEST and config.solver.lowest.kind == "tolerance" and record.f2 is not None:
        bound = config.solver.lowest.tolerance * trial.scales.variance_retain
        remedy = "more solver.steps, or a larger solver.lowest.tolerance, may help"
        return _with_violation(record, "f2", record.f2, bound, LOWEST_SLACK * bound, remedy)
    return record


def _judge_epsilon(trial: Trial, record: TrialRecord, epsilon: float, allowed: float) -> TrialRecord:
    """Return the row of an epsilon: DONE only if what epsilon bounds lies next to it, from either side."""
    level = epsilon if record.level is None else record.level
    name = name_bounded(trial.config.solver.completeness)
    judged = _with_violation(record, name, level, epsilon, allowed)
    if level >= epsilon - allowed:
        return judged
    reason = (
        f"constraint not active: {name} = {level:.6g} lies further below epsilon {epsilon:.6g} than the "
        f"{allowed:.2g} allowed; {record.reason}"
    )
    return replace(judged, state=TrialState.UNCONVERGED, reason=reason)


def _with_violation(
    record: TrialRecord, name: str, value: float, bound: float, allowed: float, remedy: str = ""
) -> TrialRecord:
    violation = max(value - bound, 0.0)
    if violation <= allowed:
        return replace(record, violation=violation)
    reason = (
        f"{name} = {value:.6g} exceeds its bound {bound:.6g} by more than the {allowed:.2g} allowed; "
        f"{record.reason}{f'; {remedy}' if remedy else ''}"
    )
    return replace(record, violation=violation, state=TrialState.INFEASIBLE, reason=reason)


def arrival_limit(trial: Trial, lowest: float) -> float:
    """Return the raw level up to which a checkpoint counts as arrived at the low end of its bank.

    Args:
        trial: a path, whose end is known, or the course of a rival, whose end is what it reached.
        lowest: the lowest raw level in the bank.
    """
    if trial.spec.role is Role.HIGHEST:
        return trial.scales.f1_at(trial.config.solver.path.end + ARRIVAL_SLACK)
    return lowest + ARRIVAL_SLACK * trial.scales.f1_range


def judge_bank(trial: Trial, record: TrialRecord, end: BankEntry, lowest: float) -> TrialRecord:
    """Return the row of a trial that leaves a bank and as its model the checkpoint ``end``."""
    if trial.spec.role is Role.HIGHEST:
        return judge_path(trial, record, end)
    e, least = (trial.scales.normalised_f1(level) for level in (end.level, lowest))
    reason = f"the smallest e of a checkpoint is {least:.4f}, that of checkpoint {end.step} {e:.4f}"
    return replace(record, state=TrialState.DONE, reason=reason)


def judge_path(trial: Trial, record: TrialRecord, end: BankEntry) -> TrialRecord:
    """Return the row of a path: DONE if its checkpoint at the highest boundary has arrived at the end."""
    e, wanted = trial.scales.normalised_f1(end.level), trial.config.solver.path.end
    if e <= wanted + ARRIVAL_SLACK:
        reason = f"the path reached e = {e:.4f} at step {end.step}, within {ARRIVAL_SLACK:g} of its end"
        return replace(record, state=TrialState.DONE, reason=reason)
    reason = f"the smallest e of the path is {e:.4f}, its end {wanted:g}: the infimum takes more path.steps"
    return replace(record, state=TrialState.UNCONVERGED, reason=reason)


def _name_device(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).name)
    return f"{device.type} ({platform.machine()})"
