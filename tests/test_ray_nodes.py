"""Sweeps on nodes of a Ray cluster: parts of a GPU, trials of several processes, nodes that come and go."""

import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ray_sweeps import (
    Nodes,
    Process,
    Start,
    committed,
    end_session,
    in_phase_one,
    run_to_the_end,
    sessions,
    sweep_command,
    workers_of,
)
from small_sweep import SMALL, TINIEST, rows_of, run, run_of, small_sweep
from waiting import STALLED_AFTER, wait_until

from pareto_unlearn.records import TrialRecord

ROOT = Path(__file__).parent.parent
PRETENDED_GPU = ROOT / "tests" / "pretended_gpu"
EXECUTORS = ("tune", "pool")
EQUAL = 1e-5

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # whatever token this user's other clusters have
        with sessions() as begin:
            yield begin


@pytest.fixture(scope="module")
def nodes(start: Start) -> Nodes:
    """A head without a place; each test starts the nodes that it needs, and ends them."""
    return Nodes(start, 0)


def overrides_for(nodes: Nodes, executor: str, *more: str) -> tuple[str, ...]:
    return (f"run.executor={executor}", f"run.address={nodes.address}", *more)


def most_at_once(starts: list[int], ends: list[int]) -> int:
    """Return how many trials were under way at most."""
    events = sorted([(when, 1) for when in starts] + [(when, -1) for when in ends])
    running = [sum(change for _, change in events[: place + 1]) for place in range(len(events))]
    return max(running)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_four_trials_share_a_gpu_by_the_count_of_ray(executor, start, nodes, tmp_path):
    notes = tmp_path / "notes.txt"
    node = nodes.join_surely(
        "--num-cpus=8",
        "--num-gpus=1",
        PRETENDED_GPU=str(notes),
        PYTHONPATH=os.pathsep.join([str(PRETENDED_GPU), str(ROOT)]),
    )
    done = run_to_the_end(
        tmp_path,
        *TINIEST,
        *overrides_for(nodes, executor, "run.gpus_per_trial=0.25", "epsilon.points=6"),
    )
    end_session(node)
    assert done.returncode == 0, done.stderr
    starts, gpus = zip(*(line.split() for line in notes.read_text().splitlines()), strict=True)
    ends = list(committed(tmp_path).values())
    assert len(starts) == len(ends) == len(run_of(small_sweep(tmp_path)).records)
    assert set(gpus) == {"0"}
    assert most_at_once([int(when) for when in starts], ends) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds the GPU")
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_gpu_that_ray_was_told_of_and_nobody_finds_ends_the_sweep(executor, start, nodes, tmp_path):
    node = nodes.join_surely("--num-cpus=4", "--num-gpus=1")
    done = run_to_the_end(tmp_path, *TINIEST, *overrides_for(nodes, executor, "run.gpus_per_trial=0.25"))
    end_session(node)
    assert done.returncode == 3, done.stderr
    assert "run.gpus_per_trial: Ray gave a trial 0.25 GPU on " in done.stderr
    assert "where torch finds none" in done.stderr
    assert "Traceback" not in done.stderr
    assert committed(tmp_path) == {}


TWO_RANKS = (*TINIEST, "solver.path.steps=40", "solver.steps=20", "epsilon.points=2", "run.cpus_per_trial=2")


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRecord]:
    """The rows of the sweep whose trials are each solved by one process, without Ray."""
    config = small_sweep(tmp_path_factory.mktemp("one"), *TWO_RANKS)
    assert run(config) == 0
    return run_of(config).records


def ranks_of(node: Process) -> list[int]:
    """Return the processes that solve a trial together with a worker of a node."""
    workers = {str(pid) for pid in workers_of(node.pid)}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", (entry / "status").read_text(), re.MULTILINE)[1]
            is_rank = b"pareto_unlearn.sweep.rank" in (entry / "cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if is_rank and parent in workers:
            found.append(int(entry.name))
    return found


def place_of(record: TrialRecord) -> tuple[object, ...]:
    """Return what tells a trial from others of its sweep, also where epsilons differ in the last digits."""
    return record.phase, record.role or "", record.seed, round(record.epsilon or 0.0, 4)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_two_processes_per_trial_under_ray_give_the_rows_of_one_though_one_is_killed(
    executor, start, nodes, of_one_process, tmp_path
):
    node = nodes.join_surely("--num-cpus=2")
    driver = start(
        *sweep_command(tmp_path, *TWO_RANKS, *overrides_for(nodes, executor, "run.ranks_per_trial=2"))
    )
    wait_until(lambda: in_phase_one(tmp_path) and ranks_of(node) != [], driver)
    os.kill(ranks_of(node)[0], signal.SIGKILL)
    _, said = driver.communicate(timeout=STALLED_AFTER)
    end_session(node)
    assert driver.returncode == 0, said
    assert "a rank of the trial died: number 1 of 2 ended by signal 9" in said
    found = run_of(small_sweep(tmp_path)).records
    assert said.count(": started") == len(found) + 1
    assert len(found) == len(of_one_process)
    for one, two in zip(sorted(of_one_process, key=place_of), sorted(found, key=place_of), strict=True):
        assert (place_of(one), one.state, one.method) == (place_of(two), two.state, two.method)
        for name in ("epsilon", "f1", "f2"):
            pair = getattr(one, name), getattr(two, name)
            assert pair == (None, None) or abs(pair[0] - pair[1]) < EQUAL, (name, one.label, pair)


MANY = (*SMALL, "epsilon.points=24", "solver.steps=80")
"""Long enough for a node to join, and for its worker to come up, while trials are left."""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_node_that_joins_is_used_and_one_that_is_lost_is_done_without(executor, start, nodes, tmp_path):
    undisturbed = small_sweep(tmp_path / "undisturbed", *MANY)
    assert run(undisturbed) == 0
    first, storage, talk = nodes.join_surely(), tmp_path / "disturbed", tmp_path / "talk.txt"
    command = shlex.join(sweep_command(storage, *MANY, *overrides_for(nodes, executor)))
    driver = start("sh", "-c", f"exec {command} 2>{shlex.quote(str(talk))}")
    wait_until(lambda: in_phase_one(storage), driver)
    second = nodes.join_surely()
    wait_until(lambda: workers_of(second.pid) != [], driver)
    end_session(first)
    driver.communicate(timeout=STALLED_AFTER)
    end_session(second)
    said = talk.read_text()
    assert driver.returncode == 0, said
    assert re.findall(r"places for trials on the cluster: (.*)", said)[:2] == [
        "2 now, 1 before",
        "1 now, 2 before",
    ]
    assert rows_of(small_sweep(storage)) == rows_of(undisturbed)
