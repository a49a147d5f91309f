"""The searcher alone, with Ray Tune and a folder of results, as a sweep of somebody else would use it."""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune

from pareto_unlearn.sweep.losses import Cause, explain_loss
from pareto_unlearn.sweep.ray_executor import set_environment
from pareto_unlearn.sweep.store_searcher import ExhaustedError, FailureCallback, StoreSearcher

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
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
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


@pytest.mark.slow
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
