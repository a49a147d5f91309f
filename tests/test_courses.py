"""Rivals of which one run leaves a whole front: what they train, what they leave, and how that is judged."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from short_path import PATH_SPEC
from small_sweep import run as run_sweep
from small_sweep import run_of, small_sweep, without_times
from torch import Tensor, nn
from torch.func import functional_call

from pareto_unlearn.catalogue.methods import METHODS
from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.finished.dial import RunWeights, dial, gather_knots
from pareto_unlearn.records import BankEntry, Phase, TrialRecord, TrialResult, TrialSpec, TrialState
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.solution import Kind
from pareto_unlearn.solver import COURSES, EpsilonSolver, FlatParameters, PathPlan, Start
from pareto_unlearn.solver import solve as solve_to_the_end
from pareto_unlearn.store import StoredRun
from pareto_unlearn.stored_fields import read_fields
from pareto_unlearn.trial import Hooks, Trial, load_material, run_trial
from pareto_unlearn.trial.bank import unpack_values
from pareto_unlearn.trial.judging import ARRIVAL_SLACK
from pareto_unlearn.trial.scan import scan_learning_rate

STEPS, CHECKPOINTS = 20, 5
CURVES = ("soup", "pamal", "bezier")
QUICK = ("munba_front", "pamal")
"""One whose checkpoints are taken on the way, and a curve."""
TINY = (
    "data.train_per_class=8",
    "data.heldout_per_class=4",
    "solver.batch=8",
    f"solver.path.steps={STEPS}",
    "solver.path.scan=[]",
    f"solver.bank.checkpoints={CHECKPOINTS}",
    "solver.checkpoint_every=10",
    "baselines=[]",
    "objective.noise_images=16",
)
"""Overrides for a course of a second."""


def tiny_config(storage: Path, *overrides: str) -> SweepConfig:
    return small_sweep(storage, *TINY, *overrides)


def course_spec(method: str) -> TrialSpec:
    weight = METHODS[method].weights[0]
    return TrialSpec(trial_id="2" * 16, phase=Phase.BASELINE, method=method, seed=0, weight=weight)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of the original model, computed once: no override of these tests changes them."""
    return tmp_path_factory.mktemp("cache")


@dataclass
class Kept:
    """What a running trial gives to the store."""

    states: dict[int, bytes] = field(default_factory=dict)
    resumes: dict[int, Mapping[str, bytes]] = field(default_factory=dict)

    def hooks(self, resumed_at: int | None = None) -> Hooks:
        kept = None if resumed_at is None else (resumed_at, dict(self.resumes[resumed_at]))
        return Hooks(
            save_resume=self.resumes.__setitem__,
            load_resume=lambda: kept,
            save_bank_state=self.states.__setitem__,
            read_bank_state=lambda _, entry: self.states[entry.step],
        )


def solve(cache: Path, spec: TrialSpec, hooks: Hooks, *overrides: str) -> TrialResult:
    config = tiny_config(Path("unused"), *overrides)
    return run_trial(Trial(config, spec, load_material(config, cache, "targets")), hooks, "1")


@pytest.fixture(scope="module")
def solved(cache) -> Callable[[str], tuple[Kept, TrialResult]]:
    """Return what one run of a method leaves; every method runs once."""

    @functools.cache
    def run_of_method(name: str) -> tuple[Kept, TrialResult]:
        kept = Kept()
        return kept, solve(cache, course_spec(name), kept.hooks())

    return run_of_method


def bank_of(result: TrialResult) -> list[BankEntry]:
    return [read_fields(BankEntry, entry) for entry in json.loads(result.files["bank.json"])]


# Curves


@dataclass
class Toy:
    """Two losses of a linear model, and what courses are made from."""

    model: nn.Module
    inputs: Tensor

    def forget(self, _: int) -> Tensor:
        return (self.model(self.inputs) - 1.0).square().mean()

    def retain(self, _: int) -> Tensor:
        return self.model(self.inputs).abs().mean()

    def start(self) -> Start:
        flat = FlatParameters(self.model.parameters())
        return Start(
            forget=self.forget,
            retain=self.retain,
            flat=flat,
            original=flat.values.clone(),
            plan=PathPlan(steps=STEPS),
            learning_rate=0.01,
            unit=0.5,
            draw=lambda step: 0.3 + 0.01 * step,
        )

    def loss_at(self, values: Tensor, loss: Callable[[int], Tensor]) -> Tensor:
        """Return a loss of the model with these weights, as a function of them."""
        sizes = [parameter.numel() for parameter in self.model.parameters()]
        named = zip(self.model.named_parameters(), values.split(sizes), strict=True)
        given = {name: part.view_as(parameter) for (name, parameter), part in named}
        model = self.model
        self.model = lambda inputs: functional_call(model, given, (inputs,))
        try:
            return loss(0)
        finally:
            self.model = model


