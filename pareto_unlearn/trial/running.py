"""The running of a trial: from which weights it starts, what it solves, and what a resume goes on from.

Knows no Ray and no store. What outlives a trial passes through its arguments: ``Hooks`` reports progress and
keeps resume states, and the returned ``TrialResult`` holds all there is to commit.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from jaxtyping import Float
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pareto_unlearn.catalogue.families import require_recipe
from pareto_unlearn.records import (
    BANK_FILE,
    BankEntry,
    CurveRow,
    Phase,
    Role,
    ScanProgress,
    TrialRecord,
    TrialResult,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, Outcome, StepRow, StopRule, solve
from pareto_unlearn.trial.bank import SCAN_FILE, BankKeeper, averaged_values, unpack_values
from pareto_unlearn.trial.bank_mixtures import Mixed, bank_knots, measured_knot, mix_knots
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.constrained import plan_path
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.judging import (
    arrival_limit,
    diverged_result,
    judge_bank,
    measure_trial,
    plan_record,
)
from pareto_unlearn.trial.measuring import measure_costs
from pareto_unlearn.trial.mixing import Knot, weights_of
from pareto_unlearn.trial.numerics import exact_float32
from pareto_unlearn.trial.problem import Problem, trained_parameters
from pareto_unlearn.trial.rank_reads import share_reads
from pareto_unlearn.trial.resume import (
    History,
    StateClock,
    pack_state_files,
    restore,
    state_clock,
    unpack_history,
)
from pareto_unlearn.trial.retrained import retrain
from pareto_unlearn.trial.scan import best_learning_rate, rate_beyond, scan_learning_rate

logger = logging.getLogger(__name__)

FLUSH_EVERY = 50


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a running trial speaks to the world; every call returns quickly and may do nothing.

    ``on_progress(step, f1, f2)`` takes mini-batch values. ``on_scan(progress)`` is called while a path looks
    for its step size, before its first step. ``on_stage(doing)`` is told in words what comes now, where that
    is no step. ``save_resume(step, files)`` keeps a state and
    ``load_resume()`` returns the newest intact one. ``save_bank_state(step, content)`` keeps a checkpoint of
    a bank; ``read_bank(trial_id)`` returns those of a committed trial, and ``read_bank_state(trial_id,
    entry)`` one of them, also of the running trial's own. ``read_model(trial_id)`` returns the weights file
    of a committed trial.
    """

    on_progress: Callable[[int, float, float], None] = lambda *_: None
    on_scan: Callable[[ScanProgress], None] = lambda _: None
    on_stage: Callable[[str], None] = lambda _: None
    save_resume: Callable[[int, Mapping[str, bytes]], None] = lambda *_: None
    load_resume: Callable[[], tuple[int, dict[str, bytes]] | None] = lambda: None
    save_bank_state: Callable[[int, bytes], None] = lambda *_: None
    read_bank: Callable[[str], Sequence[BankEntry]] = lambda _: ()
    read_bank_state: Callable[[str, BankEntry], bytes] = lambda *_: b""
    read_model: Callable[[str], bytes] = lambda _: b""


@dataclass(frozen=True, slots=True, eq=False)
class _Solving:
    """A solve under way.

    ``keeper`` takes the checkpoints and is None for a trial that leaves none; ``clock`` says when a state to
    resume from is due.
    """

    trial: Trial
    problem: Problem
    solver: EpsilonSolver
    history: History
    hooks: Hooks
    keeper: BankKeeper | None
    original: Float[Tensor, " p"]
    clock: StateClock

    @property
    def images_per_second(self) -> float | None:
        """Images of both sets that a second of the solve took, over all resumes."""
        images = 2 * self.trial.config.solver.batch * self.solver.step_count
        return images / self.history.seconds if self.history.seconds > 0 else None

    @property
    def curves(self) -> tuple[CurveRow, ...]:
        """The rows of ``curves`` of all steps so far."""
        rate = self.images_per_second
        return tuple(self.problem.curve_row(row, rate) for row in self.history.rows)

    def after(self, rows: list[StepRow]) -> None:
        """Report progress, take the checkpoints that are due, and keep a state to resume from."""
        step, last = self.solver.step_count, self.problem.curve_row(rows[-1], None)
        self.hooks.on_progress(step, last.f1, last.f2)
        if self.keeper is not None:
            self.keeper.take(self.solver)
        self.history.measured_images = self.trial.material.measured.images
        is_first = self.trial.material.ranks.is_first
        if is_first and step < self.problem.settings.steps and self.clock.is_due(step, len(rows)):
            with self.clock.saving():
                self.hooks.save_resume(step, pack_state_files(self.solver, self.problem, self.history))


