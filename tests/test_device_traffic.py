"""A training step never waits for the device, and sends it no more than it needs."""

from itertools import chain

import pytest
import torch
from device_traffic import DeviceTraffic
from tiny_families import FAMILIES, PUBLISHED, load_on_generated
from trial_rows import epsilon_spec

from pareto_unlearn.device_copies import take_rows, upload
from pareto_unlearn.solver import EpsilonSolver, LevelControl, UpdateSettings
from pareto_unlearn.trial import Trial
from pareto_unlearn.trial.building import build_problem

CPU = torch.device("cpu")


def solver_of(family, tmp_path, *overrides):
    """Return the material, the problem and the solver of an epsilon trial after one step."""
    config, material = load_on_generated(family, tmp_path, *overrides)
    trial = Trial(config, epsilon_spec(material.scales, 0.5), material)
    problem = build_problem(trial)
    solver = EpsilonSolver(
        material.trainable(problem.space), problem.rule, problem.settings, epsilon=problem.epsilon
    )
    take(solver, problem)
    return material, problem, solver


def take(solver, problem):
    step = solver.step_count
    solver.step(lambda: problem.constraint(step), lambda: problem.objective(step))


def tensors_of(material, problem, solver):
    """Return all that lies on the device between two steps."""
    model = material.model
    answers = getattr(material.retain_target.answers, "model", None)
    models = [model] if answers is None else [model, answers]
    weights = chain.from_iterable((*one.parameters(), *one.buffers()) for one in models)
    stored = (rows for rows in material.inputs.values() if isinstance(rows, torch.Tensor))
    bank = getattr(material.forget_target, "bank", None)
    shared = () if bank is None else (bank.rows, bank.mean)
    held = (cell.cell_contents for cell in problem.constraint.__closure__ or ())
    classes = (value for value in held if isinstance(value, torch.Tensor))
    own = (solver.flat.values, solver.flat.gradient, solver._g1, solver._log, solver._one)
    return (
        *weights,
        *stored,
        *shared,
        *classes,
        *own,
        *solver.state_dict().values(),
        *problem.state.values(),
    )


CASES = [(family, ()) for family in FAMILIES] + [
    (family, ("task.removal=published",)) for family in PUBLISHED
]


@pytest.mark.parametrize(("family", "overrides"), CASES)
def test_a_step_does_not_wait_for_the_device(family, overrides, tmp_path):
    material, problem, solver = solver_of(family, tmp_path, *overrides)
    with DeviceTraffic(tensors_of(material, problem, solver)) as traffic:
        take(solver, problem)
    assert traffic.waits == []
    assert traffic.refused == []
    with DeviceTraffic(tensors_of(material, problem, solver)) as traffic:
        solver.flush()
    assert traffic.waits == ["tolist"]


WAITING = {
    "float": (lambda held: float(held.sum()), "_local_scalar_dense"),
    "bool": (lambda held: bool(held.any()), "_local_scalar_dense"),
    "tolist": (lambda held: (held * 2).tolist(), "tolist"),
    "cpu": (lambda held: held.cpu(), "cpu"),
    "a mask": (lambda held: held[held > 1], "index"),
    "numbers of the host": (lambda held: held[torch.tensor([1, 0])], "index"),
    "a plain copy": (lambda held: torch.ones(3).to(CPU) + held, "to(device)"),
}


@pytest.mark.parametrize(("what", "name"), WAITING.values(), ids=WAITING)
def test_the_count_sees_what_waits(what, name):
    held = torch.arange(3.0)
    with DeviceTraffic([held]) as traffic:
        what(held)
    assert traffic.waits == [name]


def test_the_count_sees_what_a_gpu_refuses_and_lets_pass_what_does_not_wait():
    held = torch.arange(3.0)
    with DeviceTraffic([held]) as traffic:
        held + torch.ones(3)
    assert traffic.refused == ["add"]
    with DeviceTraffic([held]) as traffic:
        take_rows(held, torch.tensor([1, 0])) + upload(torch.ones(2), CPU)
        (torch.ones(3) * 2).tolist()
    assert (traffic.waits, traffic.refused, traffic.sent) == ([], [], [16, 8])


@pytest.mark.parametrize(
    ("settings", "passes"), [({}, 54), ({"update_limit": 1.0}, 61), ({"kind": "paper"}, 25)]
)
def test_an_update_reads_and_writes_the_weights_no_more_often_than_it_did(settings, passes):
    parameters = [torch.nn.Parameter(torch.ones(size)) for size in (2, 3)]
    solver = EpsilonSolver(parameters, LevelControl(), UpdateSettings(**settings))
    with DeviceTraffic([solver.flat.values], flat_size=5) as traffic:
        solver.step(lambda: parameters[0].square().sum(), lambda: parameters[1].square().sum())
    assert traffic.flat_passes == passes


@pytest.mark.gpu
@pytest.mark.parametrize(("family", "overrides"), CASES)
def test_torch_sees_no_wait_on_a_gpu(family, overrides, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    _, problem, solver = solver_of(family, tmp_path, "run.gpus_per_trial=1", *overrides)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take(solver, problem)
    finally:
        torch.cuda.set_sync_debug_mode("default")
