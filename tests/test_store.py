"""The run directory: round trips, faults at every disk call, damage, races, locks, and S3 on loopback."""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from object_store import serve_bucket
from pyarrow import fs
from trial_rows import finished_record
from waiting import wait_until

from pareto_unlearn.errors import ConfigError, RunLockedError, StoreError
from pareto_unlearn.records import (
    CurveRow,
    MetricRow,
    Phase,
    Role,
    RunInfo,
    SampleRow,
    Scales,
    TrialRecord,
    TrialResult,
    TrialState,
    ValidRange,
)
from pareto_unlearn.store import RunStore, StoredRun, open_run
from pareto_unlearn.store import lock as lock_module
from pareto_unlearn.store.filesystem import Disk, LocalStorage, ObjectStorage
from pareto_unlearn.store.schemas import SCHEMAS, decode_record, encode_rows

FIXTURE = Path(__file__).parent / "fixtures" / "store_v1"
TRIAL = "0a1b2c3d4e5f6071"
ROW_TYPES = {"trials": TrialRecord, "curves": CurveRow, "metrics": MetricRow, "samples": SampleRow}


def make_record(trial_id=TRIAL, **changes) -> TrialRecord:
    return finished_record(trial_id, **({"f1": 0.5, "f2": 0.25, "steps": 400} | changes))


def make_curve(step, **changes) -> CurveRow:
    values = dict.fromkeys(("f1", "f2", "multiplier", "control", "cosine", "learning_rate"), 0.5)
    values |= {"gradient_norm_f1": 1.0, "gradient_norm_f2": 2.0, "epsilon": None, "images_per_second": None}
    return CurveRow(**(values | {"step": step} | changes))


def make_result(record=None, model=b"weights", **parts) -> TrialResult:
    values = {
        "curves": (make_curve(1), make_curve(2, f1=math.nan, epsilon=0.1)),
        "metrics": (
            MetricRow(set="forget", split="heldout", metric="fid", protocol="builtin", value=1.5, n=10),
        ),
        "samples": (
            SampleRow(
                set="forget",
                image_id="é/1",
                class_name="<b>",
                kind="output",
                image=b"\0\xff",
                width=8,
                height=8,
            ),
        ),
        "files": {"model.safetensors": model, "state.json": b"{}"},
    }
    return TrialResult(record=record or make_record(), **(values | parts))


def make_info(**changes) -> RunInfo:
    values = {
        "name": "ünlearn",
        "schema_version": 1,
        "code_version": "0.1.0",
        "config_hash": "ab12",
        "objective": "output/mse",
        "classes_forget": ("0", "1"),
        "classes_retain": ("2",),
    }
    return RunInfo(**(values | changes))


SCALES = Scales(
    f1_floor=1.0,
    f1_original=3.0,
    variance_retain=2.0,
    f1_floor_heldout=1.1,
    f1_original_heldout=3.1,
    variance_retain_heldout=2.1,
)


@pytest.fixture
def store(tmp_path) -> RunStore:
    made = RunStore.create(str(tmp_path), "run")
    made.write_info(make_info())
    return made


def files_below(path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(Path(path).rglob("*")) if f.is_file()}


# Round trips


def test_record_comes_back_equal_with_its_checkpoint(store):
    record = make_record(reason="größer ≥ 1\n'", role=Role.LOWEST, epsilon=1e-300, peak_memory_bytes=2**40)
    stored = store.commit(make_result(record, model=b"abc"))
    assert RunStore.open(store.path).records() == {TRIAL: stored}
    expected = dataclasses.replace(
        record,
        checkpoint=f"checkpoints/{TRIAL}/1",
        checkpoint_sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    )
    assert stored == expected


def test_not_a_number_and_not_measured_stay_different(store):
    store.commit(make_result(make_record(f1=math.nan, f2=None, e=math.inf)))
    record = store.records()[TRIAL]
    assert math.isnan(record.f1)
    assert record.f2 is None
    assert record.e == math.inf


def test_record_without_files_has_no_checkpoint(store):
    record = make_record(state=TrialState.DIVERGED, checkpoint="elsewhere", checkpoint_sha256="00")
    stored = store.commit(make_result(record, files={}))
    assert (stored.checkpoint, stored.checkpoint_sha256) == (None, None)
    assert not (Path(store.path) / "checkpoints" / TRIAL / "1").exists()


@pytest.mark.parametrize("table", ["curves", "metrics", "samples"])
def test_rows_come_back_equal_behind_their_trial(store, table):
    result = make_result(curves=(make_curve(1), make_curve(2, images_per_second=3.5)))
    store.commit(result)
    rows = store.table(table).to_pylist()
    assert [(row.pop("trial_id"), row.pop("attempt")) for row in rows] == [(TRIAL, 1)] * len(rows)
    assert tuple(ROW_TYPES[table](**row) for row in rows) == getattr(result, table)


def test_curve_table_keeps_nan_and_null_apart(store):
    store.commit(make_result(curves=(make_curve(1, f1=math.nan, epsilon=None),)))
    table = store.table("curves")
    assert (table["f1"].null_count, table["epsilon"].null_count) == (0, 1)