@exact_float32()
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
    hooks = share_reads(hooks, trial.material.ranks)
    trial = replace(trial, config=trial.config.for_phase(trial.spec.phase))
    if trial.spec.phase in (Phase.ORIGINAL, Phase.CONTROL):
        return _run_unsolved(trial, hooks, base)
    if trial.spec.phase is Phase.HARDENED:
        return _run_hardened(trial, hooks, base)
    if trial.spec.parents is not None:
        return _run_from_bank(trial, hooks, base)
    solving = _prepare(trial, hooks)
    outcome = _solve(solving)
    record = _record_solve(solving, base, outcome)
    if outcome is Outcome.DIVERGED:
        return diverged_result(record, solving.curves, f"{outcome} at step {solving.solver.step_count}")
    if solving.keeper is not None:
        return _measure_bank(solving, solving.keeper, record)
    return measure_trial(trial, solving.solver.flat, record, solving.curves)


def _run_from_bank(trial: Trial, hooks: Hooks, base: TrialRecord) -> TrialResult:
    """Mix the checkpoints of a bank at epsilon, hold epsilon from there, and mix what that gives to meet it.

    The mixtures of a rival are not held: that is a solve by our method.
    """
    knots = bank_knots(trial, hooks.read_bank, hooks.read_bank_state)
    mixed = mix_knots(trial, knots)
    curves: tuple[CurveRow, ...] = ()
    record = mixed.describe(base)
    if trial.steps > 0:
        mixed, record, curves = _hold(trial, hooks, record, knots, mixed)
    flat = FlatParameters(trial.material.trainable())
    flat.load(mixed.values)
    record = replace(record, state=TrialState.DONE, measuring_pairs=trial.measuring_pairs)
    return measure_trial(trial, flat, record, curves)


def _run_hardened(trial: Trial, hooks: Hooks, base: TrialRecord) -> TrialResult:
    """Train the model of the highest boundary on so that it resists relearning, and measure the average."""
    if trial.spec.parents is None:
        raise ValueError(f"trial {trial.spec.trial_id}: expected the highest boundary as parent, found none")
    trial.material.model.load_state_dict(load_safetensors(hooks.read_model(trial.spec.parents)))
    solving = _prepare(trial, hooks)
    outcome = _solve(solving)
    record = replace(_record_solve(solving, base, outcome), start=str(Role.HIGHEST))
    if outcome is Outcome.DIVERGED:
        return diverged_result(record, solving.curves, f"{outcome} at step {solving.solver.step_count}")
    solving.solver.flat.load(averaged_values(solving.solver))
    return measure_trial(trial, solving.solver.flat, record, solving.curves)


def _hold(
    trial: Trial, hooks: Hooks, record: TrialRecord, knots: Sequence[Knot], start: Mixed
) -> tuple[Mixed, TrialRecord, tuple[CurveRow, ...]]:
    """Return the mixture after epsilon was held for some steps, the row of the trial, and its curves.

    A solve that diverged leaves the start as it is.
    """
    solving = _prepare(trial, hooks, start.values)
    outcome = _solve(solving)
    record, curves = start.describe(_record_solve(solving, record, outcome)), solving.curves
    if outcome is Outcome.DIVERGED:
        return start, replace(record, reason=f"{outcome} while epsilon was held; {start.reason}"), curves
    held = measured_knot(trial, f"{trial.spec.trial_id}:held", averaged_values(solving.solver))
    mixed = mix_knots(trial, [*knots, held])
    return mixed, replace(record, interpolation=mixed.share, reason=f"held, then {mixed.reason}"), curves


