"""Storage between nodes: listings that lag, copies that are not shared, and what travels with an answer."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_sweep import rows_of, run, run_of, small_sweep

from pareto_unlearn import trial as trial_package
from pareto_unlearn.config import SweepConfig, dump_config
from pareto_unlearn.errors import ConfigError, RunLockedError, StoreError
from pareto_unlearn.records import Phase, TrialRecord, TrialSpec
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.store import RunStore
from pareto_unlearn.store.filesystem import LocalStorage
from pareto_unlearn.sweep import driver, executors
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import Answer, Assignment, execute

SMALLER = ("epsilon.points=1", "baselines=[]")
RUN_ID = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def undisturbed(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """The finished small sweep, to be copied where a test writes rows."""
    return copy_small_sweep(tmp_path_factory.mktemp("undisturbed"))


def assignment_of(config, record: TrialRecord, **changes) -> Assignment:
    """The assignment that a driver would send for a committed trial."""
    return Assignment(
        run_path=run_of(config).path,
        config_text=dump_config(config),
        targets_key="any",
        code_version="1",
        spec=replace(record.spec, **changes),
        run_id=RUN_ID,
    )


def freeze_listings(patch: pytest.MonkeyPatch) -> None:
    """Show the trials of the first listing until the driver waits, as a network file system's client does."""
    real, seen = LocalStorage.file_names, {}

    def stale(self, directory):
        if directory != "trials" or seen.get("thawed"):
            return real(self, directory)
        return seen.setdefault(self.root, real(self, directory))

    patch.setattr(LocalStorage, "file_names", stale)
    patch.setattr(driver.time, "sleep", lambda _: seen.update(thawed=True))


def test_where_listings_lag_every_trial_starts_once_and_the_rows_are_the_same(
    undisturbed, tmp_path, monkeypatch
):
    freeze_listings(monkeypatch)
    started = []

    def count(assignment, *callbacks):
        started.append(assignment.spec.trial_id)
        return execute(assignment, *callbacks)

    monkeypatch.setattr(executors, "execute", count)
    config = small_sweep(tmp_path)
    assert run(config) == 0
    assert len(started) == len(set(started)) == 6
    assert rows_of(config) == rows_of(undisturbed)


def test_rows_that_no_listing_ever_shows_end_the_sweep_with_where_to_store(tmp_path, monkeypatch):
    freeze_listings(monkeypatch)
    monkeypatch.setattr(driver.time, "sleep", lambda _: None)
    monkeypatch.setattr(driver, "LISTING_LAG_SECONDS", 0.0)
    with pytest.raises(ConfigError, match=r"4 trials are committed.*run\.storage.*all nodes share"):
        run(small_sweep(tmp_path, "solver.steps=10", "solver.path.steps=20", *SMALLER))


def test_a_worker_whose_run_is_another_copy_refuses_and_the_sweep_ends(undisturbed, tmp_path):
    """A node with a disk of its own has an old copy of the run; that of the driver is announced elsewhere."""
    copy = shutil.copytree(run_of(undisturbed).path, tmp_path / "quickstart")
    store = RunStore.open(run_of(undisturbed).path)
    store.writers.announce_driver(RUN_ID)
    spec = run_of(undisturbed).records[0].spec
    given = assignment_of(undisturbed, run_of(undisturbed).records[0])
    assert execute(given, lambda *_: None).record is not None

    refused = execute(replace(given, run_path=str(copy)), lambda *_: None)
    assert refused.record is None
    assert f"driver-{RUN_ID}.json" in refused.refusal
    assert execute(replace(given, run_path=str(tmp_path / "no")), lambda *_: None).refusal

    planner = Planner(undisturbed, store, "0" * 64, given)
    assert planner.take(spec, Answer.from_text(refused.to_text())) is None
    assert (planner.error.exit_code, planner.next_trial(())) == (3, NoTrial.FINISHED)
    store.writers.withdraw_driver()
    assert not list(Path(store.path).glob("driver-*"))


