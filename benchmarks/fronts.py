"""The front of every method at an equal budget of gradient pairs, on five problems.

    uv run python benchmarks/fronts.py
    uv run python benchmarks/front_page.py benchmarks/results/fronts.parquet docs/benchmarks.md

Writes one row per model and split, and a second file with ``_scores`` in its name: one row per run and split.
Every finished run is a file in the work folder, so a killed benchmark continues where it stopped; the results
merge all runs of the folder.

The box of a problem is frozen before any method runs: e in [0, 1], FVU from 0 to the FVU of a highest
boundary solved in 240 steps with seed 1000, and at most 1, the FVU of a constant output.

Every method, ours included, gets its learning rate from the same scan: the same factors (their squares for
plain steps) of a base rate, chosen by training hypervolume on seed 1000, which is reported nowhere else. The
larger and smaller budgets use the rate that was chosen at the full budget.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from front_methods import METHODS, Method, Task, solve_boundary
from front_problems import PROBLEMS, EllipsoidProblem, FrontProblem
from front_scores import SCAN_SEED, front_hypervolume, score_runs
from machine import machine_facts

BUDGET, SEEDS, BOX_STEPS = 1320, (0, 1, 2, 3, 4), 240
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)
EXTRA = (("path+dial", 0.25, 5), ("path+dial", 4.0, 1), ("independent", 4.0, 1))
"""Further rows: method, budget as a multiple of the full budget, number of seeds."""

Box = dict[str, float]
"""The largest FVU, by split."""


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
        box = frozen_box(problem, options.work)
        for method in options.methods:
            if METHODS[method].kind in problem.kinds:
                run_method(problem, method, box, options)
    write_results(options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--budget", type=int, default=BUDGET, help="gradient pairs a method and seed")
    parser.add_argument(
        "--factors", nargs="+", type=float, default=list(FACTORS), help="of the base learning rate"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/fronts"), help="where finished runs are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fronts.parquet"))
    return parser.parse_args()


def frozen_box(problem: FrontProblem, work: Path) -> Box:
    """Return the box of a problem: FVU of a highest boundary by split, solved once a work folder."""
    path = work / f"box--{problem.name}.json"
    if not path.is_file():
        task = Task(problem, SCAN_SEED, BOX_STEPS, problem.rate, fvu_max=1.0)
        values = solve_boundary(task, BOX_STEPS)
        _replace(
            path,
            json.dumps(
                {split: min(problem.measure(values, split)[1], 1.0) for split in problem.splits}
            ).encode(),
        )
    return json.loads(path.read_text())


def run_method(problem: FrontProblem, name: str, box: Box, options: argparse.Namespace) -> None:
    """Choose the learning rate of a method, then run all its seeds and further budgets."""
    budget, factors = options.budget, factors_of(name, options)
    scan = [
        run_job(Job(problem.name, name, budget, SCAN_SEED, factor), problem, box, options.work)
        for factor in factors
    ]
    factor = factors[int(np.argmax([_train_hypervolume(models) for models in scan]))]
    for seed in options.seeds:
        run_job(Job(problem.name, name, budget, seed, factor), problem, box, options.work)
    for method, multiple, seeds in EXTRA:
        for seed in options.seeds[:seeds] if method == name else ():
            run_job(
                Job(problem.name, name, round(multiple * budget), seed, factor), problem, box, options.work
            )


def factors_of(method: str, options: argparse.Namespace) -> list[float]:
    """Return the factors of the base learning rate that the scan of a method tries."""
    return [factor**2 if METHODS[method].plain else factor for factor in options.factors]


def run_job(job: Job, problem: FrontProblem, box: Box, work: Path) -> pd.DataFrame:
    """Return the models of a run, running it first where it is missing."""
    path = job.path(work)
    if not path.is_file():
        models = pd.DataFrame(_solve(job, METHODS[job.method], problem, box))
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_suffix(f".{os.getpid()}")
        models.to_parquet(staging, index=False)
        staging.replace(path)
        pairs, seconds, share = models.pairs[0], models.seconds[0], _train_hypervolume(models)
        print(
            f"{path.stem}: {seconds:.1f} s, {1e3 * seconds / pairs:.2f} ms a pair, hypervolume {share:.3f}",
            flush=True,
        )
    return pd.read_parquet(path)


def _solve(job: Job, method: Method, problem: FrontProblem, box: Box) -> Iterator[dict[str, object]]:
    rate = job.factor * (problem.plain_rate if method.plain else problem.rate)
    started = time.perf_counter()
    run = method.run(Task(problem, job.seed, job.budget, rate, box["train"]))
    common = {
        "problem": job.problem,
        "method": job.method,
        "budget": job.budget,
        "seed": job.seed,
        "rate": rate,
        "factor": job.factor,
        "pairs": run.pairs,
        "seconds": time.perf_counter() - started,
    }
    for split in problem.splits:
        for index, model in enumerate(run.models):
            e, fvu = problem.measure(model.values, split)
            own = {"model": index, "knob": model.knob, "target": model.target, "kept": model.kept}
            yield common | {"split": split, "fvu_max": box[split], "e": e, "fvu": fvu} | own


def _train_hypervolume(models: pd.DataFrame) -> float:
    rows = models[(models.split == "train") & models.kept]
    return front_hypervolume(rows[["e", "fvu"]].to_numpy(float), rows.fvu_max.iloc[0])


def write_results(options: argparse.Namespace) -> None:
    """Merge all runs of the work folder and score them."""
    parts = [pd.read_parquet(path) for path in sorted((options.work / "parts").glob("*.parquet"))]
    models = drop_other_rates(pd.concat(parts, ignore_index=True), options)
    models.attrs = describe_machine(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    models.to_parquet(options.out, index=False)
    scores = score_runs(models[models.seed != SCAN_SEED], exact_fronts(options.work), options.budget)
    scores.attrs = models.attrs
    scores.to_parquet(options.out.with_name(f"{options.out.stem}_scores.parquet"), index=False)


def drop_other_rates(models: pd.DataFrame, options: argparse.Namespace) -> pd.DataFrame:
    """Return the runs at the rates that the scan chose; a work folder may hold other scans and budgets."""
    budgets = {options.budget} | {round(multiple * options.budget) for _, multiple, _ in EXTRA}
    kept = []
    for (_, method), rows in models[models.budget.isin(budgets)].groupby(["problem", "method"], sort=False):
        of_scan = (rows.seed == SCAN_SEED) & (rows.budget == options.budget)
        scan = rows[of_scan & rows.factor.isin(factors_of(str(method), options))]
        if len(scan):
            shares = {factor: _train_hypervolume(runs) for factor, runs in scan.groupby("factor")}
            reported = (rows.seed != SCAN_SEED) & (rows.factor == max(shares, key=lambda key: shares[key]))
            kept += [scan, rows[reported]]
    return pd.concat(kept, ignore_index=True)


def exact_fronts(work: Path) -> dict[str, np.ndarray]:
    """Return the fronts that are known, in (e, FVU)."""
    problem = PROBLEMS["closed_form"](work)
    return {problem.name: np.array(problem.front())} if isinstance(problem, EllipsoidProblem) else {}


def describe_machine(options: argparse.Namespace) -> dict[str, str | int]:
    """Return the facts for the header of the page; the command is shown without the folders."""
    command = "uv run python benchmarks/fronts.py"
    if options.budget != BUDGET:
        command += f" --budget {options.budget}"
    if options.seeds != list(SEEDS):
        command += f" --seeds {' '.join(map(str, options.seeds))}"
    if options.factors != list(FACTORS):
        command += f" --factors {' '.join(f'{factor:g}' for factor in options.factors)}"
    return {
        "command": command,
        "budget": options.budget,
        "candidates": len(options.factors),
        **machine_facts(),
    }


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one piece: another process of the benchmark may look for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(f".{os.getpid()}")
    staging.write_bytes(content)
    staging.replace(path)


if __name__ == "__main__":
    main()
