"""What an executor adds to the time that trials take: (wall - ideal) / wall on two slots.

    uv run python benchmarks/overhead.py
    uv run python benchmarks/overhead.py --executor pool --seconds 300 --trials 4

Trials are real ones of seconds' fractions that wait until they have taken 3 or 30 seconds (padded_trials.py):
so a busy machine makes no trial longer. Ideal is number of trials / slots * seconds. Wall is taken from the
begin of the first trial to the end of the last: what comes before and after is told beside it, since it is
the same for two trials and for a thousand. All that lies between trials counts: commits, answers, planning,
and a process's start with its imports where each trial gets a fresh one.

Writes benchmarks/results/overhead.json, where rows of other cases stay, and a section of docs/benchmarks.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import machine_facts
from page_section import replace_section

ROOT = Path(__file__).parent.parent
COMMAND = "uv run python benchmarks/overhead.py"
SLOTS = 2
WAYS = {
    "tune": ("tune", True),
    "tune-fresh": ("tune", False),
    "pool": ("pool", True),
    "pool-fresh": ("pool", False),
    "local": ("local", True),
}
TRIALS = {3: 20, 30: 12, 300: 4}
FIXED = 3
"""Trials beside baselines and epsilons: two boundaries and the original."""
OVERRIDES = (
    "data.train_per_class=16", "data.heldout_per_class=4", "solver.steps=4", "solver.batch=4",
    "solver.checkpoint_every=4", "solver.path={steps: 24, scan: []}", "solver.bank.checkpoints=8",
    "controls=[]", "evaluate.audit=off", "objective.noise_images=16",
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One sweep: how trials run, how long each takes, and how many there are."""

    way: str
    seconds: int
    trials: int

    @property
    def slots(self) -> int:
        """How many trials run side by side."""
        return 1 if self.way == "local" else SLOTS

    @property
    def ideal(self) -> float:
        """The seconds of a sweep in which every slot solves trials all the time."""
        return self.trials / self.slots * self.seconds

    def command(self, storage: str) -> list[str]:
        """Return the command that runs the sweep."""
        executor, is_reused = WAYS[self.way]
        epsilons = (self.trials - FIXED + 1) // 2
        weights = [round(0.1 + 0.1 * n, 1) for n in range(self.trials - FIXED - epsilons)]
        overrides = (
            *OVERRIDES, f"epsilon={{schedule: grid, points: {epsilons}}}",
            f"baselines={[{'method': 'composite', 'weights': weights}] if weights else []}".replace("'", ""),
            f"run={{executor: {executor}, cpus_per_trial: 1, max_concurrent: {SLOTS}, storage: {storage}, "
            f"reuse_workers: {str(is_reused).lower()}}}",
        )  # fmt: skip
        options = [part for override in overrides for part in ("-o", override)]
        program = str(Path(__file__).with_name("padded_trials.py"))
        return [sys.executable, program, "sweep", str(ROOT / "sweeps" / "quickstart.yaml"), *options]


def measure(case: Case) -> Row:
    """Run a sweep and return what it took.

    Raises:
        RuntimeError: it failed, or its trials took longer than they should by themselves.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "trials.jsonl"
        padding = {"PADDED_SECONDS": str(case.seconds), "PADDED_LOG": str(log), "OMP_NUM_THREADS": "1"}
        begun = time.time()
        done = subprocess.run(
            case.command(folder), env={**os.environ, **padding}, capture_output=True, text=True
        )
        ended = time.time()
        if done.returncode:
            raise RuntimeError(f"{case}: {done.stderr[-3000:]}")
        trials = [json.loads(line) for line in log.read_text().splitlines()]
    if len(trials) != case.trials or max(trial["worked"] for trial in trials) > case.seconds:
        raise RuntimeError(
            f"{case}: expected {case.trials} trials that work less than they take, found {trials}"
        )
    first, last = min(one["begun"] for one in trials), max(one["ended"] for one in trials)
    wall = last - first
    return asdict(case) | {
        "slots": case.slots,
        "ideal": case.ideal,
        "wall": wall,
        "overhead": (wall - case.ideal) / wall,
        "between": between(trials, case.slots),
        "start_cpu": statistics.mean(min(spent) for spent in _spent(trials).values()),
        "before": first - begun,
        "after": ended - last,
    }


def _spent(trials: list[Row]) -> dict[int, list[float]]:
    """Return what each process had spent of the processor's time at the begin of its trials."""
    return {
        process: [trial["cpu"] for trial in trials if trial["process"] == process]
        for process in {trial["process"] for trial in trials}
    }


