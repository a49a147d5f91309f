"""The dial against training at the same epsilon, other choices of its knots, and a soup of the two ends.

    uv run pareto-unlearn sweep sweeps/quickstart.yaml -o "baselines=[]" -o run.storage=runs
    uv run pareto-unlearn sweep sweeps/quickstart.yaml -o "baselines=[]" -o run.storage=runs \\
        -o seed=1 -o name=seed1
    uv run python benchmarks/dial.py runs/quickstart runs/seed1

Makes a model in every way at 20 random epsilons of the valid range of each run, and measures all of them
alike. The trained model holds its epsilon for some steps more. Writes
benchmarks/dial.md and the section "dial" of docs/benchmarks.md; the rows that the dial commits stay in the
run.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from page_section import replace_section

from pareto_unlearn.analysis.front import is_non_dominated, is_on_lower_hull
from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.finished.dial import RunWeights, dial, gather_knots
from pareto_unlearn.records import Phase, Role, TrialRecord, TrialSpec
from pareto_unlearn.store import StoredRun, open_run
from pareto_unlearn.trial import Hooks, Material, Trial, load_material, run_trial
from pareto_unlearn.trial.measuring import measure_completeness
from pareto_unlearn.trial.mixing import Knot, Mixer, Mixture, bracket

POINTS, SEED, HELD_STEPS = 20, 0, 200
ROOT = Path(__file__).parent.parent
TRAINED = "trained"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a model ends: mean and worst-class f1 above epsilon, in e; f2 over the outputs' variance."""

    error: float
    worst_class: float
    f2: float


@dataclass(frozen=True, slots=True)
class Case:
    """One epsilon of one run: each way's model at it, and each way's at the f1 of the trained model."""

    asked: dict[str, Outcome]
    equal_f1: dict[str, Outcome]


class Bench:
    """One run, opened for making models at any raw epsilon."""

    def __init__(self, path: str) -> None:
        self.run: StoredRun = open_run(path)
        self.valid, self.scales = self.run.info.ranges[0], self.run.info.scales
        text = self.run.store.read_text("sweep.yaml")
        self.config: SweepConfig = parse_config(text, "sweep.yaml")
        weights = RunWeights(self.config, self.run)
        every = gather_knots(weights, self.valid.seed)
        self._material = weights.material
        self._mixer = Mixer(self._material, self.config.solver.completeness)
        trials = [knot for knot in every if "@" not in knot.name]
        checkpoints = [knot for knot in every if "@" in knot.name]
        wanted = [record for record in self.run.records if record.phase is Phase.ORIGINAL]
        wanted += [record for record in self.run.records if record.role is Role.HIGHEST]
        ends = [knot for knot in trials if knot.name in {record.trial_id for record in wanted}]
        self.ways: dict[str, Callable[[float], Outcome]] = {
            "**dial**": self._dialled,
            "neighbouring trials alone": partial(self._mixed, trials, is_non_dominated),
            "edge of the hull alone": partial(self._mixed, every, is_on_lower_hull),
            "neighbours among non-dominated trials and checkpoints": partial(
                self._mixed, every, is_non_dominated
            ),
            "no Phase II: hull of checkpoints and original": partial(
                self._mixed, [*ends, *checkpoints], is_on_lower_hull
            ),
            "two-end soup": partial(self._mixed, ends, is_non_dominated),
        }

    def measure(self, fraction: float) -> Case:
        """Make all models of one epsilon."""
        epsilon = self.valid.epsilon_at(fraction)
        trained = self._train(epsilon, fraction)
        asked = {name: way(epsilon) for name, way in self.ways.items()}
        asked[TRAINED] = self._outcome(trained, epsilon)
        equal = {name: way(trained.f1) for name, way in self.ways.items()}
        return Case(asked, {**equal, TRAINED: self._outcome(trained, trained.f1)})

    def _load(self) -> Material:
        return load_material(self.config, self.run.store.cache_dir(), self.run.info.config_hash[:16])

    def _train(self, epsilon: float, fraction: float) -> TrialRecord:
        paths = [record for record in self.run.records if record.role is Role.HIGHEST]
        spec = TrialSpec(
            trial_id="0" * 16,
            phase=Phase.EPSILON,
            method="epsilon_constraint",
            seed=self.valid.seed,
            epsilon=epsilon,
            epsilon_fraction=fraction,
            range_width=self.valid.upper - self.valid.lower,
            parents=paths[0].trial_id if self.config.solver.start == "path" else None,
        )
        hooks = Hooks(read_bank=self.run.store.read_bank, read_bank_state=self.run.store.read_bank_state)
        return run_trial(Trial(self._held(), spec, self._load()), hooks, self.run.info.code_version).record

    def _held(self) -> SweepConfig:
        """Return the sweep whose epsilon trials hold their epsilon for some steps."""
        hold = self.config.solver.hold.model_copy(update={"steps": HELD_STEPS})
        solver = self.config.solver.model_copy(update={"hold": hold})
        return self.config.model_copy(update={"solver": solver})

    def _dialled(self, epsilon: float) -> Outcome:
        return self._outcome(dial(self.run.path, epsilon, absolute=True), epsilon)

    def _mixed(
        self, knots: Sequence[Knot], keep: Callable[[np.ndarray], np.ndarray], epsilon: float
    ) -> Outcome:
        pair = bracket(knots, epsilon, keep)
        mixture: Mixture | None = None if pair is None else self._mixer.mix(pair, epsilon)
        if mixture is None:
            raise ValueError(f"{self.run.path}: epsilon {epsilon:g} lies outside what the knots span")
        self._mixer.flat.load(mixture.values)
        found = measure_completeness(self._material, "train")
        e = self.scales.normalised_f1(epsilon)
        return Outcome(found.e - e, 1.0 - found.worst_class - e, mixture.f2 / self.scales.variance_retain)

    def _outcome(self, record: TrialRecord, epsilon: float) -> Outcome:
        e = self.scales.normalised_f1(epsilon)
        return Outcome(
            record.e - e, 1.0 - record.completeness_worst_class - e, record.f2 / self.scales.variance_retain
        )


