"""One trial, top to bottom: load, solve, measure. Knows no Ray and no store.

What outlives a trial passes through its arguments: ``Hooks`` reports progress and keeps resume states, and the
returned ``TrialResult`` holds all there is to commit.
"""

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.models import save_model
from pareto_unlearn.records import (
    CurveRow,
    Phase,
    Role,
    TrialRecord,
    TrialResult,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, Outcome, StepRow, StopRule, solve
from pareto_unlearn.trial.evidence import (
    completeness_rows,
    draw_samples,
    measure_completeness,
    measure_metrics,
    measure_residual,
    measure_retain_loss,
)
from pareto_unlearn.trial.material import Material, load_material
from pareto_unlearn.trial.problem import Problem, build_problem

__all__ = ["Hooks", "Material", "failed_result", "load_material", "measure_trial", "plan_record", "run_trial"]

logger = logging.getLogger(__name__)

FLUSH_EVERY = 50
CONSTRAINT = "constraint."
"""Prefix of the constraint's own tensors in a resume state."""
LOWEST_SLACK = 0.1
"""Share by which f2 may exceed the lowest boundary's tolerance before the trial is called infeasible."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a running trial speaks to the world; every call returns quickly and may do nothing.

    ``on_progress(step, f1, f2)`` takes mini-batch values. ``save_resume(step, files)`` keeps a state and ``load_resume()``
    returns the newest intact one.
    """

    on_progress: Callable[[int, float, float], None] = lambda *_: None
    save_resume: Callable[[int, Mapping[str, bytes]], None] = lambda *_: None
    load_resume: Callable[[], tuple[int, dict[str, bytes]] | None] = lambda: None


@dataclass(slots=True)
class _History:
    """Steps taken so far, over all resumes."""

    rows: list[StepRow] = field(default_factory=list)
    seconds: float = 0.0


def run_trial(
    config: SweepConfig, spec: TrialSpec, material: Material, hooks: Hooks, code_version: str
) -> TrialResult:
    """Solve one trial and measure what it reached.

    The same config and spec give the same result to the bit on one kind of CPU, resumed or not.

    Args:
        config: the sweep.
        spec: which trial.
        material: freshly loaded; its model is trained in place.
        hooks: progress and resume states.
        code_version: recorded with the result.

    Returns:
        The record and all tables; a diverged trial has no model, metrics or samples.

    """
    base = plan_record(spec, config, code_version)
    if spec.phase is Phase.ORIGINAL:
        flat = FlatParameters(material.trainable(config.objective.space))
        return measure_trial(
            config, spec, material, flat, replace(base, state=TrialState.DONE, reason="not trained"), ()
        )
    problem = build_problem(config, spec, material)
    solver = EpsilonSolver(
        material.trainable(config.objective.space),
        problem.rule,
        problem.settings,
        epsilon=problem.epsilon,
        ramp=problem.ramp,
        log_size=FLUSH_EVERY,
    )
    history, outcome = _solve(config, spec, problem, solver, hooks)
    rate = _images_per_second(config, solver, history)
    curves = tuple(problem.curve_row(row, rate) for row in history.rows)
    record = replace(
        base,
        reason=str(outcome),
        steps=solver.step_count,
        gradient_pairs=solver.step_count,
        skipped_steps=sum(not row.finite for row in history.rows),
        multiplier=history.rows[-1].eta if history.rows else None,
        seconds=history.seconds,
        images_per_second=rate,
        num_parameters=solver.flat.values.numel(),
    )
    if outcome is Outcome.DIVERGED:
        return _diverged(record, curves, f"{outcome} at step {solver.step_count}")
    record = replace(
        record, state=TrialState.UNCONVERGED if _still_moving(spec, outcome) else TrialState.DONE
    )
    return measure_trial(config, spec, material, solver.flat, record, curves)


def failed_result(config: SweepConfig, spec: TrialSpec, reason: str, code_version: str) -> TrialResult:
    """Return the row of a trial that raised or whose process died."""
    record = replace(plan_record(spec, config, code_version), state=TrialState.FAILED, reason=reason)
    return TrialResult(record=record, files={})


def _solve(
    config: SweepConfig, spec: TrialSpec, problem: Problem, solver: EpsilonSolver, hooks: Hooks
) -> tuple[_History, Outcome]:
    convergence = config.solver.convergence
    stop = StopRule(
        window=convergence.window,
        tolerance=convergence.tolerance,
        units=problem.spreads,
    )
    history = _resume(solver, problem, stop, hooks)
    started, before = time.monotonic(), history.seconds

    def on_rows(rows: list[StepRow]) -> None:
        history.rows += rows
        history.seconds = before + time.monotonic() - started
        last = problem.curve_row(rows[-1], None)
        hooks.on_progress(solver.step_count, last.f1, last.f2)
        if (
            solver.step_count % config.solver.checkpoint_every < len(rows)
            and solver.step_count < config.solver.steps
        ):
            hooks.save_resume(solver.step_count, _state_files(solver, problem, history))

    outcome = solve(
        solver,
        problem.constraint,
        problem.objective,
        steps=config.solver.steps,
        stop=stop,
        on_rows=on_rows,
        flush_every=FLUSH_EVERY,
    )
    logger.info("trial %s (%s): %s", spec.trial_id, spec.label, outcome)
    return history, outcome


def measure_trial(
    config: SweepConfig,
    spec: TrialSpec,
    material: Material,
    flat: FlatParameters,
    record: TrialRecord,
    curves: tuple[CurveRow, ...],
) -> TrialResult:
    """Measure the model and fill in the record; the first thing checked is that the outputs are finite."""
    scales = material.targets.scales
    train, heldout = (measure_completeness(config, material, split) for split in ("train", "heldout"))
    f2, f2_heldout = (measure_retain_loss(config, material, split) for split in ("train", "heldout"))
    if not all(math.isfinite(value) for value in (train.f1, f2, heldout.f1, f2_heldout)):
        return _diverged(record, curves, "diverged: f1 or f2 over the whole sets is not finite")
    residual = measure_residual(config, material, flat)
    record = replace(
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
        retained_quality=1.0 - f2 / scales.variance_retain,
        retained_quality_heldout=1.0 - f2_heldout / scales.variance_retain_heldout,
        residual_multiplier=residual.multiplier,
        residual_norm_f1=residual.norm_f1,
        residual_norm_f2=residual.norm_f2,
        residual_cosine=residual.cosine,
        f1_image_std=train.f1_image_std,
        peak_memory_bytes=_peak_memory(material.device),
    )
    record = _judge(config, spec, record, scales.variance_retain)
    metrics = [
        *completeness_rows(train, "train", material.split.forget_train),
        *completeness_rows(heldout, "heldout", material.split.forget_heldout),
        *measure_metrics(config, material),
    ]
    samples = draw_samples(config, material, with_truth=spec.phase is Phase.ORIGINAL)
    files = {"model.safetensors": save_model(material.model)} if spec.phase is not Phase.ORIGINAL else {}
    return TrialResult(
        record=record, curves=curves, metrics=tuple(metrics), samples=tuple(samples), files=files
    )


def _judge(config: SweepConfig, spec: TrialSpec, record: TrialRecord, variance_retain: float) -> TrialRecord:
    """Fill in the violation and, where it exceeds its tolerance, the state INFEASIBLE with the numbers."""
    if spec.phase is Phase.EPSILON and spec.epsilon is not None and record.f1 is not None:
        allowed = config.epsilon.violation_tolerance * (spec.range_width or 0.0)
        return _with_violation(record, "f1", record.f1, spec.epsilon, allowed)
    if spec.role is Role.LOWEST and config.solver.lowest.kind == "tolerance" and record.f2 is not None:
        bound = config.solver.lowest.tolerance * variance_retain
        return _with_violation(record, "f2", record.f2, bound, LOWEST_SLACK * bound)
    return record


def _with_violation(
    record: TrialRecord, name: str, value: float, bound: float, allowed: float
) -> TrialRecord:
    violation = max(value - bound, 0.0)
    if violation <= allowed:
        return replace(record, violation=violation)
    reason = f"{name} = {value:.6g} exceeds its bound {bound:.6g} by more than the {allowed:.2g} allowed; {record.reason}"
    return replace(record, violation=violation, state=TrialState.INFEASIBLE, reason=reason)


def _diverged(record: TrialRecord, curves: tuple[CurveRow, ...], reason: str) -> TrialResult:
    nan = float("nan")
    return TrialResult(
        record=replace(record, state=TrialState.DIVERGED, reason=reason, f1=nan, f2=nan),
        curves=curves,
        files={},
    )


def plan_record(spec: TrialSpec, config: SweepConfig, code_version: str) -> TrialRecord:
    """Return the record of a trial that has measured nothing yet."""
    return TrialRecord(
        **asdict(spec),
        start=config.solver.start,
        state=TrialState.RUNNING,
        reason="",
        code_version=code_version,
    )


def _still_moving(spec: TrialSpec, outcome: Outcome) -> bool:
    """Tell whether a boundary was not reached; an epsilon trial is judged by the f1 it ends with."""
    return outcome is Outcome.STILL_MOVING and spec.phase is Phase.BOUNDARY


def _state_files(solver: EpsilonSolver, problem: Problem, history: _History) -> dict[str, bytes]:
    rows = {"rows": [list(row) for row in history.rows], "seconds": history.seconds}
    state = solver.state_dict() | {CONSTRAINT + name: tensor for name, tensor in problem.state.items()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {"solver.safetensors": save_safetensors(state), "history.json": json.dumps(rows).encode()}


def _resume(solver: EpsilonSolver, problem: Problem, stop: StopRule, hooks: Hooks) -> _History:
    """Continue from a kept state: weights, optimiser, and the steps the stopping rule has already seen."""
    kept = hooks.load_resume()
    if kept is None:
        return _History()
    _, files = kept
    state = load_safetensors(files["solver.safetensors"])
    for name, tensor in problem.state.items():
        tensor.copy_(state.pop(CONSTRAINT + name))
    solver.load_state_dict(state)
    history = json.loads(files["history.json"])
    rows = [StepRow(*row) for row in history["rows"]]
    stop.update(rows)
    return _History(rows, history["seconds"])


def _images_per_second(config: SweepConfig, solver: EpsilonSolver, history: _History) -> float | None:
    images = 2 * config.solver.batch * solver.step_count
    return images / history.seconds if history.seconds > 0 else None


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