def test_a_worker_whose_run_was_taken_over_while_it_solved_writes_nothing(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path)
    record = next(one for one in run_of(config).records if one.phase is Phase.BOUNDARY)
    store = RunStore.open(run_of(config).path)
    store.writers.announce_driver(RUN_ID)
    before = store.records()
    given = assignment_of(config, record, attempt=2)
    taken_over = iter([lambda: store.writers.announce_driver("f" * 32)])
    answer = execute(given, lambda *_: next(taken_over, lambda: None)())
    assert answer.record is None
    assert "another driver has taken the run over" in answer.refusal
    assert store.records() == before
    assert not list(Path(store.path).glob(f"checkpoints/{record.trial_id}/.resume-*"))


def test_a_driver_that_lost_its_lease_starts_nothing_more(undisturbed):
    store = RunStore.open(run_of(undisturbed).path)
    planner = Planner(
        undisturbed, store, "0" * 64, assignment_of(undisturbed, run_of(undisturbed).records[0])
    )
    assert not isinstance(planner.next_trial(()), NoTrial)
    planner.hold.lost = RunLockedError("held by process 1 on another host")
    assert (planner.next_trial(()), planner.error.exit_code) == (NoTrial.FINISHED, 5)


def test_a_committed_trial_is_not_solved_again_by_whoever_is_asked(undisturbed, monkeypatch):
    def never(*_):
        raise AssertionError("solved again")

    monkeypatch.setattr(trial_package, "run_trial", never)
    record = next(one for one in run_of(undisturbed).records if one.phase is Phase.EPSILON)
    given = replace(assignment_of(undisturbed, record), run_id=None)
    assert execute(given, lambda *_: None).to_text() == (
        Answer(record=record, scales=run_of(undisturbed).info.scales).to_text()
    )


def test_an_epsilon_finds_its_path_by_what_the_driver_sent_without_a_listing(
    copy_small_sweep, tmp_path, monkeypatch
):
    config = copy_small_sweep(tmp_path)
    record = next(one for one in run_of(config).records if one.phase is Phase.EPSILON)
    path = next(one for one in run_of(config).records if one.trial_id == record.parents)
    monkeypatch.setattr(LocalStorage, "file_names", lambda *_: [])
    given = replace(assignment_of(config, record, attempt=2), run_id=None, parent=path)
    again = execute(Assignment.from_plain(given.to_plain()), lambda *_: None).record
    assert (again.state, again.f1, again.f2) == (record.state, record.f1, record.f2)
    with pytest.raises(StoreError, match="not committed"):
        RunStore.open(given.run_path).row_of(path.trial_id)


def test_an_answer_says_the_same_after_its_journey(undisturbed):
    record = run_of(undisturbed).records[0]
    answer = Answer(record=replace(record, f1=math.nan), scales=run_of(undisturbed).info.scales)
    arrived = Answer.from_text(answer.to_text())
    assert math.isnan(arrived.record.f1)
    assert repr(replace(arrived.record, f1=record.f1)) == repr(record)  # in which NaN equals NaN
    assert arrived.scales == answer.scales


def test_a_worker_that_cannot_commit_says_why_and_the_driver_commits_the_reason(
    copy_small_sweep, tmp_path, monkeypatch
):
    config = copy_small_sweep(tmp_path)
    store = RunStore.open(run_of(config).path)
    spec = TrialSpec(trial_id="abcdef0123456789", phase=Phase.ORIGINAL, method="original", seed=7)
    given = replace(assignment_of(config, run_of(config).records[0]), spec=spec, run_id=None)
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "commit", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left", "x")))
        answer = execute(given, lambda *_: None)
    assert answer.record is None
    record = Planner(config, store, "0" * 64, given).take(spec, answer)
    assert record.is_fault_of_machine
    assert "No space left" in record.reason
