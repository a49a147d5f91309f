"""The searcher alone, with Ray Tune and a folder of results, as a sweep of somebody else would use it."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from waiting import run_process

from pareto_unlearn.sweep.losses import Cause, explain_loss
from pareto_unlearn.sweep.ray_executor import set_environment
from pareto_unlearn.sweep.store_searcher import ExhaustedError, FailureCallback, StoreSearcher

ROOT = Path(__file__).parent.parent
POINTS = (1, 2, 3)


class Grid:
    """Squares of some numbers, one file each; a worker that dies is handed out again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.handed_out, self.errors = folder, [], []

    def next(self, live: Collection[str]) -> tuple[str, dict[str, Any]] | None:
        left = [str(x) for x in POINTS if not (self.folder / f"{x}.json").exists() and str(x) not in live]
        if not left and live:
            return None
        if not left or len(self.handed_out) > 2 * len(POINTS):
            raise ExhaustedError
        self.handed_out.append(left[0])
        return left[0], {"x": int(left[0]), "folder": str(self.folder)}

    def ended(self, key: str, result: Mapping[str, Any]) -> None:
        (self.folder / f"{key}.json").write_text(json.dumps({"square": result["square"]}))

    def failed(self, key: str, error: str) -> None:
        self.errors.append((key, explain_loss(error, None).cause))


def make_square() -> Callable[[dict[str, Any]], dict[str, int]]:
    """Return the trial as a function that travels whole: workers cannot import a module of tests."""

    def square(config: dict[str, Any]) -> dict[str, int]:
        died = Path(config["folder"]) / "died"
        if config["x"] == 2 and not died.exists():
            died.write_text("once")
            os._exit(1)
        return {"square": config["x"] ** 2}

    return square


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory) -> Iterator[None]:
    set_environment(local=True)
    # "local": a cluster that a killed process left on this machine is no concern of this test.
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def sweep(work: Grid, folder: Path) -> None:
    searcher = StoreSearcher(work)
    tune.Tuner(
        make_square(),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[FailureCallback(searcher)],
        ),
    ).fit()


@pytest.mark.nightly
def test_a_grid_goes_on_after_a_dead_worker_and_resumes_without_repeats(local_ray, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    work = Grid(results)
    sweep(work, tmp_path / "tune")
    assert {file.stem: json.loads(file.read_text())["square"] for file in results.glob("*.json")} == {
        "1": 1,
        "2": 4,
        "3": 9,
    }
    assert work.errors == [("2", Cause.PROCESS)]
    assert sorted(work.handed_out) == ["1", "2", "2", "3"]

    (results / "3.json").unlink()
    again = Grid(results)
    sweep(again, tmp_path / "again")
    assert again.handed_out == ["3"]
    assert not again.errors


def told_by(script: str, *arguments: object) -> str:
    """Run a script for users of Ray Tune and return what it printed."""
    command = [sys.executable, ROOT / "examples" / "ray_tune" / script, *arguments]
    done = run_process(command, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "local"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.nightly
def test_a_grid_with_more_points_runs_those_alone(tmp_path):
    assert told_by("resume_grid.py", tmp_path) == "0 results were there, 4 points ran\n"
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    assert told_by("resume_grid.py", tmp_path, 0.1, 0.2, 0.3) == "4 results were there, 2 points ran\n"
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.nightly
def test_results_of_a_finished_run_warm_start_the_next(tmp_path):
    told = [told_by("warm_start.py", tmp_path, trials) for trials in (6, 20)]
    assert [one.split(";")[0] for one in told] == [
        "0 results were there, 6 trials ran",
        "6 results were there, 14 trials ran",
    ]
    first, second = (float(one.split()[-1]) for one in told)
    seventh = json.loads((tmp_path / "0006.json").read_text())["config"]
    earlier = [json.loads((tmp_path / f"{n:04}.json").read_text()) for n in range(6)]
    best = min(earlier, key=lambda result: result["loss"])["config"]
    assert all(abs(seventh[name] - best[name]) <= 1 / 6 for name in best)
    assert second < first


@pytest.mark.nightly
def test_the_best_set_of_trials_is_the_answer(tmp_path):
    told = told_by("best_set.py", tmp_path, 10).splitlines()
    costs, errors = zip(*((float(line.split()[1]), float(line.split()[3])) for line in told[1:]), strict=True)
    assert list(costs) == sorted(set(costs))
    assert list(errors) == sorted(set(errors), reverse=True)
    assert not [cost for cost in costs if 0.4 < cost < 0.6]  # where others are better in both
    assert 2 < len(costs) < 10
