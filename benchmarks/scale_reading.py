"""Seconds and memory of reading a large run, each verb in a process of its own.

`uv run python benchmarks/scale_reading.py runs/scale/scale` prints the lines of a Markdown table.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from pareto_unlearn.catalogue.methods import ORIGINAL
from pareto_unlearn.config import SweepConfig, parse_config, trial_id
from pareto_unlearn.records import BankEntry, Phase, TrialRecord, TrialSpec
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import Answer, Assignment

IMPORTS = "import pareto_unlearn, pandas, pyarrow.parquet, moocore; from pareto_unlearn import load_run"
VERB = "import sys; sys.argv = ['pareto-unlearn', '{}', PATH]; from pareto_unlearn.cli import main; main()"
READINGS = {
    "imports alone": IMPORTS,
    "`load_run`": f"{IMPORTS}; load_run(PATH)",
    "`load_run` and `.trials`": f"{IMPORTS}; load_run(PATH).trials",
    "imports of the command line": "import pareto_unlearn.cli, pareto_unlearn.sweep.summary, "
    "pareto_unlearn.sweep.status, pareto_unlearn.store",
    "`ls`": VERB.format("ls"),
    "`ls` of its folder": f"from pathlib import Path; PATH = str(Path(PATH).parent); {VERB.format('ls')}",
    "`status`": VERB.format("status"),
}
REPORT = VERB.format("report")
COMPACTION = "from pareto_unlearn.store import RunStore; print(RunStore.open(PATH).packs.compact())"
REPAIR = VERB.format("store', 'repair")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took."""

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


def measure(code: str, path: str) -> Cost:
    """Return what a process of its own takes to run some code, in which PATH is the run.

    Raises:
        RuntimeError: the process failed.
    """
    script = (
        f"import atexit, resource, sys\nPATH = {path!r}\n"
        "def tell():\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr)\n"
        f"atexit.register(tell)\n{code}\n"
    )
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wall = time.perf_counter() - started
    if ended.returncode:
        raise RuntimeError(f"{code}: {ended.stderr}")
    cpu, peak = ended.stderr.split()[-2:]
    return Cost(float(cpu), wall, float(peak))


class _Renamed(RunStore):
    """A store that gives its trials the ids of a sweep with other weights, and keeps the last ones back."""

    left = 0

    def records(self) -> dict[str, TrialRecord]:
        """Return the rows by their new ids."""
        found = list(super().records().values())
        ends = [row for row in found if row.epsilon is None]
        grid = sorted(
            (row for row in found if row.epsilon is not None), key=lambda row: (row.seed, row.epsilon)
        )
        kept = [*ends, *grid[: len(grid) - self.left]]
        config = parse_config(self.read_text("sweep.yaml"), "sweep.yaml", stored=True)
        ids = [_id_of(config, row.spec) for row in kept]
        return {name: replace(row, trial_id=name) for name, row in zip(ids, kept, strict=True)}

    def read_bank(self, trial_id: str) -> tuple[BankEntry, ...]:  # noqa: ARG002 (no trial has any)
        """Return no checkpoints: no trial has any here."""
        return ()


def _id_of(config: SweepConfig, spec: TrialSpec) -> str:
    planned = {name: getattr(spec, name) for name in ("phase", "method", "role", "epsilon", "weight", "seed")}
    return trial_id(config, weights_sha256="0" * 64, **planned)


def measure_planning(path: str, events: int = 20) -> tuple[float, float]:
    """Return the seconds of opening a planner, and of an event: an answer is taken, the next trial planned.

    All but the last trials have ended, which is where planning from the start of the list takes longest.
    """
    store = _Renamed.open(path)
    store.left = events
    config = parse_config(store.read_text("sweep.yaml"), "sweep.yaml", stored=True)
    some = next(row for row in store.records().values() if row.epsilon is not None)
    spec = TrialSpec(trial_id="", phase=Phase.ORIGINAL, method=ORIGINAL, seed=0)
    template = Assignment(run_path=path, config_text="", targets_key="", code_version="", spec=spec)
    started = time.process_time()
    planner = Planner(config, store, "0" * 64, template)
    first = planner.next_trial(())
    opened = time.process_time() - started
    started = time.process_time()
    for _ in range(events):
        if isinstance(first, NoTrial):
            raise RuntimeError(f"expected {events} trials to be left, found fewer")
        row = replace(some, **{name: getattr(first.spec, name) for name in ("trial_id", "seed", "epsilon")})
        planner.take(first.spec, Answer(record=row))
        first = planner.next_trial(())
    return opened, (time.process_time() - started) / events


def measure_packing(path: str) -> dict[str, Cost]:
    """Return what packing the small files of a run takes, alone and by the verb, each on a copy."""
    costs = {}
    for name, code in {"packing all small files": COMPACTION, "`store repair`": REPAIR}.items():
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
            copy = shutil.copytree(path, Path(folder) / "run")
            costs[name] = measure(code, str(copy))
    return costs


def _line(name: str, cost: Cost) -> str:
    return f"| {name} | {cost.cpu_seconds:.2f} | {cost.wall_seconds:.2f} | {cost.peak_mb:.0f} |"


def main() -> None:
    """Print the lines of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--report", action="store_true", help="make the report too")
    parser.add_argument("--packing", action="store_true", help="pack copies of the run, and nothing else")
    given = parser.parse_args()
    if given.packing:
        print("\n".join(_line(*found) for found in measure_packing(given.run).items()))
        return
    for name, code in (READINGS | ({"`report`": REPORT} if given.report else {})).items():
        print(_line(name, measure(code, given.run)), flush=True)
    opened, event = measure_planning(given.run)
    print(f"| planner: opened, first trial planned | {opened:.2f} | | |")
    print(f"| planner: an answer and the next trial | {event:.5f} | | |")


if __name__ == "__main__":
    main()