def _prepare(trial: Trial, hooks: Hooks, start: Float[Tensor, " p"] | None = None) -> _Solving:
    """Return a solve that stands where its last resume state left it, or at its start.

    ``start`` holds the weights of a start that is not the original model.
    """
    kept = hooks.load_resume()
    history = History() if kept is None else unpack_history(kept[1])
    if trial.leaves_bank and kept is None:
        history.scan = scan_learning_rate(trial, hooks.on_scan)
    # Not before the scan, whose solvers would take the model's parameters away from a curve.
    problem, original = build_problem(trial), weights_of(trial.material)
    rate = _learning_rate(trial, hooks, history, problem)
    problem = replace(problem, settings=replace(problem.settings, learning_rate=rate))
    solver = EpsilonSolver(
        trained_parameters(trial, problem),
        problem.rule,
        problem.settings,
        epsilon=problem.epsilon,
        origin=original,
        add_up=trial.material.ranks.add,
        log_size=FLUSH_EVERY,
    )
    if kept is not None:
        restore(kept[1], problem, solver)
        trial.material.measured.images = history.measured_images
    elif start is not None:
        solver.start_at(start)
    keeper = _make_keeper(trial, problem, solver, history, hooks)
    clock = state_clock(trial.config.solver.checkpoint_every, solver, problem)
    return _Solving(trial, problem, solver, history, hooks, keeper, original, clock)


def _learning_rate(trial: Trial, hooks: Hooks, history: History, problem: Problem) -> float:
    """Return the step size: the scan's, the sweep file's, or that of the path whose model is trained on."""
    if trial.spec.phase is Phase.HARDENED and (bank := hooks.read_bank(trial.spec.parents or "")):
        return bank[0].learning_rate
    return best_learning_rate(history.scan, problem.settings.learning_rate)


def _record_solve(solving: _Solving, base: TrialRecord, outcome: Outcome) -> TrialRecord:
    """Return the record of a solve that has ended, before its model is measured."""
    solver, history = solving.solver, solving.history
    further = solving.problem.further_passes(solver.step_count)
    return replace(
        base,
        state=TrialState.UNCONVERGED if _still_moving(solving.trial.spec, outcome) else TrialState.DONE,
        reason=str(outcome),
        steps=solver.step_count,
        gradient_pairs=solver.step_count + sum(row.steps for row in history.scan) + (further + 1) // 2,
        measuring_pairs=solving.trial.measuring_pairs,
        learning_rate=solving.problem.settings.learning_rate,
        skipped_steps=sum(not row.finite for row in history.rows),
        multiplier=history.rows[-1].eta if history.rows else None,
        seconds=history.seconds,
        images_per_second=solving.images_per_second,
        # A curve has several members, each as long as the model.
        num_parameters=(solver.flat.values if solving.problem.curve is None else solving.original).numel(),
    )


def _measure_bank(solving: _Solving, keeper: BankKeeper, record: TrialRecord) -> TrialResult:
    """Return the result of a path or a course: its bank, and as its model the checkpoint at the low end."""
    trial, flat = solving.trial, _complete_bank(solving, keeper)
    record = replace(record, measuring_pairs=trial.measuring_pairs)
    lowest = keeper.lowest_level
    end = keeper.choose_end(arrival_limit(trial, lowest))
    if end is None:
        return diverged_result(record, solving.curves, "diverged: no checkpoint is finite")
    flat.load(unpack_values(solving.hooks.read_bank_state(trial.spec.trial_id, end)))
    record = judge_bank(trial, record, end, lowest)
    if rate_beyond(solving.history.scan) is not None:
        record = replace(record, reason=f"{record.reason}; its step size lies at the edge of the scan")
    result = measure_trial(trial, flat, record, solving.curves)
    if not result.files:
        return result
    scan = json.dumps([asdict(row) for row in solving.history.scan], indent=1).encode()
    return replace(result, files={**result.files, BANK_FILE: keeper.listing(), SCAN_FILE: scan})


