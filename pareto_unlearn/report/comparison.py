"""A table of several runs: how their sweep files differ, and what each run reached.

Objectives are compared as e and as loss (f2 over the variance of the original's outputs on the retain set),
on training or on held-out images. These units let runs stand in one table whose raw f1 and f2 have different
scales.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from pareto_unlearn.analysis.front import hypervolume
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT
from pareto_unlearn.config import describe_difference, parse_config
from pareto_unlearn.config.yaml_source import read_document
from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.foreign_text import write_csv
from pareto_unlearn.records import HAS_MODEL, Phase, Role, TrialRecord, TrialState
from pareto_unlearn.report.paper_table import Cell, average, run_titles
from pareto_unlearn.report.solution import Split
from pareto_unlearn.report.table_text import markdown, markdown_table, plain_table
from pareto_unlearn.report.views import finite
from pareto_unlearn.report.words import NONE
from pareto_unlearn.store import StoredRun

FRACTIONS = (0.25, 0.5, 0.75)
"""Places in the valid range of epsilon at which runs are compared."""
_NEAR = 0.005
"""Largest distance of a trial's own fraction from such a place."""
OTHER_PROBLEM = ("data.", "model.", "objective.", "seed:", "task.")
"""How a line on a difference starts that makes e and loss other quantities."""
_NO_SETTING = ("name", "run", "smoke")


class ComparisonFormat(StrEnum):
    """How a comparison is written."""

    TEXT = "text"
    MARKDOWN = "md"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Completeness and loss (ratios) over the seeds' trials of one name; None if no seed has a value."""

    name: str
    completeness: Cell | None
    loss: Cell | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One run in the table.

    ``differences`` are the settings that differ from the first run's, ``endings`` the numbers of trials by
    state. Hypervolume, gradient pairs and what measuring cost, in the same unit, are averaged over seeds;
    None where a run does not know the last.
    """

    title: str
    differences: tuple[str, ...]
    hypervolume: Cell | None
    gradient_pairs: Cell | None
    measuring_pairs: Cell | None
    reached: tuple[Reached, ...]
    endings: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """All runs, with notes on how to read the table.

    ``reference`` is (e, loss), the worst corner of the box in which every run's hypervolume is measured.
    ``split`` names the images on which everything was measured.
    """

    runs: tuple[ComparedRun, ...]
    split: Split
    reference: tuple[float, float] | None
    notes: tuple[str, ...]


def compare_runs(runs: Sequence[StoredRun], split: Split = Split.TRAIN) -> RunComparison:
    """Return the comparison of runs; differences in settings are those from the first run.

    Args:
        runs: one or more stored runs.
        split: the images on which e and loss were measured.

    Raises:
        StoreError: a run has lost its sweep.yaml, so its differences are unknown.
    """
    settings = _settings(runs)
    reference = _reference(runs, split)
    compared = tuple(
        ComparedRun(
            title=title,
            differences=tuple(describe_difference(settings[0], own)),
            hypervolume=None if reference is None else _over_seeds(run, reference, split),
            gradient_pairs=_mean([run.gradient_pairs(seed=seed) for seed in seeds_of(run)]),
            measuring_pairs=_mean([run.measuring_pairs(seed=seed) for seed in seeds_of(run)]),
            reached=_reached(run, split),
            endings=_endings(run),
        )
        for title, run, own in zip(run_titles(runs), runs, settings, strict=True)
    )
    notes = _notes(compared, runs, reference, split)
    return RunComparison(runs=compared, split=split, reference=reference, notes=notes)


def _settings(runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """Return the sweep files without the keys ``name``, ``run`` and ``smoke``.

    Each key that an older release did not know has its default. Where one of the files cannot be checked any
    more, or names a family that is a file, all are taken as they are written.
    """
    texts = [(f"{run.path}/sweep.yaml", _sweep_file(run)) for run in runs]
    try:
        found = [parse_config(text, name, stored=True).model_dump(mode="json") for name, text in texts]
    except ConfigError:
        found = [dict(read_document(text, name).data) for name, text in texts]
    return [{key: value for key, value in one.items() if key not in _NO_SETTING} for one in found]


def _sweep_file(run: StoredRun) -> str:
    try:
        return run.store.read_text("sweep.yaml")
    except StoreError as error:
        name = f"{run.path}/sweep.yaml"
        raise StoreError(f"{name} is missing, so nobody can say how this run differs: {error}") from error


def seeds_of(run: StoredRun) -> list[int]:
    """Return the seeds that a run solved."""
    return sorted({record.seed for record in run.records if record.phase in (Phase.BOUNDARY, Phase.EPSILON)})


def _mean(values: Sequence[float | None]) -> Cell | None:
    known = [value for value in values if value is not None]
    return average(known) if known and len(known) == len(values) else None


def _reference(runs: Sequence[StoredRun], split: Split) -> tuple[float, float] | None:
    """Return (e, loss) of a reference point below which every front fits; None without any loss.

    e is 1, the original's. The loss is the largest of the runs' own reference points, which are measured on
    training images; on held-out images it is the largest loss of any model of a front.
    """
    if split is Split.HELDOUT:
        worst = [
            cost for run in runs for seed in seeds_of(run) for cost in front_costs(run, seed, split)[:, 1]
        ]
        found = [loss for loss in worst if np.isfinite(loss)]
        return (1.0, float(max(found))) if found else None
    losses = [
        run.info.reference_point[1] / run.info.scales.variance_retain
        for run in runs
        if run.info.reference_point is not None and run.info.scales is not None
    ]
    return (1.0, max(losses)) if losses else None


def _over_seeds(run: StoredRun, reference: tuple[float, float], split: Split) -> Cell | None:
    volumes = [hypervolume(front_costs(run, seed, split), (0.0, 0.0), reference) for seed in seeds_of(run)]
    return average(volumes) if volumes else None


def front_costs(run: StoredRun, seed: int, split: Split) -> np.ndarray:
    """Return (e, loss) of every model of a seed's front: float64, shape (n, 2), NaN where not measured."""
    rows = [
        record
        for record in run.records
        if record.state in HAS_MODEL
        and record.method == EPSILON_CONSTRAINT
        and record.phase in (Phase.BOUNDARY, Phase.EPSILON)
        and record.seed == seed
    ]
    costs = [[_or_nan(_e(record, split)), _or_nan(_loss(record, split))] for record in rows]
    return np.array(costs, dtype=np.float64).reshape(-1, 2)


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _e(record: TrialRecord, split: Split) -> float | None:
    return record.e if split is Split.TRAIN else record.e_heldout


