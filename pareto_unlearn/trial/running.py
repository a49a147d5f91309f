"""The running of a trial: from which weights it starts, what it solves, and what a resume goes on from.

Knows no Ray and no store. What outlives a trial passes through its arguments: ``Hooks`` reports progress and
keeps resume states, and the returned ``TrialResult`` holds all there is to commit.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pareto_unlearn.catalogue.families import require_recipe
from pareto_unlearn.records import (
    BANK_FILE,
    BankEntry,
    CurveRow,
    Phase,
    TrialRecord,
    TrialResult,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, Outcome, StepRow, StopRule, nearest, solve
from pareto_unlearn.trial.bank import SCAN_FILE, BankKeeper, averaged_values, start_from
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.judging import diverged_result, judge_path, measure_trial, plan_record
from pareto_unlearn.trial.measuring import measure_costs
from pareto_unlearn.trial.problem import Problem
from pareto_unlearn.trial.resume import History, pack_state_files, restore, unpack_history
from pareto_unlearn.trial.retrained import retrain
from pareto_unlearn.trial.scan import best_learning_rate, scan_learning_rate

logger = logging.getLogger(__name__)

FLUSH_EVERY = 50


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a running trial speaks to the world; every call returns quickly and may do nothing.

    ``on_progress(step, f1, f2)`` takes mini-batch values. ``save_resume(step, files)`` keeps a state and
    ``load_resume()`` returns the newest intact one. ``save_bank_state(step, content)`` keeps a checkpoint of
    the path; ``read_bank(trial_id)`` and ``read_bank_state(trial_id, entry)`` return those of a committed
    path.
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


@dataclass(frozen=True, slots=True, eq=False)
class _Solving:
    """A solve under way; ``keeper`` takes the checkpoints of a path and is None for any other trial."""

    trial: Trial
    problem: Problem
    solver: EpsilonSolver
    history: History
    hooks: Hooks
    start: _Start
    keeper: BankKeeper | None

    def after(self, rows: list[StepRow]) -> None:
        """Report progress, take the checkpoints that are due, and keep a state to resume from."""
        step, last = self.solver.step_count, self.problem.curve_row(rows[-1], None)
        self.hooks.on_progress(step, last.f1, last.f2)
        if self.keeper is not None:
            self.keeper.take(self.solver, self.problem.state)
        is_due = step % self.trial.config.solver.checkpoint_every < len(rows)
        if is_due and step < self.problem.settings.steps:
            self.hooks.save_resume(step, pack_state_files(self.solver, self.problem, self.history))


def run_trial(trial: Trial, hooks: Hooks, code_version: str) -> TrialResult:
    """Solve one trial and measure what it reached.

    The same settings and plan give the same result to the bit on one kind of CPU, resumed or not.

    Args:
        trial: freshly loaded; its model is trained in place. A check takes twice the steps of its settings.
        hooks: progress and resume states.
        code_version: recorded with the result.

    Returns:
        The record and all tables; a diverged trial has no model, metrics or samples.
    """
    base = plan_record(trial.spec, code_version)
    trial = replace(trial, config=trial.config.for_phase(trial.spec.phase))
    if trial.spec.phase in (Phase.ORIGINAL, Phase.CONTROL):
        return _run_unsolved(trial, hooks, base)
    solving = _prepare(trial, hooks)
    outcome = _solve(solving)
    rate = _images_per_second(solving)
    curves = tuple(solving.problem.curve_row(row, rate) for row in solving.history.rows)
    record = _record_solve(solving, base, outcome, rate)
    if outcome is Outcome.DIVERGED:
        return diverged_result(record, curves, f"{outcome} at step {solving.solver.step_count}")
    return _measure(solving, record, curves)


def _prepare(trial: Trial, hooks: Hooks) -> _Solving:
    """Return a solve that stands where its last resume state left it, or at its start."""
    kept = hooks.load_resume()
    history = History() if kept is None else unpack_history(kept[1])
    problem = build_problem(trial)
    if problem.path is not None and kept is None:
        history.scan = scan_learning_rate(trial)
    start = _choose_start(trial, problem, history, hooks)
    problem = replace(problem, settings=replace(problem.settings, learning_rate=start.learning_rate))
    solver = EpsilonSolver(
        trial.material.trainable(problem.space),
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
    keeper = _make_keeper(trial, problem, solver, history, hooks)
    return _Solving(trial, problem, solver, history, hooks, start, keeper)


def _record_solve(
    solving: _Solving, base: TrialRecord, outcome: Outcome, images_per_second: float | None
) -> TrialRecord:
    """Return the record of a solve that has ended, before its model is measured."""
    solver, history = solving.solver, solving.history
    return replace(
        base,
        start=solving.start.name,
        state=TrialState.UNCONVERGED if _still_moving(solving.trial.spec, outcome) else TrialState.DONE,
        reason=str(outcome),
        steps=solver.step_count,
        gradient_pairs=solver.step_count + sum(row.steps for row in history.scan),
        learning_rate=solving.start.learning_rate,
        skipped_steps=sum(not row.finite for row in history.rows),
        multiplier=history.rows[-1].eta if history.rows else None,
        seconds=history.seconds,
        images_per_second=images_per_second,
        num_parameters=solver.flat.values.numel(),
    )


def _measure(solving: _Solving, record: TrialRecord, curves: tuple[CurveRow, ...]) -> TrialResult:
    """Return the result of a solve: of a path, that of the averaged weights, with its bank."""
    trial, solver, keeper = solving.trial, solving.solver, solving.keeper
    if keeper is None:
        return measure_trial(trial, solver.flat, record, curves)
    solver.flat.load(averaged_values(solver))
    result = judge_path(trial.config, measure_trial(trial, solver.flat, record, curves))
    if not result.files:
        return result
    scan = json.dumps([asdict(row) for row in solving.history.scan], indent=1).encode()
    return replace(result, files={**result.files, BANK_FILE: keeper.listing(), SCAN_FILE: scan})


def _run_unsolved(trial: Trial, hooks: Hooks, base: TrialRecord) -> TrialResult:
    """Measure the original model or a control like every other model; a control is trained first.

    The steps of that training are no gradient pairs.
    """
    record = replace(base, state=TrialState.DONE, reason="not trained")
    if trial.spec.phase is Phase.CONTROL:
        kept = hooks.load_resume()
        seconds = retrain(trial, hooks.on_progress, hooks.save_resume, None if kept is None else kept[1])
        record = replace(
            record,
            start="scratch",
            reason="trained from scratch on the retain images alone",
            steps=trial.steps,
            learning_rate=require_recipe(trial.config.model.row).peak_learning_rate,
            seconds=seconds,
            num_parameters=sum(parameter.numel() for parameter in trial.material.model.parameters()),
        )
    return measure_trial(trial, FlatParameters(trial.material.trainable()), record, ())


def _choose_start(trial: Trial, problem: Problem, history: History, hooks: Hooks) -> _Start:
    """Return the checkpoint of the path whose f1 is next below a branch's epsilon; else the original model.

    Below, because from there f1 only rises to epsilon: pushing it down would cost f2 what the path has won.
    """
    spec, rate = trial.spec, problem.settings.learning_rate
    if spec.parents is None:
        return _Start("original", best_learning_rate(history.scan, rate))
    bank = hooks.read_bank(spec.parents)
    below = [entry for entry in bank if entry.f1 <= (spec.epsilon or 0.0)]
    entry = nearest(below or bank, spec.epsilon or 0.0)
    factor = entry.learning_rate / trial.config.solver.path.learning_rate
    return _Start(f"path:{entry.step}", factor * rate, hooks.read_bank_state(spec.parents, entry))


def _make_keeper(
    trial: Trial, problem: Problem, solver: EpsilonSolver, history: History, hooks: Hooks
) -> BankKeeper | None:
    """Return the object that takes the checkpoints of a path; None for any other trial."""
    if problem.path is None:
        return None
    images = trial.config.solver.bank.images
    return BankKeeper(
        problem.path.capture_steps(),
        lambda: measure_costs(trial.material, images),
        hooks.save_bank_state,
        lambda step: problem.units[0].raw(solver.epsilon_at(step - 1)),
        problem.settings.learning_rate,
        history.bank,
    )


def _solve(solving: _Solving) -> Outcome:
    """Run the solver to its end, and keep what a resume goes on from."""
    problem, history, spec = solving.problem, solving.history, solving.trial.spec
    convergence = solving.trial.config.solver.convergence
    stop = StopRule(window=convergence.window, tolerance=convergence.tolerance, units=problem.spreads)
    stop.update(history.rows)
    started, before = time.monotonic(), history.seconds

    def on_rows(rows: list[StepRow]) -> None:
        history.rows += rows
        history.seconds = before + time.monotonic() - started
        solving.after(rows)

    outcome = solve(
        solving.solver,
        problem.constraint,
        problem.objective,
        steps=problem.settings.steps,
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


def _images_per_second(solving: _Solving) -> float | None:
    images, seconds = (
        2 * solving.trial.config.solver.batch * solving.solver.step_count,
        solving.history.seconds,
    )
    return images / seconds if seconds > 0 else None
