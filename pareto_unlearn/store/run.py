"""A stored run as tables, for notebooks, the report and the command line. Needs no weights."""

import html
import os
from collections.abc import Collection
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow.compute as pc

from pareto_unlearn.analysis.front import hypervolume, is_non_dominated
from pareto_unlearn.analysis.likeness import COMPARED, Errors, Likeness, find_likeness
from pareto_unlearn.analysis.scores import Scores, score
from pareto_unlearn.catalogue.audits import AUDIT
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, ORIGINAL, RETRAINED
from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import HAS_MODEL, MetricRow, Phase, Role, RunInfo, TrialRecord, TrialState
from pareto_unlearn.store.run_store import RunStore

if TYPE_CHECKING:
    import pandas as pd

FRONT_METHODS = (ORIGINAL, EPSILON_CONSTRAINT)
_PHASES = {phase: place for place, phase in enumerate(Phase)}
_ROLES = {role: place for place, role in enumerate(Role)}
_FRONT_PHASES = (Phase.ORIGINAL, Phase.BOUNDARY, Phase.EPSILON)
# Checks had twice the steps, controls are no solutions, and what resists relearning solves another problem.
_ALL_PHASES = tuple(phase for phase in Phase if phase not in (Phase.CHECK, Phase.CONTROL, Phase.HARDENED))


