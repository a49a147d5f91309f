"""Several processes solve one trial: the same images, draws and sums, also where one of them dies."""

import os
import runpy
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from command_line import call
from safetensors.torch import load_file
from small_sweep import TINIEST, run, run_of, small_sweep
from tiny_families import FAMILIES, load_on_generated, moved

from pareto_unlearn.catalogue.methods import METHODS
from pareto_unlearn.config import load_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import family_of, save_model
from pareto_unlearn.records import Phase, TrialSpec
from pareto_unlearn.solver import EpsilonSolver
from pareto_unlearn.sweep import rank_processes
from pareto_unlearn.trial import Material, Ranks, Trial, rank_group
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.problem import Problem, trained_parameters
from pareto_unlearn.trial.resume import History, pack_state_files, restore, unpack_history

AUTOENCODER = Path(__file__).parent.parent / "examples" / "autoencoder" / "family.py"
EQUAL, LET_OFF = 1e-5, 0.01
RANKS = ("run.cpus_per_trial=2", "run.ranks_per_trial=2")


@dataclass
class Meeting:
    """Where the ranks of a trial meet that are threads of one process."""

    size: int

    def __post_init__(self) -> None:
        self.given: dict[int, torch.Tensor] = {}
        self.barrier = threading.Barrier(self.size, timeout=120)


@dataclass
class ThreadLink:
    meeting: Meeting
    rank: int

    def add(self, values: torch.Tensor) -> None:
        given = self._exchange(values)
        values.copy_(sum(given[rank] for rank in range(1, self.meeting.size)) + given[0])

    def send(self, values: torch.Tensor) -> None:
        values.copy_(self._exchange(values)[0])

    def close(self) -> None:
        pass

    def _exchange(self, values: torch.Tensor) -> dict[int, torch.Tensor]:
        self.meeting.given[self.rank] = values.detach().clone()
        self.meeting.barrier.wait()
        given = dict(self.meeting.given)
        self.meeting.barrier.wait()
        return given


Make = Callable[[Material], TrialSpec]
"""Makes the plan of a trial, given what it starts from."""


def half_way(material: Material) -> TrialSpec:
    epsilon = 0.5 * material.scales.f1_original
    return TrialSpec(
        trial_id="0" * 16, phase=Phase.EPSILON, method="epsilon_constraint", seed=0, epsilon=epsilon
    )


def hardened(_: Material) -> TrialSpec:
    return TrialSpec(trial_id="0" * 16, phase=Phase.HARDENED, method="epsilon_constraint", seed=0)


def baseline(method: str) -> Make:
    weight = METHODS[method].weights[-1]
    return lambda _: TrialSpec(trial_id="0" * 16, phase=Phase.BASELINE, method=method, seed=0, weight=weight)


def solved(
    family: str,
    folder: Path,
    legs: int | tuple[int, ...],
    steps: int,
    *overrides: str,
    make: Make = half_way,
) -> list[torch.Tensor]:
    """Return f1 and f2 of all steps and the weights at the end, of the last of so many ranks.

    With several ``legs``, each is solved by its own number of ranks, from the state that the one before kept.
    """
    legs = (legs,) if isinstance(legs, int) else legs
    state, found = None, []
    for place, size in enumerate(legs):
        until = steps * (place + 1) // len(legs)
        found, state = solve_leg(family, folder / str(place), size, (state, until, steps), overrides, make)
    return found


