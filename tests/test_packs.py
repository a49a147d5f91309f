"""Packs: a compacted run reads as before, whatever crashed or was damaged on the way."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import call
from object_store import serve_bucket
from synthetic_run import planned_trials, synthetic_result, write_run
from waiting import run_process

from pareto_unlearn.records import MetricRow
from pareto_unlearn.store import RunStore, check_run, compact_run, repair_run
from pareto_unlearn.store.filesystem import Disk, LocalStorage, ObjectStorage
from pareto_unlearn.store.schemas import SCHEMAS


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run with an attempt that another superseded, a metric measured later, and trials without curves."""
    results = [synthetic_result(plan, 20) for plan in planned_trials()[:11]]
    path = Path(write_run(str(tmp_path_factory.mktemp("runs")), results))
    store = RunStore.open(path)
    result = synthetic_result(planned_trials()[2])
    store.commit(replace(result, record=replace(result.record, attempt=2, reason="again")))
    row = MetricRow(set="forget", split="heldout", metric="later", protocol="pixel", value=1.0, n=3)
    store.add_metric(store.row_of(result.record.trial_id), [row])
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "digits"))


def rows(path: Path | str) -> dict[str, list[str]]:
    store = RunStore.open(path)
    assert store.rows.lost_parts() == {}
    return {table: sorted(map(repr, store.table(table).to_pylist())) for table in SCHEMAS}


def small_files(path: Path) -> int:
    return sum(1 for table in SCHEMAS for _ in (path / table).glob("part-*-?.parquet"))


def test_a_packed_run_reads_as_before(path):
    before, watched = rows(path), RunStore.open(path)
    records = watched.records()
    assert RunStore.open(path).packs.compact() == len(records) + 1
    assert small_files(path) == 0
    assert rows(path) == before
    assert repr(watched.records()) == repr(records) == repr(RunStore.open(path).records())
    some = next(iter(records.values()))
    assert repr(RunStore.open(path).find(some.trial_id, 1)) == repr(some)
    assert RunStore.open(path).find("ab" * 8, 1) is None
    assert check_run(RunStore.open(path)) == []
    (path / "packs.json").write_text("{")  # only says where to look
    assert rows(path) == before


def test_a_committed_trial_in_a_pack_is_not_committed_again(path):
    RunStore.open(path).packs.compact()
    result = synthetic_result(planned_trials()[0])
    known = RunStore.open(path).commit(replace(result, record=replace(result.record, reason="another")))
    assert known.reason == result.record.reason
    assert small_files(path) == 0


