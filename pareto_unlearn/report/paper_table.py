"""The tables of the two papers, gathered from stored runs: models in rows, metrics by set in columns.

``table_text`` writes them as Markdown, LaTeX or CSV. Metrics keep their stored names: a value of the builtin
protocol never stands under FID, IS or CLIP.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import cast

from pareto_unlearn.catalogue.methods import BASELINES, METHODS, MethodKind
from pareto_unlearn.catalogue.metrics import METRICS, PROTOCOLS, PaperColumn
from pareto_unlearn.foreign_text import without_secrets
from pareto_unlearn.records import HAS_MODEL, Phase, Role, TrialRecord, TrialState
from pareto_unlearn.report.solution import Split
from pareto_unlearn.report.views import Row, finite, group, whole_set_rows
from pareto_unlearn.store import StoredRun


class Layout(StrEnum):
    """The paper whose columns the table has.

    ``paper1`` is arXiv:2402.00351 (FID, IS, CLIP; retain first), ``paper2`` is arXiv:2408.01689 (IS, FID,
    CLIP; forget first).
    """

    PAPER1 = "paper1"
    PAPER2 = "paper2"


_COLUMNS = {
    Layout.PAPER1: (PaperColumn.FRECHET, PaperColumn.INCEPTION, PaperColumn.LIKENESS),
    Layout.PAPER2: (PaperColumn.INCEPTION, PaperColumn.FRECHET, PaperColumn.LIKENESS),
}
_SETS = {Layout.PAPER1: ("retain", "forget"), Layout.PAPER2: ("forget", "retain")}
_BASELINES = [name for name, row in BASELINES.items() if row.kind is MethodKind.PUBLISHED]
"""The baselines of the papers, in the papers' order; other baselines follow by name."""
_ORIGINAL, _CONTROL, _BASELINE, _HIGHEST, _EPSILON, _LOWEST = range(6)
_NO_RIVALS = (_ORIGINAL, _CONTROL)
_PARTS = {
    Phase.ORIGINAL: _ORIGINAL,
    Phase.CONTROL: _CONTROL,
    Phase.BOUNDARY: _HIGHEST,
    Phase.EPSILON: _EPSILON,
}
_LEFT_OUT = (Phase.CHECK, Phase.HARDENED)
_RANKS = 2
_DECIMALS = 2
"""Decimals of a metric that the catalogue does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One metric of one run on one set; ``rises`` is True if more is better, None if that is unknown."""

    run: str
    metric: str
    protocol: str
    split: str
    set: str
    rises: bool | None

    @property
    def arrow(self) -> str:
        """An arrow in the better direction; empty if that is unknown."""
        return {True: "↑", False: "↓", None: ""}[self.rises]

    @property
    def decimals(self) -> int:
        """Digits after the point."""
        row = METRICS.get(self.metric)
        return _DECIMALS if row is None else row.decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Mean over seeds, and sample standard deviation (None for one seed).

    ``rank`` is 1 for the best value of a column, 2 for the second, 0 for others.
    """

    mean: float
    spread: float | None
    seeds: int
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """A table; each row is a label and, for every column, a cell or None."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


Value = tuple[TrialRecord, Row]
"""A trial and one of its rows of ``metrics``."""
_RowKey = tuple[int, int, str, float, float, str]


def gather_table(runs: Sequence[StoredRun], layout: Layout) -> PaperTable:
    """Return the table of a paper; several runs stand side by side.

    Its rows are original, controls, baselines, highest boundary, epsilons, lowest boundary: all trials with a
    model, except checks. Values are of held-out images if these were measured.
    """
    values = [(title, _values(run)) for title, run in zip(run_titles(runs), runs, strict=True)]
    columns, cells = [], []
    for title, found in values:
        for column in _columns(title, found, layout):
            columns.append(column)
            cells.append(_ranked(column, _cells(column, found)))
    keys = sorted({_row_key(record) for _, found in values for record, _ in found})
    return PaperTable(
        caption=_caption(runs, columns),
        columns=tuple(columns),
        rows=tuple((key[-1], tuple(column.get(key) for column in cells)) for key in keys),
    )


