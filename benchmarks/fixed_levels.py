"""Quality loss of finished runs at fixed levels of e, by the mean and by the worst class, on both splits.

    uv run pareto-unlearn sweep sweeps/quickstart.yaml -o 'seeds=[21, 22, 23, 24, 25]' -o 'baselines=[]'
    uv run python benchmarks/fixed_levels.py runs/quickstart

For every seed and level the run's models (its trials, its path's checkpoints and the original) are mixed so
that the mean, or the worst class, meets the level; a model that lies below the level with a smaller f2 counts
before the mixture. So runs are compared at equal forgetting, not at their own epsilons. Prints geometric
means over the seeds as a row of a Markdown table, and for every seed how closely its epsilons were met and
whether f2 rose anywhere.
"""

import argparse
import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from pareto_unlearn.analysis.scores import LEVELS
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT
from pareto_unlearn.config import parse_config
from pareto_unlearn.finished.dial import RunWeights, gather_knots
from pareto_unlearn.records import Role, TrialRecord
from pareto_unlearn.store import StoredRun, open_run
from pareto_unlearn.trial.measuring import measure_retain_loss
from pareto_unlearn.trial.mixing import Knot, Mixer

BOUNDED = {"mean": "mean", "worst class": "per_class"}


def main() -> None:
    """Print the rows and the checks of every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="finished runs with start path")
    parser.add_argument("--allow-import", action="store_true", help="run the file of a family from outside")
    options = parser.parse_args()
    levels = " | ".join(f"e {level:g}" for level in LEVELS)
    print(f"| run, dialled by | {levels} (held out / training, % of variance) |")
    print("|---" * (len(LEVELS) + 1) + "|")
    for path in options.runs:
        run = open_run(path)
        text = run.store.read_text("sweep.yaml")
        weights = RunWeights(parse_config(text, path, allow_import=options.allow_import, stored=True), run)
        seeds = [valid.seed for valid in run.info.ranges]
        for name, bounded in BOUNDED.items():
            print(_row(f"{path}, {name}", [_losses(weights, seed, bounded) for seed in seeds]))
        for seed in seeds:
            print(f"seed {seed}: {_describe(run, seed)}")


def _losses(weights: RunWeights, seed: int, bounded: str) -> list[tuple[float, float]]:
    """Return held-out and training quality loss at every level."""
    material, scales = weights.material, weights.material.scales
    mixer = Mixer(material, bounded)
    knots = [_measured(mixer, knot) for knot in gather_knots(weights, seed)]
    found = []
    for level in LEVELS:
        best = _least_loss(mixer, knots, scales.f1_at(level))
        if best is None:
            raise ValueError(f"{weights.run.path}: seed {seed} reaches no e of {level:g}")
        mixer.flat.load(best[1])
        heldout = measure_retain_loss(material, "heldout") / scales.variance_retain_heldout
        found.append((heldout, best[0] / scales.variance_retain))
    return found


def _least_loss(mixer: Mixer, knots: Sequence[Knot], level: float) -> tuple[float, Tensor] | None:
    """Return the smallest raw f2 of a mixture at a raw level and of the models below it, and its weights."""
    below = [(knot.f2, knot.load()) for knot in knots if knot.level <= level]
    mixture = mixer.best(knots, level)
    if mixture is not None:
        below.append((mixture.f2, mixture.values))
    return min(below, key=lambda one: one[0], default=None)


def _measured(mixer: Mixer, knot: Knot) -> Knot:
    """Return a knot with its exact level under what the mixer bounds."""
    values = knot.load()
    return Knot(knot.name, mixer.measure_level(values), knot.f2, lambda: values)


def _row(name: str, seeds: Sequence[Sequence[tuple[float, float]]]) -> str:
    cells = []
    for place in range(len(LEVELS)):
        heldout, train = (_geometric([100.0 * losses[place][side] for losses in seeds]) for side in (0, 1))
        cells.append(f"{heldout:.2f} / {train:.3f}")
    return f"| {name} | {' | '.join(cells)} |"


def _geometric(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _describe(run: StoredRun, seed: int) -> str:
    """Return how closely a seed's epsilons were met, and where f2 rose or a model came twice."""
    own = [record for record in run.records if record.seed == seed and record.method == EPSILON_CONSTRAINT]
    highest = next(record for record in own if record.role is Role.HIGHEST)
    epsilons = sorted((one for one in own if one.epsilon is not None), key=lambda one: one.epsilon or 0.0)
    losses = [record.f2 or math.nan for record in (highest, *epsilons)]
    rises = sum(late >= early for early, late in pairwise(losses))
    equal = len(epsilons) - len({record.checkpoint_sha256 for record in epsilons})
    dominating = [one.label for one in epsilons if _dominates(one, highest)]
    return (
        f"|f1 - epsilon| at most {max(map(_miss, epsilons)):.4f} of the range, f2 rises {rises} times, "
        f"{equal} models twice, highest {highest.state} at e {highest.e:.4f}, dominated by "
        f"{dominating or 'none'}"
    )


def _miss(record: TrialRecord) -> float:
    return abs((record.reached or math.nan) - (record.epsilon or math.nan)) / (record.range_width or math.nan)


def _dominates(one: TrialRecord, other: TrialRecord) -> bool:
    return (one.f1 or 0.0) <= (other.f1 or 0.0) and (one.f2 or 0.0) <= (other.f2 or 0.0)


if __name__ == "__main__":
    main()
