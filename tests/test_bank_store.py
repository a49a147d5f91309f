"""A bank in the store, on a disk and on an object store: round trips, leftovers, damage."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from object_store import serve_bucket
from trial_rows import finished_record

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import BankEntry, Phase, Role, RunInfo, TrialResult, TrialState
from pareto_unlearn.store import RunStore


@pytest.fixture(scope="module")
def bucket() -> Iterator[Callable[[str], str]]:
    with serve_bucket("bank") as address:
        yield address


@pytest.fixture(params=["disk", "object store"])
def store(request, tmp_path) -> RunStore:
    on_disk = request.param == "disk"
    place = str(tmp_path) if on_disk else request.getfixturevalue("bucket")(f"bank/{tmp_path.name}")
    made = RunStore.create(place, "run")
    made.write_info(
        RunInfo(
            name="run",
            schema_version=1,
            code_version="1",
            config_hash="ab",
            objective="mse",
            classes_forget=("0",),
            classes_retain=("1",),
        )
    )
    return made


TRIAL = "0a1b2c3d4e5f6071"


def content_of(step: int) -> bytes:
    return b"state %d" % step


def entry_of(step: int) -> BankEntry:
    return BankEntry(
        step=step,
        epsilon=1.0,
        f1=1.0 / step,
        f2=float(step),
        learning_rate=0.1,
        sha256=hashlib.sha256(content_of(step)).hexdigest(),
    )


def path_result(listed: tuple[int, ...], **changes: Any) -> TrialResult:
    record = finished_record(TRIAL, **({"phase": Phase.BOUNDARY, "role": Role.HIGHEST} | changes))
    entries = [dataclasses.asdict(entry_of(step)) for step in listed]
    files = {"model.safetensors": b"weights", "bank.json": json.dumps(entries).encode()}
    return TrialResult(record=record, files=files if listed else {})


def save_states(store: RunStore, *steps: int, attempt: int = 1) -> None:
    for step in steps:
        store.save_bank_state(TRIAL, attempt, step, content_of(step))


def directories(store: RunStore) -> set[str]:
    return set(store._storage.directory_names(f"checkpoints/{TRIAL}"))


def test_a_committed_bank_comes_back_equal_from_a_fresh_store(store):
    save_states(store, 1, 2, 12)
    store.commit(path_result((12, 2)))
    reader = RunStore.open(store.path)
    assert reader.read_bank(TRIAL) == (entry_of(12), entry_of(2))
    assert [reader.read_bank_state(TRIAL, entry_of(step)) for step in (2, 12)] == [b"state 2", b"state 12"]


def test_a_commit_removes_the_checkpoints_that_the_list_leaves_out_and_resume_states(store):
    save_states(store, 1, 2, 12, 120)
    store.save_resume(TRIAL, 50, {"state": b"s"})
    store.commit(path_result((12, 2)))
    assert directories(store) == {"1", "bank-1-2", "bank-1-12"}


def test_a_checkpoint_taken_again_replaces_the_first(store):
    store.save_bank_state(TRIAL, 1, 2, b"before the interruption")
    save_states(store, 2)
    store.commit(path_result((2,)))
    assert store.read_bank_state(TRIAL, entry_of(2)) == b"state 2"


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.DIVERGED])
def test_a_path_that_ends_without_a_model_leaves_no_bank(store, state):
    save_states(store, 1, 2)
    store.commit(path_result((), state=state))
    assert directories(store) == set()
    assert store.read_bank(TRIAL) == ()


def test_the_bank_of_a_later_attempt_is_its_own(store):
    save_states(store, 1, 2)
    store.commit(path_result((), state=TrialState.FAILED))
    save_states(store, 2, 3, 4, attempt=2)
    store.commit(path_result((3, 2), attempt=2))
    assert directories(store) == {"2", "bank-2-2", "bank-2-3"}
    assert store.read_bank(TRIAL) == (entry_of(3), entry_of(2))
    assert store.read_bank_state(TRIAL, entry_of(3)) == b"state 3"


def test_checkpoints_of_an_interrupted_path_wait_for_its_end(store):
    save_states(store, 1, 2)
    store.commit(path_result((), state=TrialState.INTERRUPTED))
    assert directories(store) == {"bank-1-1", "bank-1-2"}


def test_a_trial_that_was_no_path_has_no_bank(store):
    result = path_result((1,))
    store.commit(dataclasses.replace(result, files={"model.safetensors": b"weights"}))
    assert store.read_bank(TRIAL) == ()


def test_the_bank_of_a_path_that_goes_on_cannot_be_read(store):
    save_states(store, 1)
    with pytest.raises(StoreError, match=f"trial {TRIAL} is not committed"):
        store.read_bank(TRIAL)


@pytest.fixture
def committed(store) -> RunStore:
    save_states(store, 2, 12)
    store.commit(path_result((12, 2)))
    return store


@pytest.mark.parametrize("name", ["state.safetensors", "MANIFEST.json"])
def test_a_damaged_checkpoint_is_a_store_error_that_names_the_file(committed, name):
    file = f"checkpoints/{TRIAL}/bank-1-12/{name}"
    content = bytearray(committed._storage.read(file))
    content[0] ^= 1
    committed._storage.put(file, bytes(content))
    with pytest.raises(StoreError, match=f"bank-1-12/{name} is damaged.*restore it from a copy"):
        committed.read_bank_state(TRIAL, entry_of(12))
    assert committed.read_bank_state(TRIAL, entry_of(2)) == b"state 2"


@pytest.mark.parametrize("name", ["state.safetensors", "MANIFEST.json"])
def test_a_missing_file_of_a_checkpoint_is_a_store_error_that_names_it(committed, name):
    committed._storage.remove(f"checkpoints/{TRIAL}/bank-1-12/{name}")
    with pytest.raises(StoreError, match=f"bank-1-12/{name} is missing"):
        committed.read_bank_state(TRIAL, entry_of(12))


def test_a_deleted_checkpoint_is_a_store_error_that_names_it(committed):
    committed._storage.remove_directory(f"checkpoints/{TRIAL}/bank-1-12")
    with pytest.raises(StoreError, match="bank-1-12"):
        committed.read_bank_state(TRIAL, entry_of(12))


def test_a_checkpoint_replaced_together_with_its_manifest_is_detected(committed):
    committed.save_bank_state(TRIAL, 1, 12, b"other weights")
    with pytest.raises(StoreError, match=r"bank-1-12/state\.safetensors is not the file") as caught:
        committed.read_bank_state(TRIAL, entry_of(12))
    assert entry_of(12).sha256 in str(caught.value)


def test_a_damaged_list_is_a_store_error_that_names_it(committed):
    committed._storage.put(f"checkpoints/{TRIAL}/1/bank.json", b"[]")
    with pytest.raises(StoreError, match=r"bank\.json is damaged"):
        RunStore.open(committed.path).read_bank(TRIAL)


@pytest.mark.parametrize("trial_id", ["../../etc", "ABCDEF01", ""])
def test_a_checkpoint_of_no_trial_is_refused(store, trial_id):
    with pytest.raises(ValueError, match="trial id"):
        store.save_bank_state(trial_id, 1, 2, b"")