def _completeness(record: TrialRecord, split: Split) -> float | None:
    return record.completeness if split is Split.TRAIN else record.completeness_heldout


def _loss(record: TrialRecord, split: Split) -> float | None:
    quality = record.retained_quality if split is Split.TRAIN else record.retained_quality_heldout
    return None if quality is None else 1.0 - quality


def _reached(run: StoredRun, split: Split) -> tuple[Reached, ...]:
    models = [
        record for record in run.records if record.state in HAS_MODEL and record.method == EPSILON_CONSTRAINT
    ]
    highest = [one for one in models if one.role is Role.HIGHEST and one.phase is Phase.BOUNDARY]
    points = [_point("highest", highest, split)]
    for fraction in FRACTIONS:
        near = [
            one
            for one in models
            if one.phase is Phase.EPSILON and abs((one.epsilon_fraction or 0.0) - fraction) <= _NEAR
        ]
        points.append(_point(f"epsilon {fraction:.0%}", near, split))
    return tuple(points)


def _point(name: str, records: Sequence[TrialRecord], split: Split) -> Reached:
    completeness = [value for one in records if (value := finite(_completeness(one, split))) is not None]
    losses = [value for one in records if (value := finite(_loss(one, split))) is not None]
    return Reached(
        name=name,
        completeness=average(completeness) if completeness else None,
        loss=average(losses) if losses else None,
    )