class StoredRun:
    """A run opened for reading; each table is read once, when it is first used.

    The data frames show both a value that was not measured and a value that is not a number as NaN, as pandas
    does; ``records`` and the files keep them apart.
    """

    def __init__(self, store: RunStore, info: RunInfo) -> None:
        self.store = store
        self.info = info
        self.records: list[TrialRecord] = sorted(store.records().values(), key=_reading_order)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a run for reading; see ``pareto_unlearn.load_run``."""
        store = RunStore.open(path)
        info = store.read_info()
        if info is None:
            raise StoreError(f"{store} lost its run.json while it was opened")
        return cls(store, info)

    @property
    def path(self) -> str:
        """The directory or URI of the run."""
        return self.store.path

    @property
    def shown_path(self) -> str:
        """The run as it lies in the folder of runs, for lines that others may read and copy.

        Where that folder is on this machine is nobody's business.
        """
        return f"runs/{self.path.partition('?')[0].rstrip('/').rpartition('/')[2]}"

    @cached_property
    def needs_import(self) -> bool:
        """Whether verbs that load its models need ``--allow-import``, because its family is a file."""
        from pareto_unlearn.config import names_family_file  # imports pydantic

        try:
            return names_family_file(self.store.read_text("sweep.yaml"))
        except StoreError:
            return False

    @cached_property
    def trials(self) -> "pd.DataFrame":
        """One row per committed trial, in the order of ``records``."""
        frame = self.store.table("trials").to_pandas()
        order = {record.trial_id: position for position, record in enumerate(self.records)}
        known = frame[frame["trial_id"].isin(list(order))]
        return known.sort_values("trial_id", key=lambda ids: ids.map(order), ignore_index=True)

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """One row per recorded step of a trial."""
        return self.store.table("curves").to_pandas()

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """One row per metric value, with the protocol that defines it."""
        return self.store.table("metrics").to_pandas()

    def audit_rows(self) -> dict[str, dict[tuple[str, str], MetricRow]]:
        """Return the rows of audits by trial id, those of a trial by (set, metric)."""
        found: dict[str, dict[tuple[str, str], MetricRow]] = {}
        for row in self._metrics_where(protocol=AUDIT):
            own = {field.name: row[field.name] for field in fields(MetricRow)}
            found.setdefault(row["trial_id"], {})[row["set"], row["metric"]] = MetricRow(**own)
        return found

    def _metrics_where(self, **wanted: str) -> list[dict[str, Any]]:
        """Return the rows of ``metrics`` with these values; of most runs they are a small part."""
        rows = self.store.table("metrics")
        for name, value in wanted.items():
            # Not pc.equal: it makes an Arrow scalar of the value, which imports pandas.
            rows = rows.filter(pc.match_substring_regex(rows[name], rf"^\Q{value}\E$"))
        return rows.to_pylist()

    @cached_property
    def samples(self) -> "pd.DataFrame":
        """One row per fixed image of a trial, as WebP bytes."""
        return self.store.table("samples").to_pandas()

    def front(self, seed: int | None = None) -> "pd.DataFrame":
        """Return the non-dominated rows of ``trials`` in (f1, f2), by rising f1.

        It is made of the original model and of boundary and epsilon trials that ended with a model.

        Args:
            seed: only the trials of this seed and the original model, which belongs to every seed.
        """
        ids = {record.trial_id for record in self._front_records(seed)}
        frame = self.trials
        return frame[frame["trial_id"].isin(list(ids))].sort_values("f1", ignore_index=True)

    def hypervolume(
        self, method: str | None = None, seed: int | None = None, phases: Collection[Phase] | None = None
    ) -> float | None:
        """Return the share (0 to 1) of the run's box that solutions dominate.

        The box reaches from (f1 floor, 0) to the reference point, which is fixed once after Phase I. Compare
        hypervolumes only at equal cost: ``gradient_pairs`` with the same arguments returns the cost.

        Args:
            method: a method such as epsilon_constraint or composite; None for the trials behind ``front``.
            seed: only trials of this seed (and the original model); None pools all seeds.
            phases: only trials of these phases; None for all but controls, checks (of twice the steps) and
                trials that resist relearning.

        Returns:
            None while the reference point is not fixed, and where it leaves no box; 0.0 if no trial ended
            with a model.
        """
        reference, scales = self.info.reference_point, self.info.scales
        if reference is None or scales is None or reference[0] <= scales.f1_floor or reference[1] <= 0:
            return None
        rows = [row for row in self._chosen(method, seed, phases) if row.state in HAS_MODEL]
        return hypervolume(_costs(rows), (scales.f1_floor, 0.0), reference) if rows else 0.0

    def scores(self, method: str, seed: int, split: str) -> Scores:
        """Return the scores of a method's solutions in fixed units; see ``analysis.scores``.

        Compare them only at equal cost: ``gradient_pairs`` with the same method and seed returns the cost.
        e is always that of the images that were to be forgotten; held-out forget images are none of them,
        and of a random split they are like any image to keep.

        Args:
            method: a method such as epsilon_constraint or composite.
            seed: of its trials.
            split: on which quality loss is measured, ``train`` or ``heldout``.
        """
        names = "e", "retained_quality" if split == "train" else "retained_quality_heldout"
        rows = [row for row in self._chosen(method, seed, None) if row.state in HAS_MODEL]
        values = [[getattr(row, name) for name in names] for row in rows]
        found = np.array(
            [[np.nan if value is None else value for value in pair] for pair in values], dtype=np.float64
        ).reshape(-1, 2)
        return score(np.column_stack([found[:, 0], 1.0 - found[:, 1]]))

    def gradient_pairs(
        self, method: str | None = None, seed: int | None = None, phases: Collection[Phase] | None = None
    ) -> int:
        """Return the number of gradient pairs behind a ``hypervolume`` of the same arguments.

        A pair is a gradient of the forget loss and a gradient of the retain loss, so a step of any trial. All
        steps count that were taken, also those of a path's scan and of trials that ended without a model.
        """
        return sum(record.gradient_pairs for record in self._chosen(method, seed, phases))

    def measuring_pairs(
        self, method: str | None = None, seed: int | None = None, phases: Collection[Phase] | None = None
    ) -> float | None:
        """Return what measuring cost behind a ``hypervolume`` of the same arguments, in gradient pairs.

        It is the sum of the column of that name; ``gradient_pairs`` with the same arguments does not contain
        it. A trial that failed counts as nothing.

        Returns:
            None if some of the trials were stored by a release without the column.
        """
        rows = [row for row in self._chosen(method, seed, phases) if row.state is not TrialState.FAILED]
        costs = [row.measuring_pairs for row in rows]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def compare_with_retrained(self) -> tuple[Likeness, ...]:
        """Return, for each seed's front, the e at which its error in the hole equals the retrained model's.

        The retrained model never saw the forget images.

        Empty without `controls: [retrained]` in the sweep file.
        """
        errors = {
            row["trial_id"]: Errors(value=row["value"], low=row["low"], high=row["high"])
            for row in self._metrics_where(set="forget", split="heldout", metric=COMPARED)
            if row["class_name"] is None
        }
        seeds = {record.seed for record in self.records if record.method == RETRAINED}
        fronts = {seed: self._front_records(seed) for seed in seeds}
        return find_likeness(self.records, fronts, errors, self.info.scales, self.info.ranges)

    def __repr__(self) -> str:
        ended = sum(record.state in HAS_MODEL for record in self.records)
        return f"Run({self.info.name!r}, {len(self.records)} trials, {ended} with a model)"

    def _repr_html_(self) -> str:
        columns = ["trial_id", "phase", "method", "seed", "epsilon", "state", "f1", "f2", "completeness"]
        return f"<p>{html.escape(repr(self))}</p>{self.trials[columns].to_html(index=False)}"

    def _front_records(self, seed: int | None) -> list[TrialRecord]:
        rows = [row for row in self._chosen(None, seed, None) if row.state in HAS_MODEL]
        kept = is_non_dominated(_costs(rows)).tolist() if rows else []
        return [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]

    def _chosen(
        self, method: str | None, seed: int | None, phases: Collection[Phase] | None
    ) -> list[TrialRecord]:
        """Return the rows of a method (None: of those of ``front``) and seed, with or without a model."""
        methods = FRONT_METHODS if method is None else (method,)
        if phases is None:
            phases = _FRONT_PHASES if method is None else _ALL_PHASES
        return [
            record
            for record in self.records
            if record.method in methods
            and record.phase in phases
            and (seed is None or record.seed == seed or record.phase is Phase.ORIGINAL)
        ]


def open_run(path: str | os.PathLike[str]) -> StoredRun:
    """Return a run opened for reading; unlike that of ``pareto_unlearn.load_run``, it makes no models."""
    return StoredRun.open(path)


def _costs(records: list[TrialRecord]) -> np.ndarray:
    values = [(record.f1, record.f2) for record in records]
    return np.array(
        [[np.nan if v is None else v for v in pair] for pair in values], dtype=np.float64
    ).reshape(-1, 2)


def _reading_order(record: TrialRecord) -> tuple[int, int, str, float, float, int, str]:
    role = -1 if record.role is None else _ROLES[record.role]
    # NaN compares false with everything and would scramble the order.
    weight, epsilon = (
        -np.inf if place is None or np.isnan(place) else place for place in (record.weight, record.epsilon)
    )
    return _PHASES[record.phase], role, record.method, weight, epsilon, record.seed, record.trial_id