@pytest.mark.parametrize("step", [3, 17])
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("which", ["forget", "retain"])
def test_the_gradient_of_a_curve_is_that_of_its_mixture(name, step, which):
    torch.manual_seed(0)
    toy = Toy(nn.Linear(3, 2).double(), torch.randn(7, 3, dtype=torch.float64))
    course = COURSES[name](toy.start())
    members = course.curve.members
    members.data.normal_()
    loss = getattr(course, which)(step)
    loss.backward()

    t, first_half = 0.3 + 0.01 * step, step < STEPS // 2
    place = 1.0 if name == "soup" or (name == "bezier" and first_half) else t
    weigh = {"soup": 1.0, "pamal": t, "bezier": 0.95 if first_half else t}[name]
    factor = weigh if which == "forget" else {"soup": 1.0}.get(name, (1.0 - weigh) / 0.5)
    apart = members.detach().clone().requires_grad_()
    expected = factor * toy.loss_at(course.curve.point(apart, place), getattr(toy, which))
    expected.backward()
    trained = torch.tensor(course.curve.trained(step) if course.curve.trained else [1.0] * len(members))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(members.grad, apart.grad * trained[:, None].double())
    assert members.grad.abs().max() > 0


@pytest.mark.parametrize("name", CURVES)
def test_the_points_of_a_curve_run_from_one_end_to_the_other(name):
    torch.manual_seed(0)
    toy = Toy(nn.Linear(3, 2).double(), torch.randn(7, 3, dtype=torch.float64))
    start = toy.start()
    curve = COURSES[name](start).curve
    values = torch.randn(curve.members.numel(), dtype=torch.float64)
    points = curve.points(values, 5)
    far = values.view_as(curve.members)[0]
    near = values.view_as(curve.members)[1] if name == "pamal" else start.original
    torch.testing.assert_close([points[0], points[-1]], [near, far])
    assert len(points) == 5


@pytest.mark.parametrize("name", ["smooth_tchebycheff", "eupmu"])
def test_a_step_that_is_not_finite_is_forgotten(name):
    torch.manual_seed(0)
    toy = Toy(nn.Linear(3, 2).double(), torch.randn(7, 3, dtype=torch.float64))
    start = toy.start()
    course = COURSES[name](
        replace(start, retain=lambda step: toy.retain(step) * (math.nan if step == 4 else 1.0))
    )
    solver = EpsilonSolver(toy.model.parameters(), course.rule, course.settings, epsilon=course.epsilon)
    rows = []
    solve_to_the_end(solver, course.forget, course.retain, steps=STEPS, on_rows=rows.extend)
    assert [row.step for row in rows if not row.finite] == [4]
    assert all(torch.isfinite(tensor).all() for tensor in course.state.values())


# One run


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in COURSES]
)
def test_a_run_leaves_a_bank_of_finite_models(solved, name):
    kept, result = solved(name)
    record, bank = result.record, bank_of(result)
    assert record.state is TrialState.DONE
    assert (record.steps, record.gradient_pairs, len(result.curves)) == (STEPS, STEPS, STEPS)
    assert len(bank) >= 2
    assert np.isfinite([(entry.f1, entry.f2, entry.level) for entry in bank]).all()
    assert all(np.diff([entry.level for entry in bank]) > 0)
    assert {unpack_values(kept.states[entry.step]).numel() for entry in bank} == {record.num_parameters}
    # an epsilon is a fact of the one method that aims at it
    assert [entry.epsilon is None for entry in bank] == [name != "target_band"] * len(bank)


@pytest.mark.parametrize("name", QUICK)
def test_the_curves_of_a_run_are_those_of_f1_and_f2_themselves(solved, cache, name):
    material = load_material(tiny_config(Path("unused")), cache, "targets")
    rows = solved(name)[1].curves
    assert rows[0].f1 == pytest.approx(material.scales.f1_original, rel=0.3)  # of one batch
    assert rows[0].f2 == pytest.approx(0.0, abs=1e-6)
    assert all(row.f1 > 0.0 and row.f2 >= 0.0 for row in rows)


