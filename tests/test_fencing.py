"""Of several writers one wins, and a worker that was thought to be lost changes nothing any more."""

import threading
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from object_store import serve_bucket
from synthetic_run import planned_trials, synthetic_info, synthetic_result
from waiting import wait_until

from pareto_unlearn.errors import RunLockedError
from pareto_unlearn.records import Phase, TrialResult, TrialSpec
from pareto_unlearn.store import RunStore
from pareto_unlearn.store import lock as lock_module
from pareto_unlearn.store.filesystem import LocalStorage, open_storage
from pareto_unlearn.sweep import worker
from pareto_unlearn.sweep.worker import Answer, Assignment, execute

FIRST, SECOND = "1" * 16, "2" * 16
RACES, RACERS = 10, 6


@pytest.fixture(scope="module")
def bucket():
    with serve_bucket("bucket") as address:
        yield address


@pytest.fixture(params=["disk", "bucket"])
def store(request, tmp_path) -> RunStore:
    place = (
        str(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket")(f"bucket{tmp_path}")
    )
    store = RunStore.create(place, "run")
    store.write_info(synthetic_info("run"))
    return store


def run_race(address, number, barrier, won):
    _, storage = open_storage(address)
    for race in range(RACES):
        barrier.wait()
        won.put((race, number, storage.put_new(f"trials/row-{race}", bytes([number]))))


def test_one_of_six_writers_of_an_object_wins_every_race(bucket):
    context = get_context("spawn")
    barrier, won = context.Barrier(RACERS), context.Queue()
    address = bucket("bucket/race")
    racers = [
        context.Process(target=run_race, args=(address, number, barrier, won)) for number in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    told = [won.get(timeout=120) for _ in range(RACES * RACERS)]
    for racer in racers:
        racer.join()
    winners = {race: number for race, number, is_won in told if is_won}
    assert sum(is_won for _, _, is_won in told) == RACES == len(winners)
    _, storage = open_storage(address)
    assert all(storage.read(f"trials/row-{race}") == bytes([winners[race]]) for race in range(RACES))


def test_two_drivers_that_start_at_once_are_told_apart_in_a_bucket(bucket):
    _, storage = open_storage(bucket("bucket/drivers"))
    holds, refused = [], []
    barrier, done = threading.Barrier(RACERS), threading.Event()

    def drive() -> None:
        barrier.wait()
        try:
            with lock_module.hold_run(storage, "run") as hold:
                holds.append(hold)
                done.wait(60)
        except RunLockedError as error:
            refused.append(error)

    drivers = [threading.Thread(target=drive) for _ in range(RACERS)]
    for driver in drivers:
        driver.start()
    wait_until(lambda: len(holds) + len(refused) == RACERS)
    done.set()
    for driver in drivers:
        driver.join()
    assert len(holds) == 1


def test_a_driver_that_cannot_renew_its_lease_ends_before_another_may_take_it(tmp_path, monkeypatch):
    class Unreachable(LocalStorage):
        def put(self, name, data):
            if not isinstance(threading.current_thread(), threading._MainThread):
                raise OSError("no route to host")
            super().put(name, data)

    monkeypatch.setattr(lock_module, "_take_file", lambda *_: None)  # a file system without flock
    with lock_module.hold_run(Unreachable(tmp_path), "run", lease_seconds=0.2) as hold:
        wait_until(lambda: hold.lost is not None)
    assert "no route to host" in str(hold.lost)


def result_of(model: bytes) -> TrialResult:
    result = synthetic_result(planned_trials()[0], 20)
    return replace(result, files={"model.safetensors": model})


def test_a_zombie_that_commits_late_reaches_neither_row_nor_checkpoint_of_its_successor(store):
    trial_id = result_of(b"").record.trial_id
    store.writers.claim(trial_id, FIRST)
    store.save_resume(trial_id, 5, {"state": b"zombie"}, FIRST)
    store.writers.claim(trial_id, SECOND)
    assert (store.writers.holds(trial_id, FIRST), store.writers.holds(trial_id, SECOND)) == (False, True)
    committed = RunStore.open(store.path).commit(result_of(b"successor"), SECOND)
    rows = {table: store.table(table) for table in ("trials", "curves", "metrics", "samples")}

    class Stalled(RunStore):
        """A zombie that found no row, and stalled before it wrote."""

        def find(self, trial_id, attempt):
            return None

    late = Stalled.open(store.path).commit(result_of(b"zombie"), FIRST)
    store.save_resume(trial_id, 9, {"state": b"zombie"}, FIRST)
    assert repr(late) == repr(committed)
    assert committed.checkpoint == f"checkpoints/{trial_id}/1-{SECOND}"
    again = RunStore.open(store.path)
    assert again.read_checkpoint(again.row_of(trial_id)) == {"model.safetensors": b"successor"}
    assert all(repr(again.table(name).to_pylist()) == repr(rows[name].to_pylist()) for name in rows)
    assert f"1-{FIRST}" not in again._storage.directory_names(f"checkpoints/{trial_id}")


def test_a_zombie_that_is_half_way_through_its_files_is_not_mixed_with_its_successor(store):
    trial_id = result_of(b"").record.trial_id
    store._storage.put(f"checkpoints/{trial_id}/1-{FIRST}/model.safetensors", b"half")
    record = store.commit(result_of(b"successor"), SECOND)
    assert store.read_checkpoint(record)["model.safetensors"] == b"successor"
    assert store._storage.directory_names(f"checkpoints/{trial_id}") == [f"1-{SECOND}"]


def test_a_row_that_names_a_foreign_checkpoint_is_read_from_its_own_place(store):
    record = store.commit(result_of(b"mine"))
    foreign = replace(record, checkpoint="checkpoints/../../elsewhere")
    assert store.read_checkpoint(foreign)["model.safetensors"] == b"mine"


def assignment_of(store: RunStore, start: str) -> Assignment:
    spec = TrialSpec(trial_id=result_of(b"").record.trial_id, phase=Phase.ORIGINAL, method="original", seed=0)
    return Assignment(
        run_path=store.path, config_text="", targets_key="", code_version="", spec=spec, start=start
    )


def test_a_superseded_worker_commits_nothing_and_says_so(store, monkeypatch):
    def solve(assignment, *_):
        if assignment.start == FIRST:  # the driver takes this worker for lost, and starts another
            execute(assignment_of(store, SECOND), lambda *_: None)
        return result_of(assignment.start.encode()), None

    monkeypatch.setattr(worker, "_solve", solve)
    answer = execute(assignment_of(store, FIRST), lambda *_: None)
    assert (answer.superseded, answer.record) == (True, None)
    (record,) = store.records().values()
    assert store.read_checkpoint(record)["model.safetensors"] == SECOND.encode()
    assert Answer.from_text(answer.to_text()) == answer


def test_resume_states_are_found_where_listings_lag(tmp_path):
    class Lagging(LocalStorage):
        def directory_names(self, directory):
            return []

    store = RunStore.create(str(tmp_path), "run")
    trial_id = result_of(b"").record.trial_id
    for step in (1, 2, 3):
        store.save_resume(trial_id, step, {"state": bytes([step])}, FIRST)
    lagging = RunStore(store.path, Lagging(Path(store.path)))
    assert lagging.load_resume(trial_id) == (3, {"state": b"\3"})
    store.save_resume(trial_id, 2, {"state": b"again"}, SECOND)  # it went on from step 1
    assert lagging.load_resume(trial_id) == (2, {"state": b"again"})
