"""The trial that resists relearning: its attacks, the term that they add, its row, and its place in a run."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_safetensors
from short_path import PATH_SPEC
from small_sweep import run as run_sweep
from small_sweep import run_of, small_sweep, without_times
from tiny_families import FAMILIES, load_on_generated
from torch import Tensor

from pareto_unlearn.config import SweepConfig, as_smoke
from pareto_unlearn.finished.dial import RunWeights, gather_knots
from pareto_unlearn.models import save_model
from pareto_unlearn.records import (
    MODEL_FILE,
    BankEntry,
    Phase,
    Role,
    TrialRecord,
    TrialResult,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.solution import Kind
from pareto_unlearn.store import StoredRun
from pareto_unlearn.sweep.progress import describe_budget
from pareto_unlearn.trial import Hooks, Trial, load_material, run_trial, running
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.relearning import (
    ATTACK_IMAGES,
    ATTACK_STEPS,
    JUDGED_IMAGES,
    LARGEST_RATE,
    LEAST_RATE,
    Draw,
    Resistance,
    draw_attack,
    measure_hole_loss,
)

STEPS, RATE = 6, 0.0007
TINY = (
    "data.train_per_class=8",
    "data.heldout_per_class=4",
    "solver.batch=8",
    "solver.checkpoint_every=3",
    "baselines=[]",
    "objective.noise_images=16",
    f"solver.relearning={{steps: {STEPS}, every: 2}}",
)
SPEC = TrialSpec(
    trial_id="4" * 16, phase=Phase.HARDENED, method="epsilon_constraint", seed=0, parents=PATH_SPEC.trial_id
)


@pytest.fixture(autouse=True)
def short_attacks(monkeypatch, request):
    """Attacks of a few steps, but where their kinds are looked at."""
    if "every_kind" not in request.node.name:
        monkeypatch.setattr("pareto_unlearn.trial.relearning.ATTACK_STEPS", (1, 2, 5))


def tiny_config(*overrides: str) -> SweepConfig:
    return small_sweep(Path("unused"), *TINY, *overrides)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def make_trial(cache: Path, *overrides: str) -> Trial:
    config = tiny_config(*overrides)
    return Trial(config, SPEC, load_material(config, cache, "targets"))


def shaken(trial: Trial) -> bytes:
    """Return the weights file of a model near the trial's own, which still reconstructs forget images."""
    model, generator = copy.deepcopy(trial.material.model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    return save_model(model)


# Attacks


def draws(count: int = 200, seed: int = 0) -> list[Draw]:
    return [draw_attack(seed, step, 90, 60) for step in range(count)]


def test_no_image_is_attacked_with_and_judged():
    for draw in draws():
        seen, judged = set(draw.forget.tolist()), set(draw.judged.tolist())
        assert not seen & judged
        assert (len(seen), len(judged)) == (len(draw.forget), 32)
        assert (seen | judged) <= set(range(90))
        assert set(draw.retain.tolist()) <= set(range(60))


def test_attacks_are_of_every_kind():
    found = draws()
    assert {draw.steps for draw in found} == set(ATTACK_STEPS)
    assert {len(draw.forget) for draw in found} == set(ATTACK_IMAGES)
    assert {len(draw.retain) for draw in found} == {0, 10, 50}
    assert 0.4 < sum(len(draw.retain) > 0 for draw in found) / len(found) < 0.6
    rates = [math.log(draw.rate / LEAST_RATE) / math.log(LARGEST_RATE / LEAST_RATE) for draw in found]
    assert 0.0 <= min(rates) < 0.1 < 0.4 < sum(rates) / len(rates) < 0.6 < 0.9 < max(rates) <= 1.0


def test_an_attack_is_a_function_of_seed_and_step():
    def values(draw: Draw) -> tuple[object, ...]:
        return draw.steps, draw.rate, *(rows.tolist() for rows in (draw.forget, draw.retain, draw.judged))

    backwards = [draw_attack(0, step, 90, 60) for step in reversed(range(50))][::-1]
    assert [values(draw) for draw in backwards] == [values(draw) for draw in draws(50)]
    assert len({repr(values(draw)) for draw in [*draws(50), *draws(50, seed=1)]}) == 100


@pytest.mark.parametrize("images", [2, 5, 40])
def test_half_of_a_small_set_is_left_to_judge_by(images):
    for step in range(50):
        draw = draw_attack(0, step, images, 3)
        assert len(draw.judged) >= images / 2 or len(draw.judged) == JUDGED_IMAGES
        assert 1 <= len(draw.forget) <= images / 2
        assert len(draw.retain) in (0, 3)


def test_one_forget_image_is_too_few():
    with pytest.raises(ValueError, match="expected at least 2 forget training images, found 1"):
        draw_attack(0, 0, 1, 3)


# The term


def error_in_hole(model, images: Tensor) -> Tensor:
    return (model(images) - images)[:, model.hole_ids].square().mean()


def by_hand(trial: Trial, draw: Draw, level: float) -> tuple[float, list[Tensor]]:
    """Return g and its first-order gradient, with torch's own Adam on a copy of the whole model."""
    model = copy.deepcopy(trial.material.model)
    forget, retain = trial.training_inputs("forget"), trial.training_inputs("retain")
    optimiser = torch.optim.Adam(model.parameters(), lr=draw.rate, betas=(0.9, 0.99))
    for _ in range(draw.steps):
        optimiser.zero_grad()
        model.training_loss(torch.cat([forget[draw.forget], retain[draw.retain]])).backward()
        optimiser.step()
    start = float(error_in_hole(trial.material.model, forget[:]).detach())
    value = (1.0 - error_in_hole(model, forget[draw.judged]) / (level * start)).clamp(min=0.0)
    return float(value.detach()), list(torch.autograd.grad(value, list(model.parameters())))


def test_the_term_and_its_gradient_are_those_written_out_by_hand(cache):
    trial = make_trial(cache, "solver.relearning.level=0.99", "solver.relearning.every=1")
    trial.material.model.load_state_dict(load_safetensors(shaken(trial)))
    assert trial.config.solver.relearning is not None
    resistance = Resistance(trial, trial.config.solver.relearning)
    parameters, active, mixed = trial.material.trainable(), 0, 0
    for step in range(12):
        draw = resistance.draw_at(step)
        assert draw is not None
        expected, gradient = by_hand(trial, draw, 0.99)
        value = resistance(step)
        assert value is not None
        found = torch.autograd.grad(value, parameters)
        # The sums of an attack in parts are in another order, and Adam makes more of small differences.
        assert float(value.detach()) == pytest.approx(expected, abs=2e-4)
        for one, other in zip(found, gradient, strict=True):
            torch.testing.assert_close(one, other, rtol=0.02, atol=2e-3 * float(other.abs().max()) + 1e-7)
        active += expected > 0.0
        mixed += len(draw.retain) > 0
    assert active >= 3
    assert 3 <= mixed <= 9


def test_an_attack_leaves_the_model_as_it_is_to_the_bit(cache):
    trial = make_trial(cache)
    assert trial.config.solver.relearning is not None
    model = trial.material.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resistance = Resistance(trial, trial.config.solver.relearning)
    assert resistance(0) is not None
    assert resistance(1) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("has_forgotten", [False, True])
def test_the_constraint_is_charged_where_there_is_an_attack_and_leaves_e_alone_below_the_end(
    cache, has_forgotten
):
    trial = make_trial(
        cache, "solver.relearning={level: 0.99, every: 2, weight: 3}", "solver.path={end: 0.4, top: 0.9}"
    )
    assert trial.config.solver.relearning is not None
    if has_forgotten:
        with torch.no_grad():
            trial.material.model.predict.weight.zero_()
    without = Resistance(trial, trial.config.solver.relearning)
    problem = build_problem(trial)
    plain = build_problem(replace(trial, spec=replace(SPEC, phase=Phase.EPSILON, parents=None, epsilon=1.0)))
    for step in range(4):
        regained = without(step)
        charge = 0.0 if regained is None else 2 * 3 * float(regained.detach())
        found, e = problem.constraint(step), float(plain.constraint(step).detach())
        assert (e < 0.2) == has_forgotten
        assert float(found.detach()) == pytest.approx(max(e, 0.2) + charge, abs=1e-5)
        # The curve shows e itself.
        assert float(found.detach() - problem.state["relearning"][step]) == pytest.approx(e, abs=1e-5)


def test_the_level_is_a_share_of_what_the_start_has_forgotten(cache):
    trial = make_trial(cache)
    inputs = trial.training_inputs("forget")
    expected = float(trial.material.model.hole_loss(inputs[:]).detach())
    assert measure_hole_loss(trial.material) == pytest.approx(expected, rel=1e-5)
    assert trial.material.measured.images == len(inputs)


# The trial

BANK = (BankEntry(step=1, epsilon=0.1, f1=0.1, f2=0.1, learning_rate=RATE, sha256="0" * 64),)


def harden(cache: Path, kept: dict, *overrides: str, at: int | None = None, bank=BANK) -> TrialResult:
    trial = make_trial(cache, *overrides)
    weights = shaken(trial)
    hooks = Hooks(
        save_resume=lambda step, files: kept.update({step: dict(files)}),
        load_resume=lambda: None if at is None else (at, kept[at]),
        read_bank=lambda trial_id: bank if trial_id == SPEC.parents else (),
        read_model=lambda trial_id: {SPEC.parents: weights}[trial_id],
    )
    return run_trial(trial, hooks, "1")


def test_the_row_says_where_it_started_and_what_it_cost(cache):
    result = harden(cache, {})
    record = result.record
    passes = sum(draw_attack(0, step, 40, 40).count_passes(8) for step in range(0, STEPS, 2))
    assert (record.label, record.start, record.parents) == ("hardened", "highest", SPEC.parents)
    assert (record.steps, len(result.curves), record.learning_rate) == (STEPS, STEPS, RATE)
    assert record.gradient_pairs == STEPS + math.ceil(passes / 2)
    assert record.state is TrialState.INFEASIBLE  # six steps from a model that has forgotten nothing
    assert record.violation > 0.0
    assert "exceeds its bound" in record.reason
    assert all(row.f1 < 2 * result.curves[0].f1 for row in result.curves)  # charges are no f1


def test_without_a_bank_the_step_size_is_that_of_the_path(cache):
    assert harden(cache, {}, bank=()).record.learning_rate == tiny_config().solver.path.learning_rate


def test_what_ends_near_the_end_of_the_path_is_done(cache):
    record = harden(
        cache,
        {},
        "solver.path.end=0.49",
        "solver.path.top=0.99",
        "solver.relearning={steps: 120, weight: 0.1, every: 4}",
    ).record
    assert (record.state, record.violation) == (TrialState.DONE, pytest.approx(0.0, abs=0.02))


def test_an_interrupted_trial_continues_to_the_last_bit(cache, monkeypatch):
    monkeypatch.setattr(running, "FLUSH_EVERY", 1)
    kept: dict[int, dict[str, bytes]] = {}
    whole = harden(cache, kept)
    assert list(kept) == [3]
    again = harden(cache, kept, at=3)
    assert again.files == whole.files
    assert without_times(again.record) == without_times(whole.record)
    assert [replace(row, images_per_second=None) for row in again.curves] == [
        replace(row, images_per_second=None) for row in whole.curves
    ]


FEW = {"forget_train": 4, "forget_heldout": 2, "retain_train": 4, "retain_heldout": 2}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("space", ["output", pytest.param("encoder", marks=pytest.mark.slow)])
def test_every_family_can_be_hardened(tmp_path, family, space):
    config, material = load_on_generated(
        family,
        tmp_path,
        f"objective.space={space}",
        "solver.relearning={level: 0.99, every: 2, steps: 3}",
        counts=FEW,
    )
    weights = save_model(material.model)
    before = {name: tensor.clone() for name, tensor in material.model.state_dict().items()}
    trained = {id(one) for one in material.trainable(space)}
    result = run_trial(Trial(config, SPEC, material), Hooks(read_model=lambda _: weights), "1")
    record = result.record
    assert record.state in (TrialState.DONE, TrialState.INFEASIBLE), record.reason
    assert (record.steps, record.skipped_steps) == (3, 0)
    passes = sum(draw_attack(0, step, 4, 4).count_passes(2) for step in (0, 2))
    assert record.gradient_pairs == 3 + math.ceil(passes / 2)
    own = {name: id(parameter) for name, parameter in material.model.named_parameters()}
    for name, tensor in material.model.state_dict().items():
        assert torch.equal(tensor, before[name]) or own.get(name) in trained, name


# In a run


@pytest.fixture(scope="module")
def finished(copy_small_sweep, tmp_path_factory) -> tuple[StoredRun, StoredRun]:
    """Return the small sweep without and with the trial, which was added to the finished run."""
    before = run_of(copy_small_sweep(tmp_path_factory.mktemp("plain")))
    config = copy_small_sweep(tmp_path_factory.mktemp("hardened"), "solver.relearning={steps: 4}")
    assert run_sweep(config) == 0
    return before, run_of(config)


def hardened_of(run: StoredRun) -> TrialRecord:
    (record,) = (one for one in run.records if one.phase is Phase.HARDENED)
    return record


def test_it_is_added_to_a_finished_run_and_is_a_child_of_its_highest_boundary(finished):
    before, after = finished
    record = hardened_of(after)
    known = {one.trial_id: one for one in before.records}
    assert known.keys() | {record.trial_id} == {one.trial_id for one in after.records}
    assert known[record.parents].role is Role.HIGHEST
    assert record.learning_rate == known[record.parents].learning_rate
    assert MODEL_FILE in after.store.read_checkpoint(record)


def test_it_changes_no_front_and_no_cost(finished):
    before, after = finished
    assert after.info == before.info
    assert list(after.front()["trial_id"]) == list(before.front()["trial_id"])
    for method in (None, "epsilon_constraint"):
        assert after.hypervolume(method) == before.hypervolume(method)
        assert after.gradient_pairs(method) == before.gradient_pairs(method)
    assert after.scores("epsilon_constraint", 0, "heldout") == before.scores(
        "epsilon_constraint", 0, "heldout"
    )
    names = [
        [knot.name for knot in gather_knots(RunWeights(small_sweep(Path("unused")), run), 0)]
        for run in finished
    ]
    assert names[0] == names[1]


def test_the_report_lists_it_and_draws_it_nowhere(finished):
    report = gather(finished[1])
    (key,) = (key for key, one in enumerate(report.solutions) if one.kind is Kind.HARDENED)
    assert report.solutions[key].label == "hardened"
    assert key not in {point.key for front in report.fronts for point in front.points}
    assert [len(one.points) for one in report.fronts] == [
        len(one.points) for one in gather(finished[0]).fronts
    ]


def test_the_budget_says_what_it_takes():
    assert "hardened" not in describe_budget(small_sweep(Path("unused")))
    for every, often in ((1, "every step"), (3, "every 3 steps")):
        text = describe_budget(tiny_config(f"solver.relearning.every={every}"))
        assert text.endswith(f"; hardened takes {STEPS} steps, with an attack {often}")


def test_trying_a_sweep_out_takes_few_of_its_steps():
    small = as_smoke(tiny_config("solver.relearning.steps=400"))
    assert small.solver.relearning is not None
    assert small.solver.relearning.steps == 12
    assert as_smoke(small_sweep(Path("unused"))).solver.relearning is None
