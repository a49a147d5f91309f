"""Several processes solve one trial: the same images, draws and sums, also where one of them dies."""

import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_sweep import TINIEST, run, run_of, small_sweep
from tiny_families import FAMILIES, load_on_generated, moved

from pareto_unlearn.config import load_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase, TrialSpec
from pareto_unlearn.solver import EpsilonSolver
from pareto_unlearn.sweep import rank_processes
from pareto_unlearn.trial import Ranks, Trial, rank_group
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.problem import trained_parameters

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


def solved(family: str, folder: Path, size: int, steps: int, *overrides: str) -> list[torch.Tensor]:
    """Return f1 and f2 of all steps and the weights at the end, of the last of so many ranks."""
    meeting, found = Meeting(size), {}
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
        epsilon = 0.5 * material.scales.f1_original
        spec = TrialSpec(
            trial_id="0" * 16, phase=Phase.EPSILON, method="epsilon_constraint", seed=0, epsilon=epsilon
        )
        trial = Trial(config, spec, material)
        problem = build_problem(trial)
        solver = EpsilonSolver(
            trained_parameters(trial, problem),
            problem.rule,
            problem.settings,
            epsilon=problem.epsilon,
            add_up=material.ranks.add,
        )
        for step in range(steps):
            solver.step(lambda at=step: problem.constraint(at), lambda at=step: problem.objective(at))
        rows = torch.tensor([(row.f1, row.f2) for row in solver.flush()])
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
    return found[size - 1]


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


def test_ranks_follow_from_gpus():
    path = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
    found = [load_config(path, [f"run.gpus_per_trial={gpus}"]).run.ranks for gpus in (0, 0.5, 1, 4)]
    assert found == [1, 1, 1, 4]