def between(trials: list[Row], slots: int) -> float:
    """Return the mean of the seconds for which a slot was free before its next trial began."""
    begins, ends = (sorted(trial[name] for trial in trials) for name in ("begun", "ended"))
    return statistics.mean(begun - ended for begun, ended in zip(begins[slots:], ends, strict=False))


def write(rows: list[Row], results: Path, page: Path) -> None:
    """Write the rows among those of other cases, and the section of a page from all."""
    path = results / "overhead.json"
    known = json.loads(path.read_text()) if path.is_file() else []
    new = {(row["way"], row["seconds"]) for row in rows}
    rows = [row for row in known if (row["way"], row["seconds"]) not in new] + rows
    rows.sort(key=lambda row: (list(WAYS).index(row["way"]), row["seconds"]))
    results.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    replace_section(page, "overhead", describe(rows))


def describe(rows: list[Row]) -> str:
    """Return the section."""
    table = "\n".join(
        f"| {row['way']} | {row['seconds']} s | {row['trials']} | {row['slots']} | {row['ideal']:.0f} s | "
        f"{row['wall']:.1f} s | {row['overhead']:.1%} | {row['between']:.2f} s | {_cpu(row)} | "
        f"{row['before']:.0f} s | {row['after']:.0f} s |"
        for row in rows
    )
    facts = rows[-1]
    return f"""## What an executor adds to the time of trials

Made by `{COMMAND}` on {facts["cpu"]}, {facts["cores"]} cores, {facts["date"]}, at a load of
{facts["load"]} by other work and with nice {facts["nice"]}. Trials are real ones that wait until they have
taken 3, 30 or 300 seconds. Ideal:
every slot solves trials all the time. Wall: from the begin of the first trial to the end of the last.
Overhead: (wall - ideal) / wall; the second slot's later start counts too. Between: the mean time for which
a slot is free before its next trial begins. Start: the processor's time that a process has spent when its
first trial begins. Before and after: of the whole command, start of Ray and report included. `fresh`: a
process of its own for each trial (`run.reuse_workers: false`).

| executor | a trial takes | trials | slots | ideal | wall | overhead | between | start | before | after |
|---|---|---|---|---|---|---|---|---|---|---|
{table}

What is left between trials of 3 s is the same with Tune and with the pool: loading and committing, by which
a trial begins and ends in both.
"""


def _cpu(row: Row) -> str:
    return f"{row['start_cpu']:.1f} s" if "start_cpu" in row else "-"


def main() -> None:
    """Measure the cases asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--executor", choices=WAYS, action="append", help="all unless given")
    parser.add_argument("--seconds", type=int, choices=TRIALS, action="append", help="3 and 30 unless given")
    parser.add_argument("--trials", type=int, help="an even number from 4 on; by the seconds unless given")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    facts = machine_facts() | {"load": round(os.getloadavg()[0]), "nice": os.nice(0)}
    for way in options.executor or WAYS:
        for seconds in options.seconds or (3, 30):
            row = measure(Case(way, seconds, options.trials or TRIALS[seconds])) | facts
            print({name: row[name] for name in ("way", "seconds", "wall", "overhead", "between")}, flush=True)
            write([row], options.results, options.page)


if __name__ == "__main__":
    main()
