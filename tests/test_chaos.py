"""Sweeps on a cluster of two nodes whose driver, workers, nodes and raylets are killed at random.

Sweep after sweep of many short trials runs until ``CHAOS_KILLS`` kills are spent (200 where it is not set),
drawn from the seed ``CHAOS_SEED``, up to ``CHAOS_AT_ONCE`` of them at a moment (3). A moment is a number of
changes in the run's folder, not of seconds: so kills fall between the writes of a commit as well as between
trials.
"""

import os
import random
import re
import shlex
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ray_sweeps import Nodes, Process, Start, committed, sessions, sweep_command
from small_sweep import SMALL, rows_of, run, run_of, small_sweep
from waiting import STALLED_AFTER, wait_until

KILLS = int(os.environ.get("CHAOS_KILLS", "200"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
AT_ONCE = int(os.environ.get("CHAOS_AT_ONCE", "3"))
VICTIMS = ("driver", "worker", "node", "raylet")
MOST_CHANGES = 25
"""A trial makes about fifteen changes in the folder of its run."""
MANY = (
    *SMALL, "epsilon.points=12", "solver.path.steps=60", "solver.steps=12", "solver.checkpoint_every=6",
    "baselines=[{method: composite, weights: [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]}]",
)  # fmt: skip
TALK = re.compile(r"(?:Phase I|Phase II|original|baseline) +(.+): (started|[A-Z]{4,})\b")
"""What a driver says of the start and the end of a trial: its label, and "started" or its state."""


@dataclass
class Disturbed:
    """A sweep under kills: what was committed before each start of its driver, and what each driver said."""

    command: list[str]
    storage: Path
    start: Start
    before: list[dict[str, int]] = field(default_factory=list)
    talks: list[Path] = field(default_factory=list)

    def begin(self) -> Process:
        """Start the driver."""
        self.before.append(committed(self.storage))
        talk = self.storage / f"talk-{len(self.talks)}.txt"
        self.talks.append(talk)
        return self.start("sh", "-c", f"exec {shlex.join(self.command)} 2>{shlex.quote(str(talk))}")

    def names(self) -> set[str]:
        """Return the names of all files of the run."""
        walk = os.walk(self.storage / "quickstart")
        return {f"{folder}/{name}" for folder, _, names in walk for name in names}

    def await_changes(self, count: int, driver: Process, nodes: Nodes) -> None:
        """Wait until files came or went so many times, or the driver ended."""
        known, seen = self.names(), 0

        def has_come() -> bool:
            nonlocal known, seen
            nodes.mend()
            now = self.names()
            known, seen = now, seen + len(known ^ now)
            return seen >= count or driver.poll() is not None

        wait_until(has_come)

    def repeated(self) -> list[str]:
        """Return labels of trials that started although the driver could know of their row."""
        labels = {
            f"part-{record.trial_id}-{record.attempt}": record.label
            for record in run_of(small_sweep(self.storage)).records
        }
        found = []
        for talk, before in zip(self.talks, self.before, strict=True):
            ended = {label for part, label in labels.items() if any(part in name for name in before)}
            assert len(ended) == len(before)
            for label, word in TALK.findall(talk.read_text()):
                if word != "started":
                    ended.add(label)
                elif label in ended:
                    found.append(label)
        return found

    def starts(self) -> int:
        """Return how many times a trial was started."""
        return sum(talk.read_text().count(": started") for talk in self.talks)


def kill(victim: str, driver: Process, nodes: Nodes, draw: random.Random) -> str | None:
    """Kill a victim; return what it was, None if there is none."""
    if victim == "driver":
        if driver.poll() is not None:
            return None
        driver.kill()
        driver.communicate(timeout=STALLED_AFTER)
        return victim
    if victim in ("node", "raylet"):
        for place in draw.sample(up := nodes.up(), len(up))[:1]:
            (nodes.replace if victim == "node" else nodes.lose_raylet)(place)
            return victim
        return None
    for pid in draw.sample(workers := nodes.workers(), len(workers))[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return victim
    return None


def disturb(sweep: Disturbed, nodes: Nodes, draw: random.Random, most: int) -> Counter[str]:
    """Run a sweep to its end under at most so many kills, and count them."""
    killed: Counter[str] = Counter()
    driver = sweep.begin()
    while driver.poll() is None:
        left = most - killed.total()
        sweep.await_changes(draw.randint(1, MOST_CHANGES) if left else sys.maxsize, driver, nodes)
        if driver.poll() is not None:
            break
        drawn = draw.choices(VICTIMS, k=min(draw.randint(1, AT_ONCE), left))
        killed.update(one for victim in drawn if (one := kill(victim, driver, nodes, draw)))
        if driver.poll() is not None:
            driver = sweep.begin()
    assert driver.returncode == 0, sweep.talks[-1].read_text()
    return killed


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whatever token this user's other clusters have
    with sessions() as begin:
        yield begin


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The rows of the sweep that nobody disturbed and that did without Ray."""
    config = small_sweep(tmp_path_factory.mktemp("undisturbed"), *MANY)
    assert run(config) == 0
    return rows_of(config)


@pytest.mark.nightly
@pytest.mark.parametrize("executor", ["tune", "pool"])
def test_whatever_is_killed_the_rows_are_the_same_and_no_committed_trial_runs_again(
    executor, start, undisturbed, tmp_path, capsys
):
    nodes, draw = Nodes(start), random.Random(f"{SEED} {executor}")
    killed, sweeps, starts = Counter(), 0, 0
    while killed.total() < KILLS // 2:
        storage = tmp_path / str(sweeps)
        storage.mkdir()
        overrides = (
            f"run.executor={executor}", f"run.address={nodes.address}", "run.max_failures=100000",
            "run.wait_for_resources=3600",
        )  # fmt: skip
        sweep = Disturbed(sweep_command(storage, *MANY, *overrides), storage, start)
        killed += disturb(sweep, nodes, draw, KILLS // 2 - killed.total())
        assert rows_of(small_sweep(storage)) == undisturbed
        after = committed(storage)
        assert all(after[name] == when for before in sweep.before for name, when in before.items())
        assert sweep.repeated() == []
        sweeps, starts = sweeps + 1, starts + sweep.starts()
        with capsys.disabled():
            sys.stdout.write(
                f"\n{executor}: {killed.total()} kills {dict(killed)} in {sweeps} sweeps, "
                f"{starts} starts for {sweeps * len(undisturbed)} rows, all compared"
            )
        shutil.rmtree(storage)
