"""What it costs f2 to hold epsilon for every class, or for every image, instead of for their mean.

    uv run python benchmarks/completeness.py benchmarks/completeness.md --storage runs/completeness

Three sweeps of the quickstart, one for each `solver.completeness`, solve the same five epsilons. All else is
the default, so each sweep has a path of its own. A killed benchmark continues where it stopped. The ratio of
a mode is its f2 over the f2 of `mean` at the same epsilon.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.records import Phase, Scales, TrialRecord
from pareto_unlearn.store import open_run
from pareto_unlearn.sweep import SweepOptions, run_sweep
from pareto_unlearn.trial import load_material

MODES = ("mean", "per_class", "per_image")
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4)
"""Epsilons in e; all of them lie in the valid range of every mode."""
SWEEP = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"

Solved = dict[tuple[str, float], TrialRecord]
"""Records by mode and level."""


def main() -> None:
    """Solve what is missing and write the page."""
    options = _parse()
    scales = measure_scales()
    solved: Solved = {}
    for mode in MODES:
        config = make_config(mode, scales, options.storage)
        run_sweep(config, SweepOptions(), Console(stderr=True))
        records = open_run(f"{options.storage}/{config.name}").records
        epsilons = [record for record in records if record.phase is Phase.EPSILON]
        solved |= {
            (mode, level): record for level, record in zip(LEVELS, sorted_by_epsilon(epsilons), strict=True)
        }
    options.out.write_text(write_page(solved, make_config("mean", scales, options.storage)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--storage", default="runs/completeness", help="where the runs are kept")
    return parser.parse_args()


def measure_scales() -> Scales:
    """Return floor and original f1 of the quickstart, which turn a level into a raw epsilon."""
    with tempfile.TemporaryDirectory() as cache:
        return load_material(load_config(SWEEP), Path(cache), "completeness").targets.scales


def make_config(mode: str, scales: Scales, storage: str) -> SweepConfig:
    """Return the quickstart in one mode, without baselines, in this process."""
    values = [scales.f1_at(level) for level in LEVELS]
    return load_config(
        SWEEP,
        [
            f"name=completeness-{mode}",
            f"solver.completeness={mode}",
            f"epsilon={{schedule: list, absolute: true, values: {values}}}",
            "baselines=[]",
            "run.executor=local",
            f"run.storage={storage}",
        ],
    )


def sorted_by_epsilon(records: list[TrialRecord]) -> list[TrialRecord]:
    """Return epsilon trials, the most complete first."""
    return sorted(records, key=lambda record: record.epsilon or 0.0)


def write_page(solved: Solved, config: SweepConfig) -> str:
    """Return the page: how it was made, the price in one table, then every point on both splits."""
    solver = config.solver
    lines = [
        "# Epsilon for the mean, for every class, for every image",
        "",
        "`uv run python benchmarks/completeness.py benchmarks/completeness.md`: the quickstart, seed "
        f"{config.seed}, a path of {solver.path.steps} steps, torch "
        f"{torch.__version__.split('+')[0]}.",
        "",
        "Completeness of the mean image, of the worst class, and the one that 95 % of the images reach; "
        "the share of the images whose own e is",
        "above epsilon with its upper 95 % Clopper-Pearson bound; f2 as a share of the variance of the "
        "original's outputs, and as a ratio to",
        "that of `mean` at the same epsilon. Each mode has its own path. Completeness asked for is 1 - e.",
        "",
        "| mode | f2 ratio to `mean`, training: median | largest | held-out: median | largest |",
        "|---|---|---|---|---|",
        *(price_line(solved, mode) for mode in MODES[1:]),
    ]
    for split, title in (("", "Training images"), ("_heldout", "Held-out images")):
        lines += [
            "",
            f"## {title}",
            "",
            "| e | mode | mean | worst class | 95 % of images "
            "| share above epsilon (bound) | f2 | f2 ratio |",
            "|---|---|---|---|---|---|---|---|",
            *(point_line(solved, mode, level, split) for level in LEVELS for mode in MODES),
        ]
    return "\n".join(lines) + "\n"


def price_line(solved: Solved, mode: str) -> str:
    """Return the row of a mode: its f2 over that of `mean`, over all levels."""
    cells = []
    for split in ("", "_heldout"):
        ratios = [f2_ratio(solved, mode, level, split) for level in LEVELS]
        cells += [f"{statistics.median(ratios):.2f}", f"{max(ratios):.2f}"]
    return f"| {mode} | {' | '.join(cells)} |"


def point_line(solved: Solved, mode: str, level: float, split: str) -> str:
    """Return the row of one trial on one split."""
    record = solved[mode, level]
    mean, worst_class, images, share, bound = (
        getattr(record, name)
        for name in (
            f"completeness{split}",
            f"completeness_worst_class{split}",
            f"completeness_worst_5pct{split}",
            f"share_above_epsilon{split}",
            f"share_above_epsilon{split}_high",
        )
    )
    quality = getattr(record, f"retained_quality{split}")
    return (
        f"| {level:g} | {mode} | {mean:.1%} | {worst_class:.1%} | {images:.1%} | {share:.1%} ({bound:.1%}) | "
        f"{1.0 - quality:.4f} | {f2_ratio(solved, mode, level, split):.2f} |"
    )


def f2_ratio(solved: Solved, mode: str, level: float, split: str) -> float:
    """Return f2 of a mode over that of `mean` at the same epsilon."""
    ours, mean = (getattr(solved[name, level], f"f2{split}") for name in (mode, "mean"))
    return ours / mean


if __name__ == "__main__":
    main()
