"""What the page of a comparison shows: fronts of several runs in one unit, and where they differ.

Runs stand in one chart only if they solve one problem; then e and loss are the same quantities.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pareto_unlearn.analysis.attainment_difference import LEAST_SEEDS, attainment_difference
from pareto_unlearn.analysis.scores import LEVELS, Scores, median_scores, score
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.report.comparison import OTHER_PROBLEM, RunComparison, compare_runs, front_costs, seeds_of
from pareto_unlearn.report.solution import Split
from pareto_unlearn.store import StoredRun

COLOURS = ("var(--blue)", "var(--vermillion)", "var(--green)", "var(--purple)", "var(--orange)", "var(--sky)")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run in the charts: its fronts by seed as rows of (e, loss), and the medians of their scores."""

    title: str
    fronts: tuple[np.ndarray, ...]
    scores: Scores | None

    @property
    def is_measured(self) -> bool:
        """Whether every seed has a model with finite e and loss."""
        return bool(self.fronts) and all(np.any(np.all(np.isfinite(one), axis=1)) for one in self.fronts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitView:
    """All runs on the images of one split.

    ``differences`` has the rectangles of ``attainment_difference`` between the first run and each other,
    empty unless both have enough seeds; ``num_seeds`` is how many of each were compared.
    """

    split: Split
    runs: tuple[RunView, ...]
    differences: tuple[np.ndarray, ...]
    num_seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonView:
    """The whole page: the held-out images first, and the table of the comparison on them."""

    table: RunComparison
    splits: tuple[SplitView, ...]
    is_smoke: bool


def view_comparison(runs: Sequence[StoredRun]) -> ComparisonView:
    """Return what the page of a comparison shows.

    Raises:
        ConfigError: fewer than two runs, more than there are colours, or runs of unlike problems.
        StoreError: a run has lost its sweep.yaml.
    """
    if not 2 <= len(runs) <= len(COLOURS):
        raise ConfigError(f"--html: expected 2 to {len(COLOURS)} runs, found {len(runs)}")
    table = compare_runs(runs, Split.HELDOUT)
    for one in table.runs:
        unlike = [line for line in one.differences if line.startswith(OTHER_PROBLEM)]
        if unlike:
            raise ConfigError(
                "--html: expected runs of one model, task, objective and data, whose e and loss are the same "
                f"quantities; {one.title} differs from {table.runs[0].title} in {'; '.join(unlike)}; "
                "without --html they can stand in one table"
            )
    titles = [one.title for one in table.runs]
    return ComparisonView(
        table=table,
        splits=tuple(_view_split(runs, titles, split) for split in (Split.HELDOUT, Split.TRAIN)),
        is_smoke=any(run.info.smoke for run in runs),
    )


def _view_split(runs: Sequence[StoredRun], titles: Sequence[str], split: Split) -> SplitView:
    views = []
    for run, title in zip(runs, titles, strict=True):
        fronts = tuple(front_costs(run, seed, split) for seed in seeds_of(run))
        scores = median_scores([score(one) for one in fronts]) if fronts else None
        views.append(RunView(title=title, fronts=fronts, scores=scores))
    first, *others = views
    counts = [min(len(first.fronts), len(one.fronts)) for one in others]
    return SplitView(
        split=split,
        runs=tuple(views),
        differences=tuple(
            attainment_difference(first.fronts[:count], one.fronts[:count])
            if count >= LEAST_SEEDS and first.is_measured and one.is_measured
            else np.empty((0, 5))
            for one, count in zip(others, counts, strict=True)
        ),
        num_seeds=tuple(counts),
    )


def loss_differences(view: SplitView) -> list[tuple[str, list[float | None], list[float | None]]]:
    """Return (title, least loss at each of ``LEVELS``, difference from the first run's) for each run."""
    rows = []
    first = view.runs[0].scores
    for run in view.runs:
        losses, base = _losses(run.scores), _losses(first)
        apart = [
            None if own is None or known is None else own - known
            for own, known in zip(losses, base, strict=True)
        ]
        rows.append((run.title, losses, apart))
    return rows


def _losses(scores: Scores | None) -> list[float | None]:
    return [None] * len(LEVELS) if scores is None else list(scores.losses)
