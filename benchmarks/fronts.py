"""The front of every method at an equal budget of gradient pairs, on seven problems.

    uv run python benchmarks/fronts.py
    uv run python benchmarks/front_page.py benchmarks/results/fronts.parquet docs/benchmarks.md

Writes one row per delivered model and split, and a second file with ``_scores`` in its name: one row per run
and split. Every finished run is a file in the work folder, so a killed benchmark continues where it stopped;
the results merge all runs of the folder.

Every method, ours included, gets its learning rate from the same scan: a half, one and two times a base rate
(the squares of that for plain steps), on seed 1000, which is reported nowhere else; while the best lies at an
edge, the next one beyond is tried too, twice at most. The best has the largest sum of both areas on training
images.

The two colour problems need pictures and weights: ``front_problems/pictures.py`` says how to make them.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from front_methods import METHODS, Method, Task, deliver, solve_boundary
from front_problems import PROBLEMS, FrontProblem
from front_scores import SCAN_SEED, score_runs, worth
from machine import machine_facts

BUDGET, SEEDS, UNIT_STEPS = 1320, (0, 1, 2, 3, 4), 240
FACTORS, MAX_EXTENSIONS = (0.5, 1.0, 2.0), 2


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a method; ``factor`` multiplies the base learning rate."""

    problem: str
    method: str
    budget: int
    seed: int
    factor: float

    def path(self, work: Path) -> Path:
        """Return the file that holds the run."""
        name = f"{self.problem}--{self.method}--{self.budget}--{self.seed}--{self.factor:g}.parquet"
        return work / "parts" / name


def main() -> None:
    """Run what is missing and write the results."""
    options = _parse()
    torch.set_num_threads(1)
    for name in options.problems:
        problem = PROBLEMS[name](options.work)
        unit = frozen_unit(problem, options.work)
        for method in options.methods:
            if METHODS[method].kind in problem.kinds:
                run_method(problem, method, unit, options)
    write_results(options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--budget", type=int, default=BUDGET, help="gradient pairs a method and seed")
    parser.add_argument("--work", type=Path, default=Path("runs/fronts"), help="where finished runs are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fronts.parquet"))
    return parser.parse_args()


def frozen_unit(problem: FrontProblem, work: Path) -> float:
    """Return the FVU that weighs like all of e for methods that weigh losses: that of a highest boundary."""
    path = work / f"unit--{problem.name}.json"
    if not path.is_file():
        task = Task(problem, SCAN_SEED, UNIT_STEPS, problem.rate, unit=1.0)
        _, fvu = problem.measure(solve_boundary(task, UNIT_STEPS), "train")
        _replace(path, json.dumps(min(fvu, 1.0)).encode())
    return float(json.loads(path.read_text()))


def run_method(problem: FrontProblem, name: str, unit: float, options: argparse.Namespace) -> None:
    """Choose the learning rate of a method, then run all its seeds."""

    def run(seed: int, factor: float) -> pd.DataFrame:
        return run_job(Job(problem.name, name, options.budget, seed, factor), problem, unit, options.work)

    factor = scan_factors(lambda factor: train_worth(run(SCAN_SEED, factor)), METHODS[name].plain)
    for seed in options.seeds:
        run(seed, factor)


def scan_factors(measure: Callable[[float], float], plain: bool) -> float:
    """Return the best factor of the base learning rate; the scan goes on beyond an edge."""
    factors = [factor**2 if plain else factor for factor in FACTORS]
    found = {factor: measure(factor) for factor in factors}
    step = factors[1] / factors[0]
    for _ in range(MAX_EXTENSIONS):
        best = max(found, key=lambda factor: found[factor])
        beyond = best / step if best == min(found) else best * step
        if best not in (min(found), max(found)):
            break
        found[beyond] = measure(beyond)
    return max(found, key=lambda factor: found[factor])


def run_job(job: Job, problem: FrontProblem, unit: float, work: Path) -> pd.DataFrame:
    """Return the models of a run, running it first where it is missing."""
    path = job.path(work)
    if not path.is_file():
        models = pd.DataFrame(_solve(job, METHODS[job.method], problem, unit))
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_suffix(f".{os.getpid()}")
        models.to_parquet(staging, index=False)
        staging.replace(path)
        print(f"{path.stem}: {models.seconds[0]:.1f} s, worth {train_worth(models):.3f}", flush=True)
    return pd.read_parquet(path)


def _solve(job: Job, method: Method, problem: FrontProblem, unit: float) -> Iterator[dict[str, object]]:
    rate = job.factor * (problem.plain_rate if method.plain else problem.rate)
    started = time.perf_counter()
    task = Task(problem, job.seed, job.budget, rate, unit)
    pool = method.run(task)
    models, dialled = deliver(task, pool)
    common = {
        "problem": job.problem,
        "method": job.method,
        "budget": job.budget,
        "seed": job.seed,
        "rate": rate,
        "factor": job.factor,
        "pairs": pool.pairs,
        "measuring": (pool.measured + dialled) * problem.cost_of_measuring,
        "seconds": time.perf_counter() - started,
    }
    for split in problem.splits:
        for model in models:
            e, fvu = problem.measure(model.values, split)
            yield common | {"split": split, "e": e, "fvu": fvu, "target": model.target}


def train_worth(models: pd.DataFrame) -> float:
    """Return what the scan compares, on training images."""
    return worth(models[models.split == "train"])


def write_results(options: argparse.Namespace) -> None:
    """Merge all runs of the work folder and score those that are reported."""
    parts = [pd.read_parquet(path) for path in sorted((options.work / "parts").glob("*.parquet"))]
    models = pd.concat(parts, ignore_index=True)
    models = models[models.budget == options.budget]
    models.attrs = describe_machine(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    models.to_parquet(options.out, index=False)
    scores = score_runs(models[models.seed != SCAN_SEED])
    scores.attrs = models.attrs
    scores.to_parquet(options.out.with_name(f"{options.out.stem}_scores.parquet"), index=False)


def describe_machine(options: argparse.Namespace) -> dict[str, str | int]:
    """Return the facts for the header of the page; the command is shown without the folders."""
    command = "uv run python benchmarks/fronts.py"
    if options.budget != BUDGET:
        command += f" --budget {options.budget}"
    return {"command": command, "budget": options.budget, **machine_facts()}


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one piece: another process of the benchmark may look for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(f".{os.getpid()}")
    staging.write_bytes(content)
    staging.replace(path)


if __name__ == "__main__":
    main()
