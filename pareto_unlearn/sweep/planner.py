"""The planner of a sweep: reads the store once, then counts what workers answer, and asks ``schedule``."""

import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from pareto_unlearn.config import SweepConfig, TrialIds
from pareto_unlearn.errors import ConfigError, ParetoUnlearnError, RangeError
from pareto_unlearn.records import HAS_MODEL, Phase, Role, RunInfo, Scales, TrialRecord, TrialSpec
from pareto_unlearn.schedule import (
    NoTrial,
    SweepState,
    boundary_specs,
    count_trials,
    derive_ranges,
    range_of_seed,
)
from pareto_unlearn.store import RunStore
from pareto_unlearn.store.lock import Hold
from pareto_unlearn.sweep.additions import Additions
from pareto_unlearn.sweep.backlog import Backlog
from pareto_unlearn.sweep.forecast import Task, count_ended, tasks_of
from pareto_unlearn.sweep.worker import Answer, Assignment, commit_lost, read_scales


@dataclass(slots=True)
class Planner:
    """Plans the trials of a run from its committed rows; ``error`` is what ended planning, if anything did.

    The rows are listed once, at the start. Later ones are those that workers answered with: a listing of a
    network file system may show a file half a minute late, and its trial would run again until then.

    ``retry`` holds (trial id, attempt) of the rows that are to run again, ``hold`` whether the run is held.
    ``additions`` are measurements that committed models lack; they are made where no trial can start.
    """

    config: SweepConfig
    store: RunStore
    weights_sha256: str
    template: Assignment
    retry: frozenset[tuple[str, int]] = frozenset()
    check_convergence: bool = False
    hold: Hold = field(default_factory=Hold)
    additions: Additions = field(default_factory=Additions)
    error: ParetoUnlearnError | None = None
    rows: dict[str, TrialRecord] = field(init=False)
    scales: Scales | None = field(init=False)
    _backlog: Backlog = field(init=False)
    _ids: TrialIds = field(init=False)
    _known_ids: dict[TrialSpec, str] = field(init=False, default_factory=dict)
    _paths: dict[str, None] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.store.records()
        self._paths = dict.fromkeys(row.trial_id for row in self.rows.values() if row.role is Role.HIGHEST)
        self._backlog = Backlog(self.config, self.identify)
        self._ids = TrialIds(self.config, self.weights_sha256)
        self.scales = read_scales(self.store) or self._scales_of_run()

    def next_trial(self, live: Collection[str]) -> Assignment | NoTrial:
        """Return the next assignment, or why there is none.

        An error of planning (an absolute epsilon outside the range) is kept in ``error`` and ends the sweep.

        Args:
            live: ids of the trials that run now.
        """
        if self.has_ended():
            return NoTrial.FINISHED
        adding = [trial_id for trial_id in live if trial_id in self.additions.missing]
        try:
            decision = self._backlog.next(self.progress([one for one in live if one not in adding]))
        except ParetoUnlearnError as error:
            self.error = error
            return NoTrial.FINISHED
        if isinstance(decision, NoTrial):
            return self._next_addition(live) or (NoTrial.WAIT if adding else decision)
        parent = self.rows.get(decision.parents or "")
        return replace(self.template, spec=decision, parent=parent, start=uuid.uuid4().hex[:16])

    def _next_addition(self, live: Collection[str]) -> Assignment | None:
        """Return the assignment to measure what a committed model lacks, None where there is none."""
        trial_id = self.additions.next(live)
        if trial_id is None:
            return None
        row, missing = self.rows[trial_id], self.additions.missing[trial_id]
        return replace(self.template, spec=row.spec, parent=row, missing=missing)

    def has_ended(self) -> bool:
        """Return whether planning ended by an error: its own, or that another driver took the run over."""
        self.error = self.error or self.hold.lost
        return self.error is not None

    def progress(self, live: Collection[str] = ()) -> SweepState:
        """Return everything that planning decides by, as it is known now."""
        paths = self._paths if self.config.solver.start == "path" else ()
        banks = {trial_id: self.store.read_bank(trial_id) for trial_id in paths}
        return SweepState(self.rows, live, self.scales, self.retry, banks, self.check_convergence)

    def _scales_of_run(self) -> Scales | None:
        """Return the scales that run.json has, where their own file is lost; None for a run without any."""
        info = self.store.read_info()
        return None if info is None else info.scales

    def identify(self, spec: TrialSpec) -> str:
        """Return the id of a planned trial; it is kept, since plans ask for it again and again."""
        if spec not in self._known_ids:
            self._known_ids[spec] = self._ids(
                phase=spec.phase,
                method=spec.method,
                role=spec.role,
                epsilon=spec.epsilon,
                weight=spec.weight,
                seed=spec.seed,
            )
        return self._known_ids[spec]

    def take(self, spec: TrialSpec, answer: Answer) -> TrialRecord | None:
        """Count what a worker answered; return the row, None if the answer ends the sweep or counts no more.

        A model that could not be measured keeps its row, and ``additions`` the reason. A trial whose worker
        could not commit gets a FAILED row with the worker's reason.

        Raises:
            ParetoUnlearnError: the row of such a trial cannot be committed here either.
            OSError: neither can it, for want of disk.
        """
        if answer.refusal:
            self.error = ConfigError(answer.refusal)
            return None
        self.scales = self.scales or answer.scales
        if spec.trial_id in self.additions.missing:
            return self._end_addition(spec, answer.reason)
        if answer.superseded:
            return None
        if answer.record is None:
            return self.commit_lost(spec, answer.reason)
        return self._count(answer.record)

    def commit_lost(self, spec: TrialSpec, reason: str) -> TrialRecord:
        """Return the row of a trial that ended; if its process left none, commit a FAILED row."""
        if spec.trial_id in self.additions.missing:
            return self._end_addition(spec, reason)
        committed = self.store.find(spec.trial_id, spec.attempt)
        return self._count(committed or commit_lost(self.store, spec, reason, self.template.code_version))

    def _end_addition(self, spec: TrialSpec, reason: str) -> TrialRecord:
        self.additions.ended(spec.trial_id, reason)
        return self.rows[spec.trial_id]

    def _count(self, record: TrialRecord) -> TrialRecord:
        self.store.rows.learn(record)
        is_new = record.trial_id not in self.rows
        self.rows[record.trial_id] = record
        if record.role is Role.HIGHEST:
            self._paths[record.trial_id] = None
        self._backlog.ended(record, is_new=is_new)
        return record

    def describe_run(self, info: RunInfo) -> RunInfo:
        """Return ``info`` with what is known by now: scales, ranges and, once fixed, the reference point."""
        progress = self.progress()
        ranges = derive_ranges(self.config, progress, self.identify)
        reference = info.reference_point or self._reference_point(progress)
        return replace(info, scales=progress.scales, ranges=ranges, reference_point=reference)

    def _reference_point(self, progress: SweepState) -> tuple[float, float] | None:
        """Return f1 of the original and f2 of the first seed's highest boundary; None while unknown.

        This is the worst corner of the box that Phase I spans.
        """
        first, _ = boundary_specs(self.config.trial_seeds[0], self.identify)
        highest = progress.committed.get(first.trial_id)
        if progress.scales is None or highest is None or highest.state not in HAS_MODEL:
            return None
        if highest.f2 is None or not highest.f2 > 0:
            return None
        return progress.scales.f1_original, highest.f2

    def range_problem(self) -> RangeError | None:
        """Return why the first seed without a valid range has none; None if no such seed is known."""
        progress = self.progress()
        for seed in self.config.trial_seeds:
            try:
                range_of_seed(seed, progress, self.identify)
            except RangeError as error:
                return error
        return None

    def is_finished(self) -> bool:
        """Return whether every trial of the sweep is committed."""
        return self.next_trial(()) is NoTrial.FINISHED

    @property
    def total(self) -> int:
        """How many trials the sweep has in all."""
        return count_trials(self.config, check_convergence=self.check_convergence)

    @property
    def num_committed(self) -> int:
        """How many of ``total`` are committed; checks of convergence count only if they are in this sweep."""
        checks = (record.phase is Phase.CHECK for record in self.committed())
        return sum(self.check_convergence or not check for check in checks)

    def waiting(self) -> Counter[Task]:
        """Return how many trials of each purpose are left, the most urgent first."""
        progress = self.progress()
        left = Counter(tasks_of(self.config, check_convergence=self.check_convergence))
        left.subtract(count_ended(self.config, progress, self.identify))
        return +left

    def committed(self) -> list[TrialRecord]:
        """Return the committed rows."""
        return list(self.rows.values())