@pytest.mark.parametrize("name", QUICK)
def test_the_model_of_a_run_is_its_best_checkpoint_near_its_lowest(solved, cache, name):
    result = solved(name)[1]
    scales, bank = load_material(tiny_config(Path("unused")), cache, "targets").scales, bank_of(result)
    limit = min(entry.level for entry in bank) + ARRIVAL_SLACK * scales.f1_range
    chosen = min((entry for entry in bank if entry.level <= limit), key=lambda entry: entry.f2)
    assert (result.record.level, result.record.f2) == (chosen.level, chosen.f2)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("eupmu", 20),
        ("path", 60),
        pytest.param("smooth_tchebycheff", 20, marks=pytest.mark.slow),
        pytest.param("bezier", 60, marks=pytest.mark.slow),  # a curve has no pauses before the fiftieth step
    ],
)
def test_an_interrupted_run_continues_to_the_last_bit(cache, name, steps):
    whole, again, length = Kept(), Kept(), f"solver.path.steps={steps}"
    spec = PATH_SPEC if name == "path" else course_spec(name)
    expected = solve(cache, spec, whole.hooks(), length)
    at = min(whole.resumes)
    assert 0 < at < steps
    if name == "path":  # its descent waited before that step
        levels = [row.epsilon for row in expected.curves]
        assert levels[2] == levels[4] > levels[at]
    again.resumes, again.states = (
        whole.resumes,
        {step: whole.states[step] for step in whole.states if step <= at},
    )
    found = solve(cache, spec, again.hooks(resumed_at=at), length)
    assert found.files == expected.files
    assert again.states == whole.states
    assert without_times(found.record) == without_times(expected.record)
    assert [replace(row, images_per_second=None) for row in found.curves] == [
        replace(row, images_per_second=None) for row in expected.curves
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["munba_front", "soup"])
def test_the_step_size_is_scanned_as_that_of_the_path(cache, name):
    config = tiny_config(Path("unused"), "solver.path.scan=[0.5, 2.0]", "solver.path.scan_length=0.2")
    trial = Trial(config, course_spec(name), load_material(config, cache, "targets"))
    before = {key: value.clone() for key, value in trial.material.model.state_dict().items()}
    rows = scan_learning_rate(trial)
    assert {0.5, 2.0} <= {row.learning_rate / config.solver.path.learning_rate for row in rows}
    assert {row.steps for row in rows} == {4}
    assert all(0.0 < row.hypervolume < 1.0 for row in rows)
    assert len({row.hypervolume for row in rows}) == len(rows)
    after = trial.material.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


# Its epsilons


@pytest.fixture(scope="module")
def left_bank(solved) -> tuple[Kept, TrialResult]:
    return solved("munba_front")


def mix(
    cache: Path, left: tuple[Kept, TrialResult], epsilon: float, *overrides: str, **changes
) -> TrialRecord:
    kept, result = left
    spec = TrialSpec(
        trial_id="3" * 16,
        phase=Phase.BASELINE,
        method="munba_front",
        seed=0,
        weight=1.0,
        epsilon=epsilon,
        range_width=1.0,
        parents="2" * 16,
    )
    hooks = replace(kept.hooks(), read_bank=lambda _: bank_of(result))
    return solve(cache, replace(spec, **changes), hooks, *overrides).record


def test_an_epsilon_of_a_rival_is_judged_as_ours(cache, left_bank):
    bank = bank_of(left_bank[1])
    ours = {"phase": Phase.EPSILON, "method": "epsilon_constraint", "weight": None}
    named = {"phase", "method", "weight"}
    for epsilon in (bank[0].level - 0.1, (bank[0].level + bank[-1].level) / 2):
        rival, own = (without_times(mix(cache, left_bank, epsilon, **one)) for one in ({}, ours))
        assert {key: rival[key] for key in rival.keys() - named} == {
            key: own[key] for key in own.keys() - named
        }


def test_an_epsilon_within_the_bank_is_met_by_the_worst_class(cache, left_bank):
    bank = bank_of(left_bank[1])
    epsilon = (bank[0].level + bank[-1].level) / 2
    record = mix(cache, left_bank, epsilon)
    assert (record.state, record.steps, record.gradient_pairs) == (TrialState.DONE, 0, 0)
    assert record.level == pytest.approx(epsilon, abs=0.01)
    assert record.level > record.f1


def test_an_epsilon_below_the_bank_is_the_nearest_model_and_says_so(cache, left_bank):
    bank = bank_of(left_bank[1])
    record = mix(cache, left_bank, bank[0].level - 0.1)
    assert record.state is TrialState.INFEASIBLE
    assert "no two of" in record.reason
    assert (record.level, record.start) == (bank[0].level, f"path:{bank[0].step}")


