"""Stored records over releases: new columns, files of older and newer releases, damaged names, fixtures."""

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.make_store_fixture import digest_of, make_fixture
from trial_rows import finished_record

from pareto_unlearn.errors import RunLockedError, StoreError
from pareto_unlearn.records import (
    SCHEMA_VERSION,
    BankEntry,
    CurveRow,
    MetricRow,
    Phase,
    Role,
    RunInfo,
    SampleRow,
    Scales,
    TrialRecord,
    TrialResult,
    ValidRange,
)
from pareto_unlearn.store import RunStore, StoredRun, open_run, schemas
from pareto_unlearn.store.lock import LOCK_FILE
from pareto_unlearn.store.schemas import SCHEMAS, decode_record, encode_rows
from pareto_unlearn.stored_fields import SEAL, read_fields

FOLDER = Path(__file__).parent / "fixtures"
FIXTURES = {"store_v1": "0743e521fb2609fbeb2dde797c343bb27f0d2e789f8a6c2eeed317c3ca58fb63"}
"""Every fixture of the store with the digest of its files; lines are added, and never changed."""
CURRENT = FOLDER / f"store_v{SCHEMA_VERSION}"
TRIAL = "0a1b2c3d4e5f6071"
ROW_TYPES = {"trials": TrialRecord, "curves": CurveRow, "metrics": MetricRow, "samples": SampleRow}


@pytest.fixture
def store(tmp_path) -> RunStore:
    """A copy of the fixture of the current version, open for writing."""
    return RunStore.open(shutil.copytree(CURRENT, tmp_path / "run"))


def part_of(store: RunStore, table: str, trial_id: str = "00000003") -> Path:
    return Path(store.path) / table / f"part-{trial_id}-1.parquet"


def rewrite(path: Path, change) -> None:
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(path)), sink)
    path.write_bytes(sink.getvalue())


def with_version(version: int):
    metadata = {b"pareto_unlearn.table": b"trials", b"pareto_unlearn.schema_version": str(version).encode()}
    return lambda table: table.replace_schema_metadata(metadata)


# Fixtures


def test_no_fixture_of_a_store_was_written_again():
    assert {path.name: digest_of(path) for path in FOLDER.glob("store_v*")} == FIXTURES


def test_the_current_version_has_a_fixture():
    assert CURRENT.name in FIXTURES


def assert_reads(run: StoredRun) -> None:
    assert [(r.phase, r.state, r.f1) for r in run.records] == [
        ("original", "DONE", 3.0),
        ("boundary", "DONE", 1.25),
        ("epsilon", "DONE", 2.0),
        ("epsilon", "DIVERGED", None),
    ]
    assert run.info.ranges[0].upper_source == "lowest"
    assert run.hypervolume() == pytest.approx(0.5)
    assert run.store.read_checkpoint(run.records[1]) == {"model.safetensors": b"highest"}
    assert [len(run.store.table(name)) for name in SCHEMAS] == [4, 3, 3, 3]
    assert math.isnan(run.store.table("curves").to_pylist()[-1]["f2"])


@pytest.mark.parametrize("name", FIXTURES)
def test_a_run_of_every_version_reads(name, tmp_path):
    assert_reads(open_run(shutil.copytree(FOLDER / name, tmp_path / name)))


def test_the_script_makes_a_run_that_reads(tmp_path):
    assert_reads(open_run(make_fixture(tmp_path)))


def test_the_script_refuses_to_replace_a_fixture(tmp_path):
    made = make_fixture(tmp_path)
    before = digest_of(made)
    with pytest.raises(FileExistsError, match="never made again"):
        make_fixture(tmp_path)
    assert digest_of(made) == before


# Columns follow from the records


@pytest.mark.parametrize("table", SCHEMAS)
def test_columns_are_the_fields_of_the_record_in_order(table):
    fields = [field.name for field in dataclasses.fields(ROW_TYPES[table])]
    key = [] if table == "trials" else ["trial_id", "attempt"]
    assert SCHEMAS[table].names == key + fields


@pytest.mark.parametrize("table", SCHEMAS)
def test_columns_of_the_fixture_keep_their_type(table):
    file = pq.ParquetFile(CURRENT / table / "part-00000003-1.parquet").schema_arrow
    assert [SCHEMAS[table].field(field.name) for field in file] == list(file)