class DyingDisk(Disk):
    """Does what it is asked to ``left`` times, and nothing from then on."""

    left = 0

    def _live(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("the process is dead")

    def create(self, path, data):
        self._live()
        super().create(path, data)

    def rename(self, source, target):
        self._live()
        super().rename(source, target)

    def sync_directory(self, path):
        self._live()
        super().sync_directory(path)

    def remove(self, path):
        self._live()
        super().remove(path)


def dying_copies(made: Path, tmp_path: Path) -> Iterator[Path]:
    """Copies of a run whose compaction died at every fourth of its calls, as far as it has any."""
    for number in range(0, 400, 7):
        copy = Path(shutil.copytree(made, tmp_path / f"copy{number}"))
        disk = DyingDisk()
        disk.left = number
        try:
            RunStore(str(copy), LocalStorage(copy, disk)).packs.compact()
        except OSError:
            yield copy
            shutil.rmtree(copy)
            continue
        return
    raise AssertionError("the compaction never ended")


def test_a_compaction_that_dies_loses_and_doubles_nothing(made, tmp_path):
    before, deaths = rows(made), 0
    for copy in dying_copies(made, tmp_path):
        deaths += 1
        assert rows(copy) == before
        RunStore.open(copy).packs.compact()
        assert rows(copy) == before
        assert small_files(copy) == 0
    assert deaths > 5


def test_a_reader_that_lists_before_and_opens_after_a_compaction_sees_all(path):
    class Late(LocalStorage):
        def file_names(self, directory: str) -> list[str]:
            names = super().file_names(directory)
            RunStore.open(path).packs.compact()
            return names

    before = rows(path)
    copy = RunStore(str(path), Late(path))
    assert len(copy.records()) == len(before["trials"])


def pack_of(path: Path, table: str) -> Path:
    (pack,) = (path / table).glob("pack-*")
    return pack


def flip(pack: Path, *places: int) -> None:
    content = bytearray(pack.read_bytes())
    for place in places:
        content[place] ^= 1
    pack.write_bytes(content)


def attempts(path: Path) -> dict[str, int]:
    return {trial_id: row.attempt for trial_id, row in RunStore.open(path).records().items()}


def ends_of(pack: Path) -> int:
    """Return where the copy of a pack's footer begins: row groups lie before it."""
    content = pack.read_bytes()
    return content.index(content[-8 - int.from_bytes(content[-8:-4], "little") : -8])


@pytest.mark.parametrize(("table", "place"), [("trials", 0.2), ("curves", 0.2)])
def test_damage_within_a_pack_costs_its_row_group_alone_and_says_which_trials(
    path, monkeypatch, table, place
):
    monkeypatch.setattr("pareto_unlearn.store.packs.ATTEMPTS_OF_GROUP", 4)
    before, whole = attempts(path), rows(path)
    RunStore.open(path).packs.compact()
    pack = pack_of(path, table)
    place = int(place * ends_of(pack))
    flip(pack, *range(place, place + 64), -20)  # in the footer too, whose copy is whole
    (fault,) = check_run(RunStore.open(path))
    assert fault.kind.value == "damaged pack"
    assert 3 <= len(fault.lost) <= 4  # one trial has two attempts
    assert f"Trials lost with it: {len(fault.lost)} ({fault.lost[0]}, " in fault.detail
    mended, left = repair_run(RunStore.open(path))
    assert mended[0].name == f"{table}/{pack.name}"
    assert left == []
    assert check_run(RunStore.open(path)) == []
    assert (path / "damaged" / table / pack.name).exists()
    assert set(before.items()) - set(attempts(path).items()) == {(one, before[one]) for one in fault.lost}
    assert all(set(left) <= set(whole[table]) for table, left in rows(path).items())


def damages_of_ends(content: bytes, start: int) -> Iterator[bytes]:
    """Yield a pack with a flipped bit at many places of its two footers, blocks lost there, and cuts."""
    for place in range(start, len(content), 61):
        yield content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
    for place in range(start, len(content), 1024):
        block = content[place : place + 4096]
        yield content[:place] + bytes(len(block)) + content[place + 4096 :]
    yield from (content[: len(content) - cut] for cut in (1, 8, 500, 4000))


def test_any_damage_to_one_of_the_two_footers_costs_nothing(path):
    before, table = rows(path), "samples"
    store = RunStore.open(path)
    store.packs.compact()
    pack = pack_of(path, table)
    content = pack.read_bytes()
    damages = list(damages_of_ends(content, ends_of(pack)))
    assert len(damages) > 100
    for damage in damages:
        pack.write_bytes(damage)
        assert store.packs.mended(table, pack.name) == content
    for damage in (damages[0], damages[-1]):
        pack.write_bytes(damage)
        (fault,) = check_run(RunStore.open(path))
        assert fault.lost == ()
        assert fault.detail.endswith("No trial is lost with it")
        repair_run(RunStore.open(path))
        assert check_run(RunStore.open(path)) == []
        assert pack.read_bytes() == content
        assert rows(path) == before
    assert len(list((path / "damaged" / table).iterdir())) == 2


def test_a_pack_without_a_second_footer_still_reads_and_says_that_its_only_one_cost_all(path, monkeypatch):
    monkeypatch.setattr("pareto_unlearn.store.footers.with_copy", bytes)
    before = rows(path)
    RunStore.open(path).packs.compact()
    assert rows(path) == before
    known = attempts(path)
    flip(pack_of(path, "metrics"), -20)
    (fault,) = check_run(RunStore.open(path))
    assert sorted(fault.lost) == sorted(known)
    repair_run(RunStore.open(path))
    assert RunStore.open(path).records() == {}


def test_a_lost_pack_is_found(path):
    count = len(attempts(path))
    RunStore.open(path).packs.compact()
    next((path / "metrics").glob("pack-*")).unlink()
    assert "metrics" in RunStore.open(path).rows.lost_parts()
    (fault,) = check_run(RunStore.open(path))
    assert fault.detail.startswith(f"missing. Trials lost with it: {len(fault.lost)} (")
    assert len(fault.lost) == count


def test_a_damaged_model_of_a_packed_trial_is_set_aside_alone(path):
    store = RunStore.open(path)
    count = len(store.records())
    store.packs.compact()
    next((path / "checkpoints").glob("*/1/model.safetensors")).write_bytes(b"x")
    repair_run(RunStore.open(path))
    assert len(RunStore.open(path).records()) == count - 1
    assert check_run(RunStore.open(path)) == []


def test_pictures_are_dropped_from_packs_too(path):
    store = RunStore.open(path)
    store.packs.compact()
    assert store.drop_pictures("forget") > 0
    assert store.drop_pictures("forget") == 0
    assert {row["set"] for row in store.table("samples").to_pylist()} == {"retain"}
    assert check_run(RunStore.open(path)) == []


def test_repair_puts_many_small_files_together(path, monkeypatch):
    monkeypatch.setattr("pareto_unlearn.store.health.MANY", 5)
    before = rows(path)
    assert compact_run(RunStore.open(path)) > 5
    assert small_files(path) == 0
    assert rows(path) == before
    assert "all files are whole" in call("store", "repair", path).stdout


def test_a_run_in_an_object_store_is_packed_and_a_compaction_that_dies_there_is_ended_by_the_next(
    monkeypatch,
):
    results = [synthetic_result(plan, 20) for plan in planned_trials()[:6]]
    with serve_bucket("packs") as address:
        path = write_run(address("packs/runs"), results)
        before, remove, removed = rows(path), ObjectStorage.remove, []

        def die(storage: ObjectStorage, name: str) -> None:
            removed.append(name)
            if len(removed) > 5:
                raise OSError("the connection is lost")
            remove(storage, name)

        monkeypatch.setattr(ObjectStorage, "remove", die)
        with pytest.raises(OSError, match="lost"):
            RunStore.open(path).packs.compact()
        monkeypatch.undo()
        assert rows(path) == before
        RunStore.open(path).packs.compact()
        assert rows(path) == before
        names = {table: RunStore.open(path).file_names(table) for table in SCHEMAS}
        assert all(name.startswith("pack-") for found in names.values() for name in found)
        result = synthetic_result(planned_trials()[0])
        again = RunStore.open(path).commit(replace(result, record=replace(result.record, reason="another")))
        assert again.reason == result.record.reason


def test_a_large_run_is_listed_without_pandas(tmp_path):
    """To import it takes as long as to read 10,000 trials."""
    path = write_run(str(tmp_path), [synthetic_result(plan, 3) for plan in planned_trials()[:4]])
    RunStore.open(path).packs.compact()
    code = (
        "import sys; from pareto_unlearn.store import open_run; from pareto_unlearn.sweep.summary import *; "
        "print(closing_table(open_run(sys.argv[1])).row_count, 'pandas' in sys.modules)"
    )
    done = run_process([sys.executable, "-c", code, path])
    assert done.stdout.split() == [str(len(RunStore.open(path).records())), "False"], done.stderr
