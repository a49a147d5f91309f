"""The running of a trial: from which weights it starts, what it solves, and what a resume goes on from.

Knows no Ray and no store. What outlives a trial passes through its arguments: ``Hooks`` reports progress and keeps resume states, and
the returned ``TrialResult`` holds all there is to commit.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.pretraining.loop import RECIPES
from pareto_unlearn.records import (
    BANK_FILE,
    BankEntry,
    Phase,
    TrialRecord,
    TrialResult,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, Outcome, StepRow, StopRule, nearest, solve
from pareto_unlearn.trial.bank import SCAN_FILE, BankKeeper, averaged_values, start_from
from pareto_unlearn.trial.building import Problem, build_problem
from pareto_unlearn.trial.judging import diverged_result, judge_path, measure_trial, plan_record
from pareto_unlearn.trial.material import Material
from pareto_unlearn.trial.measuring import measure_costs
from pareto_unlearn.trial.resume import History, pack_state_files, restore, unpack_history
from pareto_unlearn.trial.retrained import retrain
from pareto_unlearn.trial.scan import best_learning_rate, scan_learning_rate

logger = logging.getLogger(__name__)

FLUSH_EVERY = 50


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
    history = History() if kept is None else unpack_history(kept[1])
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
        restore(kept[1], problem, solver)
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
        return diverged_result(record, curves, f"{outcome} at step {solver.step_count}")
    record = replace(
        record, state=TrialState.UNCONVERGED if _still_moving(spec, outcome) else TrialState.DONE
    )
    if keeper is None:
        return measure_trial(config, spec, material, solver.flat, record, curves)
    solver.flat.load(averaged_values(solver))
    result = judge_path(config, measure_trial(config, spec, material, solver.flat, record, curves))
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


def _choose_start(
    config: SweepConfig, spec: TrialSpec, problem: Problem, history: History, hooks: Hooks
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
    history: History,
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
    history: History,
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
            hooks.save_resume(solver.step_count, pack_state_files(solver, problem, history))

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


def _still_moving(spec: TrialSpec, outcome: Outcome) -> bool:
    """Tell whether a boundary was not reached; an epsilon trial is judged by the f1 it ends with."""
    return outcome is Outcome.STILL_MOVING and spec.phase_solved is Phase.BOUNDARY


def _images_per_second(config: SweepConfig, solver: EpsilonSolver, history: History) -> float | None:
    images = 2 * config.solver.batch * solver.step_count
    return images / history.seconds if history.seconds > 0 else None
