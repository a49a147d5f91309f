"""Asks ``schedule`` what is next over the store: the one object that executors and the driver share."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from pareto_unlearn.config import SweepConfig, trial_id
from pareto_unlearn.errors import ParetoUnlearnError, RangeError
from pareto_unlearn.records import HAS_MODEL, Phase, Role, RunInfo, TrialRecord, TrialSpec
from pareto_unlearn.schedule import (
    NoTrial,
    SweepState,
    boundary_specs,
    count_trials,
    derive_ranges,
    plan,
    range_of_seed,
)
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep.worker import Assignment, commit_lost, read_scales


@dataclass(slots=True)
class Planner:
    """Holds no state that the store does not hold, but for the error that ended planning."""

    config: SweepConfig
    store: RunStore
    weights_sha256: str
    template: Assignment
    retry: frozenset[tuple[str, int]] = frozenset()
    check_convergence: bool = False
    error: ParetoUnlearnError | None = None

    def next_trial(self, live: Collection[str]) -> Assignment | NoTrial:
        """Return the next assignment, given the ids of trials that run now.

        An error of planning (an absolute epsilon outside the range) is kept in ``error`` and ends the sweep.
        """
        try:
            decision = plan(self.config, self.progress(live), self.identify)
        except ParetoUnlearnError as error:
            self.error = error
            return NoTrial.FINISHED
        if isinstance(decision, NoTrial):
            return decision
        return replace(self.template, spec=decision)

    def progress(self, live: Collection[str] = ()) -> SweepState:
        """Return what planning may look at, read from the store now."""
        records = self.store.records()
        branching = self.config.solver.start == "path"
        paths = [record.trial_id for record in records.values() if branching and record.role is Role.HIGHEST]
        banks = {trial_id: self.store.read_bank(trial_id) for trial_id in paths}
        scales = read_scales(self.store)
        return SweepState(records, live, scales, self.retry, banks, self.check_convergence)

    def identify(self, spec: TrialSpec) -> str:
        """Return the id of a planned trial."""
        return trial_id(
            self.config,
            weights_sha256=self.weights_sha256,
            phase=spec.phase,
            method=spec.method,
            role=spec.role,
            epsilon=spec.epsilon,
            weight=spec.weight,
            seed=spec.seed,
        )

    def record_of(self, spec: TrialSpec) -> TrialRecord | None:
        """Return the committed row of a trial and attempt, if there is one."""
        record = self.store.records().get(spec.trial_id)
        return record if record is not None and record.attempt >= spec.attempt else None

    def commit_lost(self, spec: TrialSpec, reason: str) -> TrialRecord:
        """Return the row of a trial that ended, writing a FAILED one where its process left none."""
        record = self.record_of(spec)
        return record or commit_lost(self.store, spec, reason, self.template.code_version)

    def describe_run(self, info: RunInfo) -> RunInfo:
        """Return ``info`` with the scales, ranges and reference point known by now.

        The reference point is f1 of the original model and f2 of the first seed's highest boundary: the worst corner of the
        box that Phase I spans. It is fixed once and kept.
        """
        progress = self.progress()
        ranges = derive_ranges(self.config, progress, self.identify)
        reference = info.reference_point
        if reference is None and progress.scales is not None:
            first, _ = boundary_specs(self.config.trial_seeds[0], self.identify)
            highest = progress.committed.get(first.trial_id)
            if (
                highest is not None
                and highest.state in HAS_MODEL
                and highest.f2 is not None
                and highest.f2 > 0
            ):
                reference = (progress.scales.f1_original, highest.f2)
        return replace(info, scales=progress.scales, ranges=ranges, reference_point=reference)

    def range_problem(self) -> RangeError | None:
        """Return why some seed has no valid range although both of its boundaries ended; None when all have one."""
        progress = self.progress()
        for seed in self.config.trial_seeds:
            try:
                range_of_seed(self.config, seed, progress, self.identify)
            except RangeError as error:
                return error
        return None

    def is_finished(self) -> bool:
        """Tell whether every trial of the sweep is committed."""
        return self.next_trial(()) is NoTrial.FINISHED

    @property
    def total(self) -> int:
        """How many trials the sweep has in all."""
        return count_trials(self.config, check_convergence=self.check_convergence)

    @property
    def num_committed(self) -> int:
        """How many of ``total`` are committed: checks count only where they are asked for."""
        checks = (record.phase is Phase.CHECK for record in self.committed())
        return sum(self.check_convergence or not check for check in checks)

    def committed(self) -> list[TrialRecord]:
        """Return the committed rows."""
        return list(self.store.records().values())
