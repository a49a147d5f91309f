"""Cached files: no damage is ever read, and what is damaged is made again."""

import os
import shutil
from pathlib import Path

import pytest

from pareto_unlearn import file_lock, whole_files
from pareto_unlearn.errors import StoreError
from pareto_unlearn.whole_files import open_cached

CONTENT = {"array.npy": bytes(range(64)), "scales.json": b'{"f1": 1.0}'}


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """Forget what was found whole, as a new process does."""
    monkeypatch.setattr(whole_files, "_checked", set())


def make_folder(path: Path) -> None:
    path.mkdir()
    for name, content in CONTENT.items():
        (path / name).write_bytes(content)


def make_file(path: Path) -> None:
    path.write_bytes(CONTENT["array.npy"])


def made_again(path: Path, make=make_folder) -> bool:
    """Open the entry as a new process; return whether it was made, which must leave what it should hold."""
    whole_files._checked.clear()
    calls: list[Path] = []

    def count(staging: Path) -> None:
        calls.append(staging)
        make(staging)

    open_cached(path, count)
    files = {file.name: file.read_bytes() for file in path.iterdir()} if path.is_dir() else path.read_bytes()
    assert files == (CONTENT if make is make_folder else CONTENT["array.npy"])
    return bool(calls)


@pytest.mark.parametrize("name", CONTENT)
def test_every_flipped_bit_is_found(tmp_path, name):
    entry = tmp_path / "targets"
    assert made_again(entry)
    assert not made_again(entry)
    for place in range(len(CONTENT[name])):
        damaged = bytearray(CONTENT[name])
        damaged[place] ^= 1 << place % 8
        (entry / name).write_bytes(bytes(damaged))
        assert made_again(entry)


DAMAGE = {
    "emptied": lambda entry: (entry / "array.npy").write_bytes(b""),
    "cut": lambda entry: os.truncate(entry / "array.npy", 10),
    "zeroed": lambda entry: (entry / "array.npy").write_bytes(bytes(64)),
    "a file lost": lambda entry: (entry / "scales.json").unlink(),
    "a file more": lambda entry: (entry / "stray.npy").write_bytes(b"1"),
    "sums lost": lambda entry: entry.with_name("targets.sums").unlink(),
    "sums cut": lambda entry: os.truncate(entry.with_name("targets.sums"), 5),
    "sums of nothing": lambda entry: entry.with_name("targets.sums").write_text("[]"),
    "all lost": shutil.rmtree,
    "a file in its place": lambda entry: (shutil.rmtree(entry), entry.write_bytes(b"1")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_whole_is_made_again(tmp_path, damage):
    entry = tmp_path / "targets"
    made_again(entry)
    damage(entry)
    assert made_again(entry)
    assert {path.name for path in tmp_path.iterdir()} == {"targets", "targets.lock", "targets.sums"}


def test_damage_is_told_with_the_name_of_the_file(tmp_path, caplog):
    entry = tmp_path / "rows.npy"
    made_again(entry, make_file)
    assert caplog.text == ""
    entry.write_bytes(b"other")
    assert made_again(entry, make_file)
    assert f"{entry} is damaged (rows.npy): it is made again" in caplog.text


def test_a_process_checks_a_file_once_and_again_when_it_changed(tmp_path, monkeypatch):
    entry, reads = tmp_path / "targets", []
    real = whole_files.sum_of
    monkeypatch.setattr(whole_files, "sum_of", lambda file: reads.append(file.name) or real(file))
    for _ in range(3):
        open_cached(entry, make_folder)
    assert sorted(reads) == sorted([*CONTENT, *CONTENT])  # when it was made, and at the first reading
    (entry / "array.npy").write_bytes(bytes(64))
    open_cached(entry, make_folder)
    assert (entry / "array.npy").read_bytes() == CONTENT["array.npy"]


@pytest.mark.parametrize("name", ["targets", "targets/array.npy", "targets.sums", "targets.part"])
def test_a_link_is_replaced_and_what_it_leads_to_stays_as_it_is(tmp_path, name):
    theirs, entry = tmp_path / "theirs", tmp_path / "cache" / "targets"
    entry.parent.mkdir()
    make_folder(theirs)
    made_again(entry)
    link = entry.parent / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(theirs if name in ("targets", "targets.part") else theirs / "array.npy")
    again = made_again(entry)
    assert again or name == "targets.part"
    assert {file.name: file.read_bytes() for file in theirs.iterdir()} == CONTENT
    assert not any(path.is_symlink() for path in entry.parent.rglob("*")) or name == "targets.part"


def test_a_link_for_a_lock_is_refused_and_its_end_left_as_it_is(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"kept")
    (tmp_path / "targets.lock").symlink_to(precious)
    with pytest.raises(StoreError, match=r"targets\.lock: expected a lock file, found a link; remove it"):
        open_cached(tmp_path / "targets", make_folder)
    assert precious.read_bytes() == b"kept"


def test_a_lock_never_empties_the_file_that_it_opens(tmp_path):
    (tmp_path / "targets.lock").write_bytes(b"somebody's")
    with file_lock.exclusive(tmp_path / "targets"):
        pass
    assert (tmp_path / "targets.lock").read_bytes() == b"somebody's"


@pytest.mark.parametrize("call", range(1, 9))
def test_whichever_flush_or_rename_fails_nothing_half_made_is_read_later(tmp_path, monkeypatch, call):
    entry, calls = tmp_path / "targets", []

    def counted(real):
        def once(*arguments, **options):
            calls.append(real)
            if len(calls) == call:
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        return once

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        if call <= 7:  # 5 flushes and 2 renames
            with pytest.raises(OSError, match="No space left"):
                open_cached(entry, make_folder)
        else:
            open_cached(entry, make_folder)
    assert not list(tmp_path.glob("*.part"))
    made_again(entry)


def test_an_error_of_the_disk_is_one_in_the_words_of_a_library_too(tmp_path):
    def make(staging: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: Input/output error (os error 5)")

    with pytest.raises(OSError, match="Input/output error"):
        open_cached(tmp_path / "features.safetensors", make)