@pytest.mark.parametrize("table", SCHEMAS)
def test_columns_added_since_the_fixture_are_null_in_older_files(table):
    file = pq.ParquetFile(CURRENT / table / "part-00000003-1.parquet").schema_arrow
    defaults = {field.name: field.default for field in dataclasses.fields(ROW_TYPES[table])}
    for field in SCHEMAS[table]:
        assert field.name in file.names or (field.nullable and defaults[field.name] is None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wider(TrialRecord):
    """A trial's row as a later release may have it."""

    of_tomorrow: float | None = None
    count_of_tomorrow: int | None = None
    flag_of_tomorrow: bool | None = None
    note_of_tomorrow: str | None = None


@pytest.fixture
def later_release(monkeypatch):
    """Add columns to the trials' record, which is all that a new column needs."""
    monkeypatch.setitem(SCHEMAS, "trials", schemas._schema("trials", Wider))
    monkeypatch.setattr(schemas, "TrialRecord", Wider)


def test_a_new_column_is_null_in_older_files_and_stored_in_new_ones(store, later_release):
    old = len(store.records())
    new = {"of_tomorrow": 0.5, "count_of_tomorrow": 3, "flag_of_tomorrow": True, "note_of_tomorrow": "é"}
    added = Wider(**dataclasses.asdict(finished_record(TRIAL)), **new)
    store.commit(TrialResult(record=added, files={}))
    records = RunStore.open(store.path).records()
    assert records.pop(TRIAL) == added
    assert [getattr(row, name) for row in records.values() for name in new] == [None] * len(new) * old
    assert store.table("trials")["of_tomorrow"].to_pylist() == [*[None] * old, 0.5]


def test_a_column_of_another_kind_is_refused_with_the_known_kinds():
    record = dataclasses.make_dataclass("Record", [("place", tuple[float, float] | None)])
    with pytest.raises(TypeError, match=r"column place is .*; expected one of bool, int, float, str, bytes"):
        schemas._schema("trials", record)


def test_a_column_of_a_newer_release_is_kept_in_tables_and_left_out_of_records(store):
    before = store.records()
    rewrite(part_of(store, "trials"), lambda table: table.append_column("of_tomorrow", pa.array([0.5])))
    fresh = RunStore.open(store.path)
    assert fresh.records() == before
    assert sorted(fresh.table("trials")["of_tomorrow"].to_pylist(), key=str) == [0.5, None, None, None]


@pytest.mark.parametrize(
    ("table", "column"), [("trials", "f1_image_std"), ("curves", "epsilon"), ("metrics", "low")]
)
def test_a_nullable_column_that_a_file_lacks_is_null(store, table, column):
    rewrite(part_of(store, table), lambda table: table.drop_columns(column))
    assert store.table(table)[column].null_count >= 1
    assert len(store.records()) == 4


@pytest.mark.parametrize("column", ["reason", "steps"])
@pytest.mark.parametrize("kind", [pa.binary(), None])
def test_a_required_column_of_another_type_or_missing_is_a_store_error(store, column, kind):
    def change(table):
        position = table.schema.get_field_index(column)
        shorter = table.remove_column(position)
        return shorter if kind is None else shorter.add_column(position, column, pa.array([b"1"], kind))

    rewrite(part_of(store, "trials"), change)
    with pytest.raises(StoreError, match=f"columns {column} are missing or of another type"):
        store.records()


def test_a_nullable_column_of_another_type_is_a_store_error(store):
    def change(table):
        return table.set_column(table.schema.get_field_index("f1"), "f1", pa.array([1]))

    rewrite(part_of(store, "trials"), change)
    with pytest.raises(StoreError, match="columns f1 are missing or of another type"):
        store.records()


@pytest.mark.parametrize("version", [2, 12])
def test_a_file_of_a_newer_version_names_both_versions_and_what_to_do(store, version):
    rewrite(part_of(store, "trials"), with_version(version))
    with pytest.raises(
        StoreError, match=rf"part-0.*schema version {version} is newer than 1.*update pareto-unlearn"
    ):
        store.records()


# A damaged footer


def replaced_once(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    position = data.rindex(old)
    return data[:position] + new + data[position + len(old) :]


def footer_with(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return a file with ``new`` in place of ``old`` in the Parquet columns, not in Arrow's copy of them."""
    size = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - size
    position = data.index(old, start)
    return data[:position] + new + data[position + len(old) :]


def test_a_nullable_column_whose_name_was_damaged_is_a_store_error():
    data = encode_rows("trials", TRIAL, 1, [finished_record(TRIAL, f1_image_std=0.5)])
    with pytest.raises(StoreError, match="its columns differ from the copy"):
        decode_record(footer_with(data, b"f1_image_std", b"f1_image_ste"), "file")


def test_a_damaged_version_is_a_store_error():
    data = encode_rows("trials", TRIAL, 1, [finished_record(TRIAL)])
    key = b"pareto_unlearn.schema_version\x18\x01"
    with pytest.raises(StoreError, match="The file is damaged"):
        decode_record(replaced_once(data, key + b"1", key + b"3"), "file")


@pytest.mark.parametrize("position", [8, 400, -1])
def test_a_damaged_copy_of_the_schema_is_a_store_error(position):
    data = encode_rows("trials", TRIAL, 1, [finished_record(TRIAL)])
    copy = pq.read_metadata(io.BytesIO(data)).metadata[b"ARROW:schema"]
    damaged = bytearray(copy)
    damaged[position] = ord("*")
    with pytest.raises(StoreError, match="The file is damaged"):
        decode_record(replaced_once(data, copy, bytes(damaged)), "file")


def test_a_file_without_a_copy_of_the_schema_is_a_store_error(store):
    path = part_of(store, "trials")
    pq.write_table(pq.read_table(path), path, store_schema=False)
    with pytest.raises(StoreError, match="The file is damaged"):
        store.records()


# JSON


def changed_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    content.pop(SEAL, None)  # what another release writes has a checksum of its own, or none
    change(content)
    path.write_text(json.dumps(content))


def info_file(store: RunStore) -> Path:
    return Path(store.path) / "run.json"


def test_fields_of_a_newer_release_in_run_json_are_ignored(store):
    changed_json(info_file(store), lambda content: content.pop("smoke", None))
    store.write_info(store.read_info())
    before = store.read_info()

    def add(content):
        for part in (content, content["scales"], content["ranges"][0]):
            part["of_tomorrow"] = [1.0]

    changed_json(info_file(store), add)
    assert store.read_info() == before


def test_fields_that_an_older_run_json_lacks_have_their_default(store):
    changed_json(info_file(store), lambda content: content["ranges"][0].pop("reason"))
    info = store.read_info()
    assert (info.smoke, info.ranges[0].reason) == (False, "")


@pytest.mark.parametrize(
    ("part", "name"),
    [("run", "reference_point"), ("run", "name"), ("range", "reason"), ("scales", "f1_floor")],
)
def test_a_damaged_name_in_run_json_is_a_store_error(store, part, name):
    def rename(content):
        parts = {"run": content, "range": content["ranges"][0], "scales": content["scales"]}
        parts[part][name[:-1] + "~"] = parts[part].pop(name)

    changed_json(info_file(store), rename)
    with pytest.raises(StoreError, match=r"run\.json is damaged.*restore it from a copy"):
        store.read_info()


def test_a_newer_run_json_names_both_versions_and_what_to_do(store):
    changed_json(info_file(store), lambda content: content.update(schema_version=99, of_tomorrow=1))
    with pytest.raises(StoreError, match=r"run\.json: schema version 99 is newer than 1.*update"):
        store.read_info()


def test_fields_of_a_newer_release_in_a_manifest_are_ignored(store):
    def add(content):
        content["of_tomorrow"] = content["files"]["model.safetensors"]["of_tomorrow"] = 1

    changed_json(Path(store.path) / "checkpoints/00000003/1/MANIFEST.json", add)
    assert store.read_checkpoint(store.records()["00000003"]) == {"model.safetensors": b"m"}


@pytest.mark.parametrize("name", ["steps", "attempt"])
def test_a_field_that_a_manifest_lacks_is_a_store_error(store, name):
    changed_json(Path(store.path) / "checkpoints/00000003/1/MANIFEST.json", lambda content: content.pop(name))
    with pytest.raises(StoreError, match=r"MANIFEST\.json is damaged"):
        store.read_checkpoint(store.records()["00000003"])


def commit_path(store: RunStore, *entries: dict[str, object]) -> None:
    record = finished_record(TRIAL, phase=Phase.BOUNDARY, role=Role.HIGHEST)
    files = {"model.safetensors": b"w", "bank.json": json.dumps(entries).encode()}
    store.commit(TrialResult(record=record, files=files))


ENTRY = {
    "step": 2, "epsilon": 1.0, "f1": 0.5, "f2": 2.0, "level": 0.6, "learning_rate": 0.1, "sha256": "00",
}  # fmt: skip


def test_fields_of_a_newer_release_in_a_bank_are_ignored(store):
    commit_path(store, ENTRY | {"of_tomorrow": 1})
    assert store.read_bank(TRIAL) == (BankEntry(**ENTRY),)


def test_a_field_that_a_bank_lacks_is_a_store_error_that_names_the_list(store):
    commit_path(store, {name: value for name, value in ENTRY.items() if name != "f1"})
    with pytest.raises(StoreError, match=r"bank\.json is damaged.*f1"):
        RunStore.open(store.path).read_bank(TRIAL)


def test_a_lock_of_a_newer_release_names_its_holder(store):
    with store.lock():
        changed_json(Path(store.path) / LOCK_FILE, lambda content: content.update(of_tomorrow=1))
        with pytest.raises(RunLockedError, match="is held by process"), store.lock():
            pass


@pytest.mark.parametrize(
    "kind", [RunInfo, Scales, ValidRange, BankEntry, TrialRecord], ids=lambda kind: kind.__name__
)
def test_missing_and_unknown_fields_at_once_name_both(kind):
    first = dataclasses.fields(kind)[0].name
    stored = {field.name: 0 for field in dataclasses.fields(kind) if field.name != first} | {"unknown": 1}
    with pytest.raises(
        ValueError, match=f"{kind.__name__} lacks the fields {first} and has the unknown fields unknown"
    ):
        read_fields(kind, stored)