def _endings(run: StoredRun) -> str:
    """Return the numbers of trials by state, in words; a run that was stopped early has fewer trials."""
    counts = Counter(record.state for record in run.records)
    return ", ".join(f"{counts[state]} {state}" for state in TrialState if counts[state])


def _notes(
    compared: Sequence[ComparedRun],
    runs: Sequence[StoredRun],
    reference: tuple[float, float] | None,
    split: Split,
) -> tuple[str, ...]:
    notes = [
        "complete: mean completeness; loss: f2 / variance of the original's outputs on the retain set; "
        f"both on {split.words}, means over seeds with their sample standard deviation."
    ]
    if reference is not None:
        notes.append(
            f"Hypervolume: share of the box from e 0, loss 0 to e {reference[0]:g}, loss "
            f"{reference[1]:.4g}, the same for all runs; compare it at equal gradient pairs only, with "
            "measuring, which has the same unit."
        )
    if any(line.startswith(OTHER_PROBLEM) for one in compared for line in one.differences):
        notes.append(
            "Some runs differ in model, data, task or objective: they solve other problems, whose e and "
            "loss are other quantities."
        )
    if any(run.info.smoke for run in runs):
        notes.append("SMOKE runs are among them: no number of theirs says anything about a model.")
    return tuple(notes)


def write_comparison(comparison: RunComparison, form: ComparisonFormat) -> str:
    """Return the table as text for a terminal, Markdown or CSV; CSV leaves out the notes below the table."""
    if form is ComparisonFormat.CSV:
        return _csv(comparison)
    head, rows = _cells(comparison)
    if form is ComparisonFormat.MARKDOWN:
        table = markdown_table(
            [markdown(cell) for cell in head], [[markdown(cell) for cell in row] for row in rows]
        )
        return f"{table}\n{markdown(' '.join(comparison.notes))}\n"
    notes = "".join(f"{note}\n" for note in comparison.notes)
    return f"{plain_table(head, rows)}\n{notes}"


def _cells(comparison: RunComparison) -> tuple[list[str], list[list[str]]]:
    names = [point.name for point in comparison.runs[0].reached]
    points = [part for name in names for part in (f"{name}: complete", "loss")]
    head = ["run", "hypervolume", "pairs", "measuring", *points, "trials", "differs from the first in"]
    rows = [
        [
            run.title,
            _shown(run.hypervolume, ".4f"),
            _shown(run.gradient_pairs, ",.0f"),
            _shown(run.measuring_pairs, ",.0f"),
            *(
                part
                for point in run.reached
                for part in (_shown(point.completeness, ".1%"), _shown(point.loss, ".2%"))
            ),
            run.endings or NONE,
            "; ".join(run.differences) or NONE,
        ]
        for run in comparison.runs
    ]
    return head, rows


def _shown(cell: Cell | None, form: str) -> str:
    if cell is None:
        return NONE
    # A spread of zero is left out: as a rule, every seed takes the same number of gradient pairs.
    return f"{cell.mean:{form}}" + (f" ± {cell.spread:{form}}" if cell.spread else "")


def _csv(comparison: RunComparison) -> str:
    names = ["hypervolume", "gradient_pairs", "measuring_pairs"]
    for point in comparison.runs[0].reached:
        names += [f"{point.name} completeness", f"{point.name} loss"]
    head = ["run", *(part for name in names for part in (name, f"{name} std")), "trials", "differences"]
    rows = []
    for run in comparison.runs:
        cells = [run.hypervolume, run.gradient_pairs, run.measuring_pairs]
        cells += [cell for point in run.reached for cell in (point.completeness, point.loss)]
        numbers = [part for cell in cells for part in _csv_parts(cell)]
        rows.append([run.title, *numbers, run.endings, "; ".join(run.differences)])
    return write_csv([head, *rows])


def _csv_parts(cell: Cell | None) -> tuple[str, str]:
    if cell is None:
        return "", ""
    return repr(cell.mean), "" if cell.spread is None else repr(cell.spread)