def test_the_mixture_of_a_rival_is_never_held(cache, left_bank):
    bank = bank_of(left_bank[1])
    epsilon = (bank[0].level + bank[-1].level) / 2
    assert mix(cache, left_bank, epsilon, "solver.hold.steps=5").steps == 0


# A sweep


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    config = tiny_config(
        tmp_path_factory.mktemp("finished"),
        "solver.steps=20",
        "baselines=[munba_front, {method: pamal, weights: [0.1, 0.3]}, {method: composite, weights: [0.1]}]",
    )
    assert run_sweep(config) == 0
    return config


@pytest.fixture(scope="module")
def stored(finished) -> StoredRun:
    return run_of(finished)


def rows_of(run: StoredRun, method: str) -> list[TrialRecord]:
    return [record for record in run.records if record.method == method]


@pytest.mark.slow
def test_a_sweep_gives_every_rival_the_epsilons_of_our_front(stored):
    ours = {row.epsilon for row in stored.records if row.phase is Phase.EPSILON}
    assert len(ours) == 2
    courses = [row for row in stored.records if row.phase is Phase.BASELINE and row.epsilon is None]
    assert [row.label for row in courses] == ["composite 0.1", "munba_front", "pamal 0.1", "pamal 0.3"]
    for course in courses[1:]:
        own = [row for row in stored.records if row.parents == course.trial_id]
        assert {row.epsilon for row in own} == ours
        assert {(row.method, row.weight) for row in own} == {(course.method, course.weight)}
        assert [row.label for row in own] == [f"{course.label} {row.epsilon_fraction:.1%}" for row in own]


@pytest.mark.slow
def test_a_front_costs_the_steps_of_its_run(stored):
    assert stored.gradient_pairs("munba_front") == STEPS
    assert stored.gradient_pairs("pamal") == 2 * STEPS


@pytest.mark.slow
def test_the_report_draws_the_epsilons_of_a_rival_as_its_points(stored):
    report = gather(stored)
    drawn = [report.solutions[point.key] for point in report.fronts[0].points]
    for method, expected in (("munba_front", 3), ("pamal", 6)):
        assert [one.kind for one in drawn if one.method == method] == [Kind.BASELINE] * expected
    scored = {one.method: one.gradient_pairs for one in report.scores}
    assert scored["munba_front"] == (STEPS,)


@pytest.mark.slow
def test_a_rivals_front_can_be_dialled(stored):
    bank = [knot for knot in gather_knots_of(stored, "munba_front") if "@" in knot.name]
    epsilon = (bank[0].level + bank[-1].level) / 2
    record = dial(stored.path, epsilon, absolute=True, method="munba_front")
    (course,) = (row for row in rows_of(stored, "munba_front") if row.epsilon is None)
    own = {row.trial_id for row in rows_of(stored, "munba_front")}
    (original,) = rows_of(stored, "original")
    for parent in record.parents.split(","):
        assert parent.partition("@")[0] in {*own, original.trial_id}
    assert (record.method, record.phase) == ("interpolated_munba_front", Phase.BASELINE)
    assert abs(record.level - epsilon) <= 0.003 * stored.info.scales.f1_range
    assert {knot.name.partition("@")[0] for knot in bank} == {course.trial_id}


def gather_knots_of(run: StoredRun, method: str):
    return gather_knots(
        RunWeights(parse_config(run.store.read_text("sweep.yaml"), "sweep.yaml"), run), 0, method
    )


@pytest.mark.slow
def test_dialling_a_rival_leaves_our_front_and_its_own_alone(stored, finished):
    before = stored.hypervolume(), stored.hypervolume("munba_front")
    bank = [knot for knot in gather_knots_of(stored, "munba_front") if "@" in knot.name]
    dial(stored.path, 0.3 * bank[0].level + 0.7 * bank[-1].level, absolute=True, method="munba_front")
    again = run_of(finished)
    assert (again.hypervolume(), again.hypervolume("munba_front")) == before


@pytest.mark.slow
@pytest.mark.parametrize("method", ["composite", "soup", "no_such_method"])
def test_a_method_without_checkpoints_cannot_be_dialled(stored, method):
    with pytest.raises(ConfigError, match=r"\(epsilon_constraint, munba_front, pamal\), found " + method):
        dial(stored.path, 0.5, method=method)
