"""A damaged run is found out, mended where it can be, and nothing of it is deleted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import call
from synthetic_run import write_run

from pareto_unlearn.store import RunStore


@pytest.fixture
def damage(tmp_path: Path) -> tuple[Path, Callable[[], list[str]]]:
    path = Path(write_run(str(tmp_path)))

    def check() -> list[str]:
        done = call("store", "check", path, "--json")
        found = json.loads(done.stdout)
        assert done.returncode == (6 if found else 0)
        return [fault["kind"] for fault in found]

    return path, check


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_whole_run_has_no_faults(damage):
    path, check = damage
    assert check() == []
    assert call("store", "check", path).stdout == "all files are whole\n"


def damage_part(path: Path) -> None:
    (next((path / "curves").iterdir())).write_bytes(b"")


def damage_model(path: Path) -> None:
    flip(next((path / "checkpoints").glob("*/1/model.safetensors")))


def leave_files(path: Path) -> None:
    (path / "trials" / ".tmp-part-1").write_bytes(b"x")
    shutil.copytree(next((path / "checkpoints").glob("*/1")), path / "checkpoints" / ".tmp-1-ab")


def damage_cache(path: Path) -> None:
    (path / "cache").mkdir(exist_ok=True)
    (path / "cache" / "inputs-1-forget-train.npy").write_bytes(b"1")
    (path / "cache" / "inputs-1-forget-train.npy.sums").write_text("{}")


def lose_row(path: Path) -> None:
    next((path / "trials").iterdir()).unlink()


def damage_scales(path: Path) -> None:
    (path / "scales.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "kinds"),
    [
        (damage_part, ["damaged trial"]),
        (damage_model, ["damaged trial"]),
        (leave_files, ["leftover", "leftover"]),
        (damage_cache, ["damaged cache"]),
        (lose_row, ["files without a row"]),
        (damage_scales, ["damaged scales"]),
    ],
)
def test_what_can_be_mended_is_found_and_mended(damage, harm, kinds):
    path, check = damage
    before = len(RunStore.open(path).records())
    harm(path)
    assert check() == kinds
    assert call("store", "repair", path).returncode == 0
    assert check() == []
    after = len(RunStore.open(path).records())
    lost = any(kind in ("damaged trial", "files without a row") for kind in kinds)
    assert after == before - lost
    assert (path / "damaged").is_dir() == (lost or "damaged scales" in kinds)


def lose_model(path: Path) -> None:
    shutil.rmtree(next((path / "checkpoints").glob("*/1")))


def put_link(path: Path) -> None:
    (path / "cache").symlink_to(path.parent)


def damage_info(path: Path) -> None:
    (path / "run.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "kind"),
    [(lose_model, "lost model"), (put_link, "link"), (damage_info, "damaged run.json")],
)
def test_what_cannot_be_mended_is_said_and_left(damage, harm, kind):
    path, check = damage
    harm(path)
    assert check() == [kind]
    done = call("store", "repair", path)
    assert done.returncode == 6
    assert "repair did: nothing" in done.stdout
    assert check() == [kind]


def lose_trial_folder(path: Path) -> None:
    shutil.rmtree(next((path / "checkpoints").glob("*/1")).parent)


def lose(table: str) -> Callable[[Path], None]:
    return lambda path: next((path / table).iterdir()).unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lose("metrics"), "files of trials are lost (metrics of 1 trial)"),
        (lose("samples"), "files of trials are lost (samples of 1 trial)"),
        (lose_trial_folder, "files of trials are lost (checkpoints of 1 trial)"),
        (lose_row, "1 trial left files but no row"),
    ],
)
def test_the_report_of_a_run_that_lost_a_file_says_so(damage, tmp_path, harm, words):
    path, _ = damage
    harm(path)
    done = call("report", path, "--out", tmp_path / "report.html")
    assert done.returncode == 0
    assert words in (tmp_path / "report.html").read_text()


def test_a_cut_off_part_ends_the_report_in_a_sentence(damage, tmp_path):
    path, _ = damage
    part = next((path / "samples").iterdir())
    part.write_bytes(part.read_bytes()[:-40])
    done = call("report", path, "--out", tmp_path / "report.html")
    assert done.returncode == 6
    assert part.name in done.stderr
    assert "`pareto-unlearn store repair` set it aside" in done.stderr
    assert not (tmp_path / "report.html").exists()