def test_empty_store_has_every_column(store):
    assert {name: store.table(name).schema.names for name in SCHEMAS} == {
        name: schema.names for name, schema in SCHEMAS.items()
    }


def test_unknown_table_names_the_known_ones(store):
    with pytest.raises(ValueError, match="trials, curves, metrics, samples"):
        store.table("trial")


def test_none_in_a_measured_column_is_refused_before_anything_is_written(store):
    before = files_below(store.path)
    metric = MetricRow(set="forget", split="train", metric="fid", protocol="builtin", value=None, n=1)
    with pytest.raises(ValueError, match=r"metrics\.value"):
        store.commit(make_result(metrics=(metric,)))
    added = set(files_below(store.path)) - set(before)
    assert added == {f"checkpoints/{TRIAL}/.lock"}


def test_info_comes_back_equal(store):
    lowest = ValidRange(seed=0, lower=1.0, upper=2.0, upper_source="lowest")
    info = make_info(scales=SCALES, ranges=(lowest,), reference_point=(3.0, 2.0))
    store.write_info(info)
    assert RunStore.open(store.path).read_info() == info


def test_info_is_none_before_it_is_written(tmp_path):
    assert RunStore.create(str(tmp_path), "run").read_info() is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_info_refuses_numbers_that_are_not_finite(store, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        store.write_info(make_info(reference_point=(1.0, value)))


def test_info_of_a_newer_schema_is_refused(store):
    store.write_info(make_info(schema_version=99))
    with pytest.raises(StoreError, match=r"run\.json.*99 is newer.*update"):
        store.read_info()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}', '{"schema_version": 1}'])
def test_damaged_info_is_a_store_error(store, content):
    store.write_text("run.json", content)
    with pytest.raises(StoreError, match=r"run\.json"):
        store.read_info()


def test_text_comes_back_equal(store):
    store.write_text("sweep.yaml", "name: é\n")
    assert store.read_text("sweep.yaml") == "name: é\n"


def test_missing_text_is_a_store_error(store):
    with pytest.raises(StoreError, match=r"sweep\.yaml"):
        store.read_text("sweep.yaml")


def test_pickled_store_reaches_the_same_run_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(RunStore.create("relative", "run"))
    monkeypatch.chdir("/")
    pickle.loads(pickled).commit(make_result())
    assert (tmp_path / "relative" / "run" / "trials" / f"part-{TRIAL}-1.parquet").is_file()


# Plain readers


@pytest.mark.parametrize(("table", "rows"), [("trials", 2), ("curves", 4), ("metrics", 2), ("samples", 2)])
def test_duckdb_and_pandas_read_a_table_beside_a_half_written_file(store, table, rows):
    store.commit(make_result())
    store.commit(make_result(make_record("f" * 64)))
    (Path(store.path) / table / ".tmp-part-00-1.parquet-0").write_bytes(b"PAR1")
    by_glob = duckdb.sql(f"select count(*) from '{store.path}/{table}/*.parquet'").fetchall()
    assert (by_glob, len(pd.read_parquet(f"{store.path}/{table}"))) == ([(rows,)], rows)


def test_duckdb_tells_nan_from_null(store):
    store.commit(make_result(make_record(f1=math.nan, f2=None)))
    rows = duckdb.sql(f"select isnan(f1), f2 is null from '{store.path}/trials/*.parquet'").fetchall()
    assert rows == [(True, True)]


# Attempts and schema versions


def test_highest_attempt_counts_in_every_table(store):
    for attempt in (2, 1, 10):
        store.commit(make_result(make_record(attempt=attempt), curves=(make_curve(attempt),)))
    assert store.records()[TRIAL].attempt == 10
    assert store.table("curves")["step"].to_pylist() == [10]


def test_rows_without_a_committed_trial_are_not_read(store):
    store.commit(make_result())
    stray = encode_rows("curves", "ee" * 8, 1, [make_curve(9)])
    (Path(store.path) / "curves" / f"part-{'ee' * 8}-1.parquet").write_bytes(stray)
    assert 9 not in store.table("curves")["step"].to_pylist()


def test_records_reads_only_files_that_are_new(store):
    store.commit(make_result())
    first = store.records()[TRIAL]
    path = Path(store.path) / "trials" / f"part-{TRIAL}-1.parquet"
    path.write_bytes(b"no longer readable, and not read again")
    store.commit(make_result(make_record("bb" * 8)))
    assert store.records()[TRIAL] is first
    assert set(store.records()) == {TRIAL, "bb" * 8}


def test_record_of_a_removed_file_is_forgotten(store):
    store.commit(make_result())
    store.records()
    (Path(store.path) / "trials" / f"part-{TRIAL}-1.parquet").unlink()
    assert store.records() == {}


# Faults