def run_titles(runs: Sequence[StoredRun]) -> list[str]:
    """Return the names of runs, or if two have the same name their paths from the folder that holds all."""
    names = [run.info.name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [without_secrets(run.path).split("/") for run in runs]
    shared = next((place for place, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), -1)
    return ["/".join(path[shared:]) for path in paths]


def _values(run: StoredRun) -> list[Value]:
    trials = {
        (record.trial_id, record.attempt): record
        for record in run.records
        if record.state in HAS_MODEL and record.phase not in _LEFT_OUT
    }
    rows = whole_set_rows(cast("list[Row]", run.metrics.to_dict("records")))
    placed = [(trials.get((row["trial_id"], row["attempt"])), row) for row in rows]
    return [
        (record, row) for record, row in placed if record is not None and finite(row["value"]) is not None
    ]


def _columns(title: str, values: Sequence[Value], layout: Layout) -> list[Column]:
    found = sorted({(row["metric"], row["protocol"], row["split"]) for _, row in values})
    wanted = [one for column in _COLUMNS[layout] for one in found if _column_of(one[0]) is column] or found
    return [
        Column(run=title, metric=metric, protocol=protocol, split=split, set=name, rises=_rises(metric, name))
        for metric, protocol, split in wanted
        for name in _SETS[layout]
    ]


def _column_of(metric: str) -> PaperColumn | None:
    row = METRICS.get(metric)
    return None if row is None else row.column


def _rises(metric: str, name: str) -> bool | None:
    """Return whether more is better: pictures of the retain set should be good, of the forget set bad."""
    row = METRICS.get(metric)
    return None if row is None else row.is_error == (name == "forget")


def _row_key(record: TrialRecord) -> _RowKey:
    """Return the key that sorts and identifies rows; its last part is the label, which all seeds share."""
    part = _PARTS.get(record.phase, _BASELINE)
    if record.role is Role.LOWEST:
        part = _LOWEST
    if record.method in METHODS and METHODS[record.method].kind is MethodKind.CONTROL:
        part = _CONTROL
    method = record.method if part == _BASELINE else ""
    place = _BASELINES.index(method) if method in _BASELINES else len(_BASELINES)
    weight, fraction = record.weight or 0.0, record.epsilon_fraction or 0.0
    return part, place, method, weight, fraction, record.label.replace("_", " ")


def _cells(column: Column, values: Sequence[Value]) -> dict[_RowKey, Cell]:
    identity = (column.metric, column.protocol, column.split, column.set)
    members = [
        (_row_key(record), float(row["value"]))
        for record, row in values
        if (row["metric"], row["protocol"], row["split"], row["set"]) == identity
    ]
    return {
        key: _cell(key, [value for _, value in found])
        for key, found in group(members, lambda one: one[0]).items()
    }


def average(values: Sequence[float]) -> Cell:
    """Return mean and sample standard deviation over seeds; the deviation is None for a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Cell(mean=statistics.fmean(values), spread=spread, seeds=len(values))


def _cell(key: _RowKey, values: Sequence[float]) -> Cell:
    cell = average(values)
    # The original is one model, whatever the seed of its row.
    return replace(cell, spread=None) if key[0] == _ORIGINAL else cell


def _ranked(column: Column, cells: dict[_RowKey, Cell]) -> dict[_RowKey, Cell]:
    """Return the cells of a column with ranks for best and second.

    Values that are equal as shown share a rank. The original and controls get none.
    """
    if column.rises is None:
        return cells
    shown = {
        key: round(cell.mean, column.decimals) for key, cell in cells.items() if key[0] not in _NO_RIVALS
    }
    ranks = {value: rank for rank, value in enumerate(sorted(set(shown.values()), reverse=column.rises), 1)}
    marked = {key: ranks[value] for key, value in shown.items() if ranks[value] <= _RANKS}
    return {key: replace(cell, rank=marked.get(key, 0)) for key, cell in cells.items()}


def _caption(runs: Sequence[StoredRun], columns: Sequence[Column]) -> str:
    """Return the caption: runs, images, protocols, meaning of signs, seeds, broken constraints."""
    parts = [f"Runs: {', '.join(run_titles(runs))}." if len(runs) > 1 else f"Run {run_titles(runs)[0]}."]
    if any(run.info.smoke for run in runs):
        parts.append("SMOKE run: no number says anything about a model.")
    splits = dict.fromkeys(Split(column.split).words for column in columns)
    protocols = dict.fromkeys(column.protocol for column in columns)
    parts.append(f"Measured on {' and '.join(splits)}." if splits else "No metric is stored.")
    parts += [
        f"Protocol {name}: {PROTOCOLS[name].note}." if name in PROTOCOLS else f"Protocol {name}."
        for name in protocols
    ]
    parts.append(
        "F is the forget set, R the retain set; arrows show what is better. Best in bold, second "
        "underlined, the original and controls left aside."
    )
    seeds = {record.seed for run in runs for record in run.records if record.phase is not Phase.ORIGINAL}
    if len(seeds) > 1:
        parts.append(f"Mean over up to {len(seeds)} seeds and sample standard deviation.")
    return " ".join([*parts, *_infeasible(runs)])


def _infeasible(runs: Sequence[StoredRun]) -> list[str]:
    """Return a sentence that names the rows whose models broke their constraint; empty if there are none."""
    found = [
        (_row_key(record)[-1], title)
        for title, run in zip(run_titles(runs), runs, strict=True)
        for record in run.records
        if record.state is TrialState.INFEASIBLE and record.phase not in _LEFT_OUT
    ]
    labels = dict.fromkeys(label if len(runs) == 1 else f"{label} of {title}" for label, title in found)
    return [f"f1 stayed above epsilon (infeasible): {', '.join(labels)}."] if labels else []