def solve_leg(
    family: str,
    folder: Path,
    size: int,
    course: tuple[dict[str, bytes] | None, int, int],
    overrides: Sequence[str],
    make: Make,
) -> tuple[list[torch.Tensor], dict[str, bytes]]:
    """Solve from a state to a step with so many ranks; return as ``solved`` does, and the first's state."""
    (state, until, steps), meeting = course, Meeting(size)
    found: dict[int, list[torch.Tensor]] = {}
    kept: list[dict[str, bytes]] = []
    for rank in range(size):
        (folder / str(rank)).mkdir(parents=True)
    # Loaded one after the other: a load replaces a function of the package for its time.
    loaded = [
        load_on_generated(family, folder / str(rank), "solver.batch=5", f"solver.steps={steps}", *overrides)
        for rank in range(size)
    ]

    def solve(rank: int) -> None:
        config, material = loaded[rank]
        moved(material)
        if size > 1:
            material = replace(material, ranks=Ranks(rank, size, ThreadLink(meeting, rank)))
        trial = Trial(config, make(material), material)
        problem = build_problem(trial)
        solver = EpsilonSolver(
            trained_parameters(trial, problem),
            problem.rule,
            problem.settings,
            epsilon=problem.epsilon,
            add_up=material.ranks.add,
        )
        history = advance(problem, solver, state, until)
        if rank == 0:
            kept.append(pack_state_files(solver, problem, history))
        rows = torch.tensor([(row.f1, row.f2) for row in history.rows])
        found[rank] = [rows[:, 0], rows[:, 1], solver.flat.values.clone()]

    threads = [threading.Thread(target=solve, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(
        torch.equal(one, other)
        for rank in range(size)
        for one, other in zip(found[0], found[rank], strict=True)
    )
    return found[size - 1], kept[0]


def advance(problem: Problem, solver: EpsilonSolver, state: dict[str, bytes] | None, until: int) -> History:
    """Solve from a state, or from the start, to a step, and return what was on the way."""
    history = History() if state is None else unpack_history(state)
    if state is not None:
        restore(state, problem, solver)
    for step in range(solver.step_count, until):
        solver.step(lambda at=step: problem.constraint(at), lambda at=step: problem.objective(at))
    history.rows += [problem.logged(row) for row in solver.flush()]
    return history


def difference(one: list[torch.Tensor], other: list[torch.Tensor]) -> list[float]:
    return [float((a - b).abs().max()) for a, b in zip(one, other, strict=True)]


def require_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    """Compare f1, f2 and weights.

    The gradient of a bias of attention's keys is 0 but for rounding, of which Adam makes steps of full size:
    such weights, which change no output, are let off. They are fewer than one in a hundred.
    """
    assert max(difference(one[:2], other[:2])) < EQUAL
    assert float(((one[2] - other[2]).abs() > EQUAL).double().mean()) < LET_OFF


def test_two_ranks_with_uneven_batches_equal_one_process(tmp_path):
    alone, two = (solved("digits_mae", tmp_path / str(size), size, 10) for size in (1, 2))
    require_equal(alone, two)
    assert float((alone[0][0] - alone[0][-1]).abs()) > EQUAL  # it moved


def test_a_state_is_gone_on_from_by_another_number_of_ranks(tmp_path):
    alone, *changed = (
        solved("digits_mae", tmp_path / str(place), legs, 6) for place, legs in enumerate([1, (1, 2), (2, 1)])
    )
    for found in changed:
        require_equal(alone, found)


@pytest.fixture
def short_attacks(monkeypatch):
    monkeypatch.setattr("pareto_unlearn.trial.relearning.ATTACK_STEPS", (1, 2, 5))


HARDENED = ("solver.start=path", "solver.relearning={steps: 8, every: 2}")


def test_the_solve_that_resists_relearning_is_that_of_one_process(tmp_path, short_attacks):
    alone, two = (
        solved("digits_mae", tmp_path / str(size), size, 8, *HARDENED, make=hardened) for size in (1, 2)
    )
    require_equal(alone, two)


WHOLE = ("max_loss", "retain_only", "retain_label", "random_encoder")
"""Baselines with losses of a family's own, which every rank computes in whole."""
SHARED = ("composite", "mgda", "eupmu", "pamal")
"""A sum, a rule for two gradients, a course that looks twice at a step, and one that trains a curve."""


@pytest.mark.parametrize("method", ["max_loss", "pamal"])
def test_baselines_by_two_ranks_are_those_of_one_process(tmp_path, method):
    alone, two = (
        solved("digits_mae", tmp_path / str(size), size, 6, make=baseline(method)) for size in (1, 2)
    )
    require_equal(alone, two)


@pytest.mark.nightly
@pytest.mark.parametrize("method", [*WHOLE, *SHARED, "hardened"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_solves_by_ranks_are_those_of_one_process_in_all_families(
    tmp_path, family, method, short_attacks
):
    overrides, make = (HARDENED, hardened) if method == "hardened" else ((), baseline(method))
    if method in ("retain_label", "random_encoder") and method not in family_of(family).baselines:
        pytest.skip(f"{family} has no {method}")
    alone, two, three = (
        solved(family, tmp_path / str(size), size, 8, *overrides, make=make) for size in (1, 2, 3)
    )
    require_equal(alone, two)
    require_equal(alone, three)


@pytest.mark.nightly
@pytest.mark.parametrize("completeness", ["mean", "per_class", "per_image"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_equal_one_process_in_all_families(tmp_path, family, completeness):
    chosen = f"solver.completeness={completeness}"
    alone, two, three = (solved(family, tmp_path / str(size), size, 50, chosen) for size in (1, 2, 3))
    require_equal(alone, two)
    require_equal(alone, three)


@pytest.mark.nightly
def test_a_sweep_by_two_processes_equals_that_of_one_though_a_process_is_killed(tmp_path, monkeypatch):
    started, begin, add = [], rank_processes._start, rank_group._Group.add
    calls = []

    def start(*given):
        started.append(begin(*given))
        return started[-1]

    def add_and_kill(group, values):
        calls.append(len(started))
        if len(calls) == 40:  # all have met, and the first solve is on its way
            os.kill(started[0].pid, signal.SIGKILL)
        add(group, values)

    sizes = {name: small_sweep(tmp_path / name, *TINIEST, *RANKS[:1]) for name in ("one", "two")}
    sizes["two"] = small_sweep(tmp_path / "two", *TINIEST, *RANKS)
    run(sizes["one"])
    monkeypatch.setattr(rank_processes, "_start", start)
    monkeypatch.setattr(rank_group._Group, "add", add_and_kill)
    run(sizes["two"])
    one, two = ({record.trial_id: record for record in run_of(config).records} for config in sizes.values())
    assert len(started) == 4  # three solves, of which one was tried again
    assert len(two) == 4
    for trial_id, record in one.items():
        assert abs(record.f1 - two[trial_id].f1) < EQUAL if trial_id in two else record.epsilon is not None
    first = next(record for record in one.values() if record.role == "highest")
    models = [
        load_file(next((tmp_path / name).glob(f"*/checkpoints/{first.trial_id}/*/model.safetensors")))
        for name in sizes
    ]
    gaps = torch.cat([(models[0][name] - models[1][name]).abs().flatten() for name in models[0]])
    assert float((gaps > EQUAL).double().mean()) < LET_OFF


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("run.ranks_per_trial=2",), "expected at most 1"),
        (("run.gpus_per_trial=2", "run.ranks_per_trial=3"), "expected 2, a rank for each"),
        (("run.gpus_per_trial=4", "solver.batch=3"), "as many ranks as a batch has images"),
    ],
)
def test_ranks_that_could_not_work_are_refused(tmp_path, overrides, words):
    with pytest.raises(ConfigError, match=words):
        small_sweep(tmp_path, *overrides)


COUPLED = """
class Coupled(Autoencoder):
    def __init__(self, hole):
        super().__init__(8, hole)
        self.norm = nn.BatchNorm2d(3, track_running_stats={kept})

    def decode(self, features):
        pictures = self.norm(super().decode(features))
        return pictures - {share} * pictures.mean(dim=0)


FAMILY = plain_family(
    ROW, lambda setting: Coupled(build_hole(setting.task, SIDE, 8, setting.seed)), PixelFormat(SIDE, 3)
)
"""
BY_KIND = "others of its batch (batch statistics: norm)"
BY_ANSWERS = "others of its batch. Set"


@pytest.mark.parametrize(
    ("kept", "share", "ranks", "words"),
    [
        (False, 0.0, 2, BY_KIND),
        (True, 0.5, 2, BY_ANSWERS),
        (False, 0.5, 1, None),
        (True, 0.0, 2, None),  # statistics that training kept are constants of the model
    ],
)
def test_a_model_that_sees_an_image_by_its_batch_is_refused_with_ranks(tmp_path, kept, share, ranks, words):
    path, weights = tmp_path / "coupled.py", tmp_path / "coupled.safetensors"
    path.write_text(AUTOENCODER.read_text() + COUPLED.format(kept=kept, share=share))
    made = runpy.run_path(str(path))["Coupled"](torch.ones(32, 32, dtype=torch.bool))
    with torch.no_grad():
        made.decoder[0].weight *= 30.0  # or it answers all images alike
    weights.write_bytes(save_model(made))
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "name: coupled\n"
        f"model: {{family: '{path}:FAMILY', variant: tiny, checkpoint: '{weights}'}}\n"
        "data: {dataset: generated, forget_classes: 2, train_per_class: 4, heldout_per_class: 2}\n"
        "evaluate: {metrics: [mse], audit: off}\n"
        f"run: {{executor: local, cpus_per_trial: 2, ranks_per_trial: {ranks}}}\n"
    )
    done = call("validate", sweep, "--allow-import")
    assert done.returncode == (0 if words is None else 3), done.stderr
    assert words is None or words in done.stderr


def test_ranks_follow_from_gpus():
    path = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
    found = [load_config(path, [f"run.gpus_per_trial={gpus}"]).run.ranks for gpus in (0, 0.5, 1, 4)]
    assert found == [1, 1, 1, 4]