def _complete_bank(solving: _Solving, keeper: BankKeeper) -> FlatParameters:
    """Add the checkpoints that are not taken on the way, and return the model's parameters."""
    solver, curve = solving.solver, solving.problem.curve
    if curve is None:
        keeper.extend_towards(solving.original, solver)
        return solver.flat
    flat = FlatParameters(solving.trial.material.trainable())
    points = curve.points(averaged_values(solver), plan_path(solving.trial).checkpoints)
    keeper.add(points, flat, after=solver.step_count)
    return flat


def _run_unsolved(trial: Trial, hooks: Hooks, base: TrialRecord) -> TrialResult:
    """Measure the original model or a control like every other model; a control is trained first.

    The steps of that training are no gradient pairs, and nothing is measured to solve it.
    """
    record = replace(base, state=TrialState.DONE, reason="not trained", measuring_pairs=0.0)
    model = trial.config.model
    if trial.spec.phase is Phase.CONTROL:
        kept = hooks.load_resume()
        seconds = retrain(trial, hooks.on_progress, hooks.save_resume, None if kept is None else kept[1])
        record = replace(
            record,
            start="scratch",
            reason="trained from scratch on the retain images alone",
            steps=trial.steps,
            learning_rate=require_recipe(model.row, model.variant).peak_learning_rate,
            seconds=seconds,
            num_parameters=sum(parameter.numel() for parameter in trial.material.model.parameters()),
        )
    return measure_trial(trial, FlatParameters(trial.material.trainable()), record, ())


def _make_keeper(
    trial: Trial, problem: Problem, solver: EpsilonSolver, history: History, hooks: Hooks
) -> BankKeeper | None:
    """Return the object that takes the checkpoints of a bank; None for a trial that leaves none."""
    if not trial.leaves_bank:
        return None
    solver_section = trial.config.solver
    return BankKeeper(
        problem.is_due,
        lambda: measure_costs(trial.material, solver_section.bank.images, solver_section.completeness),
        hooks.save_bank_state,
        lambda step: problem.units[0].raw(solver.epsilon_at(step - 1)) if problem.has_epsilon else None,
        problem.settings.learning_rate,
        history.bank,
    )


def _solve(solving: _Solving) -> Outcome:
    """Run the solver to its end, and keep what a resume goes on from."""
    problem, history, spec = solving.problem, solving.history, solving.trial.spec
    convergence = solving.trial.config.solver.convergence
    # What leaves a bank has to pass all of its course, also where the losses stand still; and where f1 and f2
    # stand still, the resistance to relearning may not.
    to_the_end = solving.trial.leaves_bank or spec.phase is Phase.HARDENED
    tolerance = 0.0 if to_the_end else convergence.tolerance
    stop = StopRule(window=convergence.window, tolerance=tolerance, units=problem.spreads)
    stop.update(history.rows)
    started, before = time.monotonic(), history.seconds

    def on_rows(rows: list[StepRow]) -> None:
        solving.trial.material.ranks.require_alike(rows[-1], solving.solver.flat.values)
        history.rows += [problem.logged(row) for row in rows]
        history.seconds = before + time.monotonic() - started
        solving.after(history.rows[-len(rows) :])

    outcome = solve(
        solving.solver,
        problem.constraint,
        problem.objective,
        steps=problem.settings.steps,
        stop=stop,
        on_rows=on_rows,
        flush_every=FLUSH_EVERY,
        pause_after=problem.is_due,
    )
    logger.info("trial %s (%s): %s", spec.trial_id, spec.label, outcome)
    solving.hooks.on_stage("measuring the model")
    return outcome


def _still_moving(spec: TrialSpec, outcome: Outcome) -> bool:
    """Tell whether a boundary was not reached; an epsilon trial is judged by the f1 it ends with."""
    return outcome is Outcome.STILL_MOVING and spec.phase_solved is Phase.BOUNDARY