def main() -> None:
    """Measure all ways at every epsilon of every run and write the page and the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="finished runs of one sweep file, of one seed each")
    options = parser.parse_args()
    cases: list[Case] = []
    for path in options.runs:
        bench = Bench(path)
        for fraction in np.sort(np.random.default_rng(SEED).uniform(0.02, 0.98, POINTS)):
            cases.append(bench.measure(float(fraction)))
            print(f"{path} fraction {fraction:.3f}: {cases[-1].asked}", file=sys.stderr)
    body = render(cases, HELD_STEPS, options.runs)
    (ROOT / "benchmarks" / "dial.md").write_text(f"# The dial\n\n{body}\n")
    replace_section(ROOT / "docs" / "benchmarks.md", "dial", f"## The dial\n\n{body}")


def render(cases: Sequence[Case], steps: int, runs: Sequence[str]) -> str:
    """Return the text and the table as Markdown."""
    names = " ".join(f"runs/{Path(run).name}" for run in runs)
    torch_version = torch.__version__.split("+")[0]
    intro = f"""`uv run python benchmarks/dial.py {names}`: {POINTS} epsilons drawn uniformly from the valid
range of each run (the quickstart, a seed each, without baselines), training split, torch {torch_version}.
Trained: epsilon held for {steps} steps from the mixture, as with `solver.hold.steps: {steps}`.

- Error: f1 - epsilon, with f1 the mean over the forget images, in units of f1's range. Worst class: the same
  for the class that is forgotten least, which is what epsilon bounds by default (`completeness: per_class`):
  every way meets epsilon with that class, and the mean of all images ends below it.
- f2 / trained f2: at the same epsilon, and at the same f1, for which the dial is set to the f1 of the trained
  model.
- The dial mixes two pairs of knots, the neighbouring trials and the ends of the edge of the hull of trials
  and checkpoints, and keeps the lower f2. Each row below the dial's uses one choice of knots throughout."""
    lines = [
        "| way | mean abs error | largest error | worst class, mean | f2 / trained f2, median | worst | at "
        "equal f1, median | worst | more steps |",
        "|---" * 9 + "|",
    ]
    lines += [_row(name, cases, steps) for name in cases[0].asked]
    return intro + "\n\n" + "\n".join(lines)


def _row(name: str, cases: Sequence[Case], steps: int) -> str:
    own = [case.asked[name] for case in cases]
    errors, classes = [outcome.error for outcome in own], [outcome.worst_class for outcome in own]
    asked = [case.asked[name].f2 / case.asked[TRAINED].f2 for case in cases]
    equal = [case.equal_f1[name].f2 / case.equal_f1[TRAINED].f2 for case in cases]
    return (
        f"| {name} | {statistics.fmean(map(abs, errors)):.4f} | {max(errors):+.4f} | "
        f"{statistics.fmean(classes):+.3f} | {statistics.median(asked):.2f} | {max(asked):.2f} | "
        f"{statistics.median(equal):.2f} | {max(equal):.2f} | {steps if name == TRAINED else 0} |"
    )


if __name__ == "__main__":
    main()
