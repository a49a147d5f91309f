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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.models import ImageToImage, save_model
from pareto_unlearn.records import (
    EMBEDDING_FILE,
    BankEntry,
    CurveRow,
    Phase,
    Role,
    ScanRow,
    TrialRecord,
    TrialResult,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, Outcome, StepRow, StopRule, nearest, solve
from pareto_unlearn.training import RECIPES
from pareto_unlearn.trial.bank import (
    BANK_FILE,
    CONSTRAINT,
    SCAN_FILE,
    BankKeeper,
    averaged_values,
    count_checkpoints,
    start_from,
)
from pareto_unlearn.trial.embedding import embed_pictures
from pareto_unlearn.trial.evidence import (
    Completeness,
    completeness_rows,
    draw_samples,
    measure_completeness,
    measure_costs,
    measure_metrics,
    measure_residual,
    measure_retain_loss,
)
from pareto_unlearn.trial.forward import check_forward
from pareto_unlearn.trial.material import Material, load_material, load_original
from pareto_unlearn.trial.problem import Problem, build_problem
from pareto_unlearn.trial.reference_model import check_reference, reference_section, weights_digest
from pareto_unlearn.trial.retrained import retrain
from pareto_unlearn.trial.scan import best_learning_rate, scan_learning_rate
from pareto_unlearn.trial.scoring import (
    check_heldout,
    check_weights,
    generate_pictures,
    heldout_pictures,
    measures_of,
    open_scoring,
)

__all__ = [
    "Hooks",
    "Material",
    "check_bank",
    "check_forward",
    "check_heldout",
    "check_reference",
    "check_weights",
    "failed_result",
    "generate_pictures",
    "heldout_pictures",
    "load_material",
    "load_original",
    "measure_trial",
    "measures_of",
    "open_scoring",
    "plan_record",
    "reference_section",
    "run_trial",
    "weights_digest",
]

logger = logging.getLogger(__name__)

FLUSH_EVERY = 50
LOWEST_SLACK = 0.1
"""Share by which f2 may exceed the lowest boundary's tolerance before the trial is called infeasible."""
PATH_SLACK = 0.01
"""How far above its end, in e, a path may stop and yet have arrived."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a running trial speaks to the world; every call returns quickly and may do nothing.

    ``on_progress(step, f1, f2)`` takes mini-batch values. ``save_resume(step, files)`` keeps a state and ``load_resume()``
    returns the newest intact one. ``save_bank_state(step, content)`` keeps a checkpoint of the path; ``read_bank(trial_id)`` and
    ``read_bank_state(trial_id, entry)`` return those of a committed path.
    """

    on_progress: Callable[[int, float, float], None] = lambda *_: None
    save_resume: Callable[[int, Mapping[str, bytes]], None] = lambda *_: None
    load_resume: Callable[[], tuple[int, dict[str, bytes]] | None] = lambda: None
    save_bank_state: Callable[[int, bytes], None] = lambda *_: None
    read_bank: Callable[[str], Sequence[BankEntry]] = lambda _: ()
    read_bank_state: Callable[[str, BankEntry], bytes] = lambda *_: b""


@dataclass(slots=True)
class _History:
    """Steps taken and, of a path, its scan and checkpoints so far, over all resumes."""

    rows: list[StepRow] = field(default_factory=list)
    seconds: float = 0.0
    bank: list[BankEntry] = field(default_factory=list)
    scan: list[ScanRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Start:
    """What a solve begins with: its name for people, its step size, and a checkpoint of the path or None."""

    name: str
    learning_rate: float
    state: bytes | None = None


def run_trial(
    config: SweepConfig, spec: TrialSpec, material: Material, hooks: Hooks, code_version: str
) -> TrialResult:
    """Solve one trial and measure what it reached.

    The same config and spec give the same result to the bit on one kind of CPU, resumed or not.

    Args:
        config: the sweep; a check takes twice its steps.
        spec: which trial.
        material: freshly loaded; its model is trained in place.
        hooks: progress and resume states.
        code_version: recorded with the result.

    Returns:
        The record and all tables; a diverged trial has no model, metrics or samples.

    """
    base, config = plan_record(spec, code_version), config.for_phase(spec.phase)
    if spec.phase in (Phase.ORIGINAL, Phase.CONTROL):
        return _run_unsolved(config, spec, material, hooks, base)
    kept = hooks.load_resume()
    history = _History() if kept is None else _unpack_history(kept[1])
    problem = build_problem(config, spec, material)
    if problem.path is not None and kept is None:
        history.scan = scan_learning_rate(config, spec, material)
    start = _choose_start(config, spec, problem, history, hooks)
    problem = replace(problem, settings=replace(problem.settings, learning_rate=start.learning_rate))
    solver = EpsilonSolver(
        material.trainable(problem.space or config.objective.space),
        problem.rule,
        problem.settings,
        epsilon=problem.epsilon,
        ramp=problem.ramp,
        log_size=FLUSH_EVERY,
    )
    if kept is not None:
        _restore(kept[1], problem, solver)
    elif start.state is not None:
        start_from(start.state, solver, problem.state)
    keeper = _make_keeper(config, material, problem, solver, history, hooks)
    outcome = _solve(config, spec, problem, solver, history, hooks, keeper)
    rate = _images_per_second(config, solver, history)
    curves = tuple(problem.curve_row(row, rate) for row in history.rows)
    record = replace(
        base,
        start=start.name,
        reason=str(outcome),
        steps=solver.step_count,
        gradient_pairs=solver.step_count + sum(row.steps for row in history.scan),
        learning_rate=start.learning_rate,
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
    if keeper is None:
        return measure_trial(config, spec, material, solver.flat, record, curves)
    solver.flat.load(averaged_values(solver))
    result = _judge_path(config, measure_trial(config, spec, material, solver.flat, record, curves))
    if not result.files:
        return result
    scan = json.dumps([asdict(row) for row in history.scan], indent=1).encode()
    return replace(result, files={**result.files, BANK_FILE: keeper.listing(), SCAN_FILE: scan})


def _run_unsolved(
    config: SweepConfig, spec: TrialSpec, material: Material, hooks: Hooks, base: TrialRecord
) -> TrialResult:
    """Measure the original model, or a control like every other model; the steps of its training are no gradient pairs."""
    record = replace(base, state=TrialState.DONE, reason="not trained")
    if spec.phase is Phase.CONTROL:
        kept = hooks.load_resume()
        seconds = retrain(
            config, spec, material, hooks.on_progress, hooks.save_resume, None if kept is None else kept[1]
        )
        record = replace(
            record,
            start="scratch",
            reason="trained from scratch on the retain images alone",
            steps=config.steps_of(spec.phase, spec.role, spec.method),
            learning_rate=RECIPES[config.model.family].peak_learning_rate,
            seconds=seconds,
            num_parameters=sum(parameter.numel() for parameter in material.model.parameters()),
        )
    flat = FlatParameters(material.trainable(config.objective.space))
    return measure_trial(config, spec, material, flat, record, ())


def check_bank(config: SweepConfig, model: ImageToImage) -> None:
    """Refuse a path whose checkpoints would not fit into ``solver.bank.max_bytes``.

    Raises:
        ConfigError: names what one takes and what is allowed.
    """
    if config.solver.start == "path":
        shared = config.objective.shared_parameters == "trained"
        count_checkpoints(config.solver.bank, model.trainable(config.objective.space, shared=shared))


def failed_result(spec: TrialSpec, reason: str, code_version: str) -> TrialResult:
    """Return the row of a trial that raised or whose process died."""
    record = replace(plan_record(spec, code_version), state=TrialState.FAILED, reason=reason)
    return TrialResult(record=record, files={})


def _choose_start(
    config: SweepConfig, spec: TrialSpec, problem: Problem, history: _History, hooks: Hooks
) -> _Start:
    """Return the checkpoint of the path whose f1 is next below a branch's epsilon; for others the original model.

    Below, because from there f1 only rises to epsilon: pushing it down would cost f2 what the path has won.
    """
    rate = problem.settings.learning_rate
    if spec.parents is None:
        return _Start("original", best_learning_rate(history.scan, rate))
    bank = hooks.read_bank(spec.parents)
    below = [entry for entry in bank if entry.f1 <= (spec.epsilon or 0.0)]
    entry = nearest(below or bank, spec.epsilon or 0.0)
    factor = entry.learning_rate / config.solver.path.learning_rate
    return _Start(f"path:{entry.step}", factor * rate, hooks.read_bank_state(spec.parents, entry))


def _make_keeper(
    config: SweepConfig,
    material: Material,
    problem: Problem,
    solver: EpsilonSolver,
    history: _History,
    hooks: Hooks,
) -> BankKeeper | None:
    """Return who takes the checkpoints of a path; None for any other trial."""
    if problem.path is None:
        return None
    return BankKeeper(
        problem.path.capture_steps(),
        lambda: measure_costs(config, material, config.solver.bank.images),
        hooks.save_bank_state,
        lambda step: problem.units[0].raw(solver.epsilon_at(step - 1)),
        problem.settings.learning_rate,
        history.bank,
    )


def _solve(
    config: SweepConfig,
    spec: TrialSpec,
    problem: Problem,
    solver: EpsilonSolver,
    history: _History,
    hooks: Hooks,
    keeper: BankKeeper | None,
) -> Outcome:
    convergence = config.solver.convergence
    stop = StopRule(
        window=convergence.window,
        tolerance=convergence.tolerance,
        units=problem.spreads,
    )
    stop.update(history.rows)
    steps = problem.settings.steps
    started, before = time.monotonic(), history.seconds

    def on_rows(rows: list[StepRow]) -> None:
        history.rows += rows
        history.seconds = before + time.monotonic() - started
        last = problem.curve_row(rows[-1], None)
        hooks.on_progress(solver.step_count, last.f1, last.f2)
        if keeper is not None:
            keeper.take(solver, problem.state)
        if solver.step_count % config.solver.checkpoint_every < len(rows) and solver.step_count < steps:
            hooks.save_resume(solver.step_count, _state_files(solver, problem, history))

    outcome = solve(
        solver,
        problem.constraint,
        problem.objective,
        steps=steps,
        stop=stop,
        on_rows=on_rows,
        flush_every=FLUSH_EVERY,
        pauses=() if problem.path is None else problem.path.capture_steps(),
    )
    logger.info("trial %s (%s): %s", spec.trial_id, spec.label, outcome)
    return outcome


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
    if spec.epsilon is not None:
        record = _with_shares(record, (train, heldout), scales.normalised_f1(spec.epsilon))
    record = _judge(config, spec, record, scales.variance_retain)
    metrics = [
        *completeness_rows(train, "train", material.split.forget_train),
        *completeness_rows(heldout, "heldout", material.split.forget_heldout),
        *measure_metrics(config, material),
    ]
    samples = draw_samples(config, material, with_truth=spec.phase is Phase.ORIGINAL)
    files = {} if spec.phase is Phase.ORIGINAL else {"model.safetensors": save_model(material.model)}
    if config.evaluate.tsne and files:
        files[EMBEDDING_FILE] = embed_pictures(config, material)
    return TrialResult(
        record=record, curves=curves, metrics=tuple(metrics), samples=tuple(samples), files=files
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


def _judge(config: SweepConfig, spec: TrialSpec, record: TrialRecord, variance_retain: float) -> TrialRecord:
    """Fill in the violation and, where it exceeds its tolerance, the state INFEASIBLE with the numbers."""
    if spec.phase_solved is Phase.EPSILON and spec.epsilon is not None and record.f1 is not None:
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


def _judge_path(config: SweepConfig, result: TrialResult) -> TrialResult:
    """A path that arrived at its end has converged even while the last mini-batches' f1 was still settling."""
    record, end = result.record, config.solver.path.end
    if record.state is not TrialState.UNCONVERGED or record.e is None or record.e > end + PATH_SLACK:
        return result
    reason = f"step limit reached at e = {record.e:.4f}, within {PATH_SLACK:g} of the end of the path"
    return replace(result, record=replace(record, state=TrialState.DONE, reason=reason))


def _diverged(record: TrialRecord, curves: tuple[CurveRow, ...], reason: str) -> TrialResult:
    nan = float("nan")
    return TrialResult(
        record=replace(record, state=TrialState.DIVERGED, reason=reason, f1=nan, f2=nan),
        curves=curves,
        files={},
    )


def plan_record(spec: TrialSpec, code_version: str) -> TrialRecord:
    """Return the record of a trial that has measured nothing yet."""
    return TrialRecord(
        **asdict(spec),
        start="original",
        state=TrialState.RUNNING,
        reason="",
        code_version=code_version,
    )


def _still_moving(spec: TrialSpec, outcome: Outcome) -> bool:
    """Tell whether a boundary was not reached; an epsilon trial is judged by the f1 it ends with."""
    return outcome is Outcome.STILL_MOVING and spec.phase_solved is Phase.BOUNDARY


def _state_files(solver: EpsilonSolver, problem: Problem, history: _History) -> dict[str, bytes]:
    rows = {
        "rows": [list(row) for row in history.rows],
        "seconds": history.seconds,
        "bank": [asdict(entry) for entry in history.bank],
        "scan": [asdict(row) for row in history.scan],
    }
    state = solver.state_dict() | {CONSTRAINT + name: tensor for name, tensor in problem.state.items()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {"solver.safetensors": save_safetensors(state), "history.json": json.dumps(rows).encode()}


def _unpack_history(files: Mapping[str, bytes]) -> _History:
    """Return the steps the stopping rule has already seen, and what a path had found by then."""
    history = json.loads(files["history.json"])
    return _History(
        [StepRow(*row) for row in history["rows"]],
        history["seconds"],
        [BankEntry(**entry) for entry in history["bank"]],
        [ScanRow(**row) for row in history["scan"]],
    )


def _restore(files: Mapping[str, bytes], problem: Problem, solver: EpsilonSolver) -> None:
    """Put weights, optimiser and the constraint's running state of a kept state in place."""
    state = load_safetensors(files["solver.safetensors"])
    for name, tensor in problem.state.items():
        tensor.copy_(state.pop(CONSTRAINT + name))
    solver.load_state_dict(state)


def _images_per_second(config: SweepConfig, solver: EpsilonSolver, history: _History) -> float | None:
    images = 2 * config.solver.batch * solver.step_count
    return images / history.seconds if history.seconds > 0 else None


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