class FaultyDisk(Disk):
    """Fails at the n-th call: ``raise`` before it, ``torn`` half way, ``done`` after, ``crash`` always."""

    def __init__(self, fail_at: int, mode: str) -> None:
        self.fail_at, self.mode, self.calls = fail_at, mode, 0

    def _act(self, action, torn=None):
        self.calls += 1
        if self.calls == self.fail_at or (self.mode == "crash" and self.calls > self.fail_at):
            if self.mode == "done":
                action()
            if self.mode == "torn" and torn is not None:
                torn()
            raise OSError(5, "injected")
        return action()

    def make_directory(self, path):
        return self._act(lambda: super(FaultyDisk, self).make_directory(path))

    def create(self, path, data):
        return self._act(lambda: path.write_bytes(data), lambda: path.write_bytes(data[: len(data) // 2]))

    def sync_directory(self, path):
        return self._act(lambda: None)

    def link(self, source, target):
        return self._act(lambda: super(FaultyDisk, self).link(source, target))

    def rename(self, source, target):
        return self._act(lambda: super(FaultyDisk, self).rename(source, target))

    def remove(self, path):
        return self._act(lambda: super(FaultyDisk, self).remove(path))

    def remove_tree(self, path):
        return self._act(lambda: super(FaultyDisk, self).remove_tree(path))


def read_everything(path) -> dict[str, TrialRecord]:
    """Read a run as a fresh reader would; raises if anything visible is half."""
    reader = RunStore.open(str(path))
    records = reader.records()
    for record in records.values():
        assert reader.read_checkpoint(record)["state.json"] == b"{}"
    assert len(reader.table("curves")) == 2 * len(records)
    assert len(reader.table("metrics")) == len(reader.table("samples")) == len(records)
    return records


def failing_store(path, fail_at, mode) -> tuple[RunStore, FaultyDisk]:
    disk = FaultyDisk(fail_at, mode)
    return RunStore(str(path), LocalStorage(Path(path), disk)), disk


def number_of_calls(tmp_path, action) -> int:
    path = tmp_path / "count"
    RunStore.create(str(tmp_path), "count").write_info(make_info())
    counting, disk = failing_store(path, 0, "raise")
    action(counting)
    return disk.calls


@pytest.mark.parametrize("mode", ["raise", "torn", "done", "crash"])
def test_readers_see_all_or_nothing_whichever_call_of_a_commit_fails(tmp_path, mode):
    total = number_of_calls(tmp_path, lambda store: store.commit(make_result()))
    assert total > 20
    for fail_at in range(1, total + 1):
        path = tmp_path / f"run-{fail_at}"
        RunStore.create(str(tmp_path), path.name).write_info(make_info())
        failing, disk = failing_store(path, fail_at, mode)
        try:
            failing.commit(make_result())
            assert disk.calls >= fail_at
        except OSError:
            pass
        seen = read_everything(path)
        healed = failing_store(path, 0, "raise")[0].commit(make_result(model=b"second"))
        # A reader that saw the first result must go on seeing it.
        assert read_everything(path) == {TRIAL: seen.get(TRIAL, healed)}


@pytest.mark.parametrize("mode", ["raise", "torn", "done", "crash"])
def test_older_resume_state_survives_whichever_call_of_a_save_fails(tmp_path, mode):
    def save(store):
        store.save_resume(TRIAL, 30, {"state": b"thirty"})

    for fail_at in range(1, number_of_calls(tmp_path, save) + 1):
        path = tmp_path / f"run-{fail_at}"
        healthy, _ = failing_store(path, 0, "raise")
        for step in (10, 20):
            healthy.save_resume(TRIAL, step, {"state": b"before"})
        failing, _ = failing_store(path, fail_at, mode)
        with contextlib.suppress(OSError):
            save(failing)
        assert healthy.load_resume(TRIAL) in ((20, {"state": b"before"}), (30, {"state": b"thirty"}))
        save(healthy)
        assert healthy.load_resume(TRIAL) == (30, {"state": b"thirty"})


@pytest.mark.parametrize("mode", ["raise", "torn", "done", "crash"])
def test_old_text_or_new_is_read_whichever_call_of_a_write_fails(tmp_path, mode):
    for fail_at in range(1, 6):
        path = tmp_path / f"run-{fail_at}"
        failing_store(path, 0, "raise")[0].write_text("sweep.yaml", "old")
        failing, _ = failing_store(path, fail_at, mode)
        with contextlib.suppress(OSError):
            failing.write_text("sweep.yaml", "new")
        assert failing.read_text("sweep.yaml") in ("old", "new")


def test_file_system_without_hard_links_still_commits_once(tmp_path):
    class NoLinks(Disk):
        def link(self, source, target):
            raise PermissionError(1, "no hard links here")

    RunStore.create(str(tmp_path), "run").write_info(make_info())
    store = RunStore(str(tmp_path / "run"), LocalStorage(tmp_path / "run", NoLinks()))
    first = store.commit(make_result())
    assert store.commit(make_result(model=b"second")) == first
    assert read_everything(tmp_path / "run") == {TRIAL: first}


def test_full_disk_names_the_file_and_the_bytes(tmp_path, monkeypatch):
    # /dev/full is the kernel's own full disk; creating exclusively is what it cannot do.
    monkeypatch.setattr(os, "O_EXCL", 0)
    with pytest.raises(OSError, match=r"No space left on device \(writing 3 bytes\).*'/dev/full'"):
        Disk().create(Path("/dev/full"), b"abc")


def test_commit_leaves_no_temporary_name_behind(store):
    store.commit(make_result())
    assert [name for name in files_below(store.path) if ".tmp-" in name] == []


# Processes

COMMITTER = """
import pickle, sys
from dataclasses import replace
from pathlib import Path
from pareto_unlearn.store import RunStore

template = pickle.loads(Path(sys.argv[2]).read_bytes())
store = RunStore.open(sys.argv[1])
name = sys.argv[3]

def commit(number):
    trial_id = f"{number:08x}"
    store.save_resume(trial_id, number, {"state": b"s" * 10000})
    record = replace(template.record, trial_id=trial_id, reason=name)
    files = {**template.files, "model.safetensors": name.encode() * 10000}
    store.commit(replace(template, record=record, files=files))

commit(0)
print("ready", flush=True)
"""
WRITER = (
    COMMITTER
    + """
for number in range(1, 100000):
    commit(number)
"""
)
RACER = (
    COMMITTER
    + """
sys.stdin.readline()
for number in range(1, 8):
    commit(number)
"""
)
HOLDER = """
import sys
from pareto_unlearn.store import RunStore
with RunStore.open(sys.argv[1]).lock():
    print("ready", flush=True)
    sys.stdin.readline()
"""


def start(script, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_until_ready(process) -> subprocess.Popen:
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def template(tmp_path) -> Path:
    path = tmp_path / "template"
    path.write_bytes(pickle.dumps(make_result()))
    return path


def test_kill_of_a_writer_leaves_only_whole_trials(store, template):
    writers = [start(WRITER, store.path, template, "writer") for _ in range(3)]
    for writer in writers:
        wait_until_ready(writer)
        time.sleep(random.uniform(0.02, 0.3))
        kill(writer)
    records = read_everything(store.path)
    assert set(records) == {f"{number:08x}" for number in range(len(records))}
    pending = f"{len(records):08x}"
    state = store.load_resume(pending)
    assert state in (None, (len(records), {"state": b"s" * 10000}))
    store.commit(make_result(make_record(pending)))
    assert len(read_everything(store.path)) == len(records) + 1


def test_first_result_wins_between_processes(store, template):
    racers = [start(RACER, store.path, template, name) for name in ("one", "two")]
    for racer in racers:
        wait_until_ready(racer)
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0
    records = read_everything(store.path)
    assert len(records) == 8
    for record in records.values():
        assert store.read_checkpoint(record)["model.safetensors"] == record.reason.encode() * 10000


def test_first_result_wins_between_threads(store):
    results = [make_result(make_record(reason=str(n)), model=str(n).encode()) for n in range(6)]
    barrier, returned = threading.Barrier(len(results)), []

    def commit(result):
        barrier.wait()
        returned.append(store.commit(result))

    threads = [threading.Thread(target=commit, args=(result,)) for result in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = read_everything(store.path)[TRIAL]
    assert returned == [winner] * len(results)
    assert store.read_checkpoint(winner)["model.safetensors"] == winner.reason.encode()


def test_second_commit_returns_the_first_record_and_touches_nothing(store):
    first = store.commit(make_result())
    before = files_below(store.path)
    assert store.commit(make_result(make_record(state=TrialState.FAILED), model=b"other")) == first
    assert files_below(store.path) == before


# Damage


@pytest.mark.parametrize("table", SCHEMAS)
@pytest.mark.parametrize("size", [0, 1, 8, -1])
def test_truncated_part_is_a_store_error_that_names_it(store, table, size):
    store.commit(make_result())
    path = Path(store.path) / table / f"part-{TRIAL}-1.parquet"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StoreError, match=rf"{table}/part-{TRIAL}-1\.parquet.*resume the sweep"):
        store.table(table)


def test_flipped_bit_in_a_page_is_detected(store):
    store.commit(make_result(make_record(reason="r" * 64)))
    path = Path(store.path) / "trials" / f"part-{TRIAL}-1.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(SCHEMAS["trials"].get_field_index("f1"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=path.name):
        store.records()


def test_flipped_bit_anywhere_gives_the_same_record_or_a_store_error():
    record = make_record(reason="ö" * 20, role=Role.HIGHEST)
    data = encode_rows("trials", TRIAL, 1, [record])
    detected = 0
    for position in range(0, len(data), 41):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        try:
            assert decode_record(bytes(damaged), "file") == record
        except StoreError:
            detected += 1
    assert detected > 0


def test_part_of_another_trial_under_this_name_is_refused(store):
    store.commit(make_result())
    path = Path(store.path) / "trials" / f"part-{TRIAL}-1.parquet"
    path.rename(path.with_name(f"part-{TRIAL}-2.parquet"))
    with pytest.raises(StoreError, match="holds trial"):
        store.records()


def test_part_of_another_table_is_refused(store):
    store.commit(make_result())
    shutil.copy(Path(store.path) / "curves" / f"part-{TRIAL}-1.parquet", Path(store.path) / "trials")
    with pytest.raises(StoreError, match="expected table trials"):
        store.records()


def test_missing_part_of_a_committed_trial_is_logged(store, caplog):
    store.commit(make_result())
    (Path(store.path) / "samples" / f"part-{TRIAL}-1.parquet").unlink()
    assert len(store.table("samples")) == 0
    assert "1 of 1 trials have no file in samples" in caplog.text


def test_checkpoint_comes_back_equal(store):
    record = store.commit(make_result(model=b"\0\1"))
    assert store.read_checkpoint(record) == {"model.safetensors": b"\0\1", "state.json": b"{}"}


def test_manifest_tells_size_hash_and_steps(store):
    store.commit(make_result(model=b"abc"))
    manifest = json.loads(store._storage.read(f"checkpoints/{TRIAL}/1/MANIFEST.json"))
    assert (manifest["trial_id"], manifest["attempt"], manifest["steps"]) == (TRIAL, 1, 400)
    assert manifest["files"]["model.safetensors"]["bytes"] == 3


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "MANIFEST.json"])
def test_flipped_bit_in_a_checkpoint_is_detected(store, name):
    record = store.commit(make_result())
    path = Path(store.path) / record.checkpoint / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{name} is damaged"):
        store.read_checkpoint(record)


@pytest.mark.parametrize("name", ["model.safetensors", "MANIFEST.json"])
def test_missing_checkpoint_file_is_a_store_error(store, name):
    record = store.commit(make_result())
    (Path(store.path) / record.checkpoint / name).unlink()
    with pytest.raises(StoreError, match=f"{name} is missing"):
        store.read_checkpoint(record)


def test_checkpoint_swapped_together_with_its_manifest_is_detected(store):
    record = store.commit(make_result())
    other = store.commit(make_result(make_record("bb" * 8), model=b"other"))
    shutil.rmtree(Path(store.path) / record.checkpoint)
    shutil.copytree(Path(store.path) / other.checkpoint, Path(store.path) / record.checkpoint)
    with pytest.raises(StoreError, match="not the file that was committed"):
        store.read_checkpoint(record)


def test_record_without_checkpoint_cannot_be_read(store):
    record = store.commit(make_result(make_record(state=TrialState.FAILED), files={}))
    with pytest.raises(StoreError, match=r"FAILED.*left no checkpoint"):
        store.read_checkpoint(record)


# Names and places


@pytest.mark.parametrize("name", ["../x", "/x", "", ".x", "a/b", "MANIFEST.json", "x\n", "x\0", "é"])
def test_checkpoint_file_name_with_a_path_is_refused(store, name):
    with pytest.raises(ValueError, match="cannot name a checkpoint file"):
        store.commit(make_result(files={name: b""}))


@pytest.mark.parametrize("trial_id", ["../../etc", "ABCDEF01", "abc", "0" * 65, "01234567\n", ""])
def test_trial_id_that_is_no_hash_is_refused(store, trial_id):
    with pytest.raises(ValueError, match="trial id"):
        store.commit(make_result(make_record(trial_id)))
    with pytest.raises(ValueError, match="trial id"):
        store.load_resume(trial_id)


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempt_below_one_is_refused(store, attempt):
    with pytest.raises(ValueError, match="counts from 1"):
        store.commit(make_result(make_record(attempt=attempt)))


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a b", "a\n", "", "x" * 65])
def test_run_name_that_is_a_path_is_a_config_error(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot name a run"):
        RunStore.create(str(tmp_path), name)


def test_storage_that_is_a_file_is_a_config_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"file/run.*run\.storage"):
        RunStore.create(str(tmp_path / "file"), "run")


def test_storage_that_cannot_be_written_is_a_config_error():
    with pytest.raises(ConfigError, match=r"cannot write to /proc/runs/run"):
        RunStore.create("/proc/runs", "run")


def test_unknown_scheme_is_a_config_error():
    with pytest.raises(ConfigError, match=r"nowhere://\*\*\*@bucket/run"):
        RunStore.create("nowhere://key:secret@bucket", "run")


def test_directory_without_run_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no run: expected run\.json"):
        RunStore.open(str(tmp_path))


def test_create_over_an_existing_run_keeps_it(store, tmp_path):
    store.commit(make_result())
    assert set(RunStore.create(str(tmp_path), "run").records()) == {TRIAL}


def test_file_uri_is_local(tmp_path):
    store = RunStore.create(tmp_path.as_uri(), "run")
    assert (store.is_local, store.path) == (True, str(tmp_path / "run"))


def test_local_cache_lies_in_the_run(store):
    assert store.cache_dir() == Path(store.path) / "cache"
    assert store.cache_dir().is_dir()


# Resume generations


def resume_steps(store) -> list[str]:
    return sorted(p.name for p in (Path(store.path) / "checkpoints" / TRIAL).glob(".resume-*"))


def test_no_resume_state_is_none(store):
    assert store.load_resume(TRIAL) is None


def test_newest_resume_state_is_loaded_and_two_are_kept(store):
    for step in (8, 9, 10):
        store.save_resume(TRIAL, step, {"state.pt": bytes([step])})
    assert store.load_resume(TRIAL) == (10, {"state.pt": b"\x0a"})
    assert resume_steps(store) == [".resume-10", ".resume-9"]


def test_damaged_resume_state_falls_back_to_the_older_with_a_warning(store, caplog):
    for step in (1, 2):
        store.save_resume(TRIAL, step, {"state.pt": bytes([step])})
    (Path(store.path) / "checkpoints" / TRIAL / ".resume-2" / "state.pt").write_bytes(b"\x03")
    with caplog.at_level(logging.WARNING):
        assert store.load_resume(TRIAL) == (1, {"state.pt": b"\1"})
    assert "step 2 is not used" in caplog.text


def test_saving_an_earlier_step_drops_the_later_states(store):
    for step in (100, 200, 150):
        store.save_resume(TRIAL, step, {"state.pt": b""})
    assert resume_steps(store) == [".resume-100", ".resume-150"]


def test_negative_step_is_refused(store):
    with pytest.raises(ValueError, match="counts from 0"):
        store.save_resume(TRIAL, -1, {})


def test_commit_removes_resume_states(store):
    store.save_resume(TRIAL, 1, {"state.pt": b""})
    store.commit(make_result())
    assert resume_steps(store) == []


@pytest.mark.parametrize("state", [TrialState.INTERRUPTED, TrialState.STALE])
def test_commit_of_an_interrupted_trial_keeps_its_resume_state(store, state):
    store.save_resume(TRIAL, 1, {"state.pt": b"s"})
    store.commit(make_result(make_record(state=state), files={}))
    assert store.load_resume(TRIAL) == (1, {"state.pt": b"s"})


# Lock


def test_second_driver_is_told_who_holds_the_run(store):
    holder = wait_until_ready(start(HOLDER, store.path))
    try:
        with pytest.raises(RunLockedError, match=f"process {holder.pid} on .*Wait"), store.lock():
            pass
    finally:
        kill(holder)


def test_lock_of_a_killed_driver_is_free(store):
    kill(wait_until_ready(start(HOLDER, store.path)))
    with store.lock():
        assert json.loads((Path(store.path) / "lock.json").read_text())["pid"] == os.getpid()


def test_lock_is_free_after_the_block(store):
    for _ in range(2):
        with store.lock():
            pass


def test_lock_excludes_within_one_process(store):
    with store.lock(), pytest.raises(RunLockedError), RunStore.open(store.path).lock():
        pass


def lease(tmp_path, seconds=60.0):
    return lock_module.hold_run(ObjectStorage(fs.LocalFileSystem(), str(tmp_path)), "run", seconds)


def test_lease_excludes_a_second_driver_and_is_given_back(tmp_path):
    with lease(tmp_path), pytest.raises(RunLockedError, match=f"process {os.getpid()}"), lease(tmp_path):
        pass
    assert not (tmp_path / "lock.json").exists()


def write_holder(tmp_path, **changes) -> None:
    holder = dataclasses.replace(lock_module._this_process(), **changes)
    (tmp_path / "lock.json").write_text(json.dumps(dataclasses.asdict(holder)))


def test_lease_that_ran_out_is_taken_over(tmp_path):
    write_holder(tmp_path, host="elsewhere", renewed=time.time() - 61)
    with lease(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["host"] != "elsewhere"


def test_lease_of_a_machine_that_may_be_alive_is_respected(tmp_path):
    write_holder(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(RunLockedError, match="elsewhere"), lease(tmp_path):
        pass


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"process_start": 0}, {"boot_id": "another boot"}])
def test_lease_of_a_dead_process_of_this_machine_is_taken_over(tmp_path, changes):
    write_holder(tmp_path, **changes)
    with lease(tmp_path):
        pass


def test_a_lease_that_another_driver_took_over_is_known_to_be_lost(tmp_path):
    storage = ObjectStorage(fs.LocalFileSystem(), str(tmp_path))
    with lock_module.hold_run(storage, "run", lease_seconds=0.1) as hold:
        assert hold.lost is None
        write_holder(tmp_path, host="elsewhere")
        wait_until(lambda: hold.lost is not None)
        assert "elsewhere" in str(hold.lost)


def test_a_lease_of_a_clock_that_is_ahead_is_respected_while_it_lies_in_the_future(tmp_path):
    write_holder(tmp_path, host="ahead", renewed=time.time() + 3600)
    with pytest.raises(RunLockedError, match="ahead"), lease(tmp_path):
        pass


def test_a_driver_whose_clock_is_behind_loses_its_lease_and_knows_it(tmp_path):
    """Its renewals look old to the others: one takes the run over, and the first may write nothing more."""
    storage = ObjectStorage(fs.LocalFileSystem(), str(tmp_path))
    with lock_module.hold_run(storage, "run", lease_seconds=0.3) as hold:
        mine = json.loads((tmp_path / "lock.json").read_text())
        late = {**mine, "host": "behind", "renewed": time.time() - 3600}  # as the others see its renewals
        (tmp_path / "lock.json").write_text(json.dumps(late))
        with lock_module.hold_run(storage, "run", lease_seconds=60.0):
            wait_until(lambda: hold.lost is not None)
            assert "another driver" in str(hold.lost) or str(os.getpid()) in str(hold.lost)


def renewed_at(tmp_path) -> float:
    """Return when the lease was renewed last, or 0 while it is being written."""
    text = (tmp_path / "lock.json").read_text()
    return json.loads(text)["renewed"] if text.endswith("}") else 0.0


def test_lease_is_renewed_while_it_is_held(tmp_path):
    with lease(tmp_path, seconds=0.2):
        first = renewed_at(tmp_path)
        wait_until(lambda: renewed_at(tmp_path) > first)
        with pytest.raises(RunLockedError), lease(tmp_path):
            pass


# StoredRun


@pytest.fixture
def run(store) -> StoredRun:
    rows = [
        ("01", Phase.BASELINE, "composite", {"weight": 0.1, "f1": 1.5, "f2": 0.5}),
        ("02", Phase.EPSILON, "epsilon_constraint", {"epsilon": 2.0, "f1": 2.0, "f2": 0.5}),
        ("03", Phase.EPSILON, "epsilon_constraint", {"epsilon": 1.5, "f1": 1.5, "f2": 1.0}),
        ("04", Phase.EPSILON, "epsilon_constraint", {"epsilon": 1.6, "f1": 2.1, "f2": 1.1}),
        ("05", Phase.EPSILON, "epsilon_constraint", {"epsilon": 1.7, "f1": math.nan, "f2": math.nan}),
        ("06", Phase.ORIGINAL, "original", {"f1": 3.0, "f2": 0.25}),
        ("07", Phase.EPSILON, "epsilon_constraint", {"epsilon": 1.1, "f1": 1.1, "f2": 0.1, "seed": 1}),
        ("08", Phase.BOUNDARY, "epsilon_constraint", {"role": Role.LOWEST, "f1": 2.5, "f2": 0.4}),
        ("09", Phase.BOUNDARY, "epsilon_constraint", {"role": Role.HIGHEST, "f1": 1.2, "f2": 1.8}),
    ]
    states = {"04": TrialState.INFEASIBLE, "05": TrialState.DIVERGED}
    for key, phase, method, values in rows:
        values |= {"state": states.get(key, TrialState.DONE), "gradient_pairs": 410 * (method != "original")}
        store.commit(make_result(make_record(key * 4, phase=phase, method=method, **values)))
    store.write_info(make_info(scales=SCALES, reference_point=(3.0, 2.0)))
    return open_run(store.path)


def test_records_are_in_reading_order(run):
    keys = [record.trial_id[:2] for record in run.records]
    assert keys == ["06", "09", "08", "07", "03", "04", "05", "02", "01"]
    assert list(run.trials["trial_id"].str[:2]) == keys


def test_front_is_non_dominated_and_sorted_by_f1(run):
    assert list(run.front(seed=0)["trial_id"].str[:2]) == ["09", "03", "02", "08", "06"]
    assert list(run.front()["trial_id"].str[:2]) == ["07"]


def test_front_of_a_run_without_models_is_empty(store):
    store.commit(make_result(make_record(state=TrialState.FAILED, f1=None, f2=None), files={}))
    assert len(open_run(store.path).front()) == 0


def test_hypervolume_is_the_area_of_the_box_that_is_dominated(run):
    # composite: (3 - 1.5) / 2 wide and (2 - 0.5) / 2 high.
    assert run.hypervolume("composite") == pytest.approx(0.75 * 0.75)
    steps = 0.15 * 0.1 + 0.25 * 0.5 + 0.25 * 0.75 + 0.25 * 0.8
    assert run.hypervolume("epsilon_constraint", seed=0) == pytest.approx(steps)
    assert run.hypervolume("epsilon_constraint", seed=0, phases=[Phase.EPSILON]) == pytest.approx(
        0.25 * 0.5 + 0.5 * 0.75
    )
    assert run.hypervolume("max_loss") == 0.0


def test_gradient_pairs_are_those_of_the_rows_a_hypervolume_takes_and_of_the_broken_ones(run):
    ours = [record.gradient_pairs for record in run.records if record.method == "epsilon_constraint"]
    assert run.gradient_pairs("epsilon_constraint") == sum(ours) == 7 * 410
    assert run.gradient_pairs("epsilon_constraint", seed=0) == 6 * 410
    assert run.gradient_pairs("epsilon_constraint", seed=1) == 410
    assert run.gradient_pairs("epsilon_constraint", seed=0, phases=[Phase.BOUNDARY]) == 2 * 410
    assert run.gradient_pairs("composite") == 410
    assert run.gradient_pairs("max_loss") == 0
    assert run.gradient_pairs() == 7 * 410  # what the front is made of; the original costs nothing


def test_measuring_pairs_are_known_where_every_trial_that_solved_something_has_them(store):
    for number, (state, pairs) in enumerate([("DONE", 2.5), ("DIVERGED", 1.0), ("FAILED", None)]):
        store.commit(
            make_result(make_record(f"{number:016x}", state=TrialState(state), measuring_pairs=pairs))
        )
    assert open_run(store.path).measuring_pairs() == 3.5
    store.commit(make_result(make_record(f"{3:016x}", seed=1)))  # as an older release would
    run = open_run(store.path)
    assert run.measuring_pairs() is None
    assert run.measuring_pairs(seed=1) is None
    assert run.measuring_pairs(seed=0) == 3.5
    assert run.measuring_pairs("composite") == 0.0


def test_hypervolume_waits_for_the_reference_point(store):
    store.commit(make_result())
    assert open_run(store.path).hypervolume() is None


def test_tables_are_frames_read_once(run):
    assert (len(run.curves), len(run.metrics), len(run.samples)) == (18, 9, 9)
    assert run.trials is run.trials


def test_run_says_what_it_holds_and_escapes_it(run):
    assert repr(run) == "Run('ünlearn', 9 trials, 8 with a model)"
    hostile = StoredRun(run.store, make_info(name="<script>"))
    assert "<script>" not in hostile._repr_html_()


def test_store_imports_no_heavy_library():
    heavy = ("torch", "ray", "pydantic", "yaml", "pandas")
    code = f"import sys, pareto_unlearn.store; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# Object stores


@pytest.fixture(scope="module")
def bucket():
    with serve_bucket("bucket") as address:
        yield address


def test_run_in_an_object_store_comes_back_equal(bucket):
    store = RunStore.create(bucket("bucket/whole"), "run")
    store.write_info(make_info(scales=SCALES, reference_point=(3.0, 2.0)))
    record = store.commit(make_result(make_record(f1=2.0, f2=1.0)))
    assert store.commit(make_result(model=b"second")) == record
    run = open_run(bucket("bucket/whole/run"))
    assert run.records == [record]
    assert run.store.read_checkpoint(record)["model.safetensors"] == b"weights"
    assert (len(run.curves), run.hypervolume(), run.store.is_local) == (2, 0.25, False)


def test_resume_states_in_an_object_store(bucket, caplog):
    store = RunStore.create(bucket("bucket/resume"), "run")
    for step in (1, 2, 3):
        store.save_resume(TRIAL, step, {"state": bytes([step])})
    store._storage.put(f"checkpoints/{TRIAL}/.resume-3/state", b"damaged")
    assert store.load_resume(TRIAL) == (2, {"state": b"\2"})
    store.commit(make_result())
    assert store.load_resume(TRIAL) is None


def test_drivers_of_a_run_in_an_object_store_are_told_apart(bucket):
    store = RunStore.create(bucket("bucket/drivers"), "run")
    first, second = "1" * 32, "2" * 32
    store.writers.announce_driver(first)
    assert store.writers.has_driver(first)
    store.writers.announce_driver(second)
    assert (store.writers.has_driver(first), store.writers.has_driver(second)) == (False, True)
    store.writers.withdraw_driver()
    assert not store.writers.has_driver(second)


def test_lock_in_an_object_store_excludes(bucket):
    store = RunStore.create(bucket("bucket/lock"), "run")
    with store.lock(), pytest.raises(RunLockedError), store.lock():
        pass


def test_missing_bucket_is_a_config_error(bucket):
    with pytest.raises(ConfigError, match="NO_SUCH_BUCKET"):
        RunStore.create(bucket("missing/runs"), "run")


def test_cache_of_a_remote_run_is_private_to_the_user(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    directory = RunStore.create(bucket("bucket/cache"), "run").cache_dir()
    assert directory.parent.stat().st_mode & 0o777 == 0o700
    assert directory.is_relative_to(tmp_path)


class FaultyObjects(ObjectStorage):
    """Fails at the n-th put or removal, and from then on: a driver that lost its network."""

    def __init__(self, root, fail_at) -> None:
        super().__init__(fs.LocalFileSystem(), str(root))
        self.fail_at, self.calls = fail_at, itertools.count(1)

    def _count(self) -> None:
        if self.fail_at <= next(self.calls):
            raise OSError(5, "injected")

    def put(self, name, data):
        self._count()
        path = Path(self._root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        super().put(name, data)

    def remove(self, name):
        self._count()
        super().remove(name)

    def remove_directory(self, name):
        self._count()
        super().remove_directory(name)


def test_readers_of_objects_see_all_or_nothing_whichever_call_fails(tmp_path):
    for fail_at in range(1, 12):
        path = tmp_path / f"run-{fail_at}"
        RunStore.create(str(tmp_path), path.name).write_info(make_info())
        with contextlib.suppress(OSError):
            RunStore(str(path), FaultyObjects(path, fail_at)).commit(make_result())
        seen = read_everything(path)
        healed = RunStore(str(path), FaultyObjects(path, 10**9)).commit(make_result(model=b"second"))
        assert read_everything(path) == {TRIAL: seen.get(TRIAL, healed)}
    assert seen
