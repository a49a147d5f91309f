"""purge-forget: the pictures of forget images leave a run, and nothing else does."""

import io
import shutil
from pathlib import Path

import pytest
from command_line import call
from PIL import Image

from pareto_unlearn.report import write_report
from pareto_unlearn.store import open_run


@pytest.fixture
def run_path(copy_small_sweep, tmp_path) -> Path:
    copy_small_sweep(tmp_path)
    write_report(str(tmp_path / "quickstart"))
    return tmp_path / "quickstart"


def pictures(path: Path, image_set: str) -> list[bytes]:
    table = open_run(path).samples
    return table[table["set"] == image_set]["image"].tolist()


def test_no_forget_picture_is_left_in_any_file_and_the_rest_is_as_before(run_path):
    gone, kept = pictures(run_path, "forget"), pictures(run_path, "retain")
    before = {path: path.read_bytes() for path in run_path.rglob("*") if path.is_file()}
    done = call("purge-forget", run_path, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"removed {len(gone)} pictures" in done.stdout
    assert pictures(run_path, "forget") == []
    assert pictures(run_path, "retain") == kept
    assert all(Image.open(io.BytesIO(picture)).size for picture in kept)
    assert list((run_path / "cache").iterdir()) == []
    changed = {path for path in before if not path.exists() or path.read_bytes() != before[path]}
    assert {path.relative_to(run_path).parts[0] for path in changed} == {"cache", "samples", "report.html"}


def test_it_says_what_stays(run_path):
    stays = call("purge-forget", run_path, "--yes").stdout.partition("What stays:")[2]
    assert "manifest.csv" in stays
    assert "checkpoints that still show the images: original, lowest" in stays
    again = call("purge-forget", run_path, "--yes")
    assert "removed 0 pictures and 0.0 MB" in again.stdout


def test_it_names_the_folder_of_pixels_that_the_run_shares(run_path, tmp_path):
    assert "decoded pixels" not in call("purge-forget", run_path, "--yes").stdout
    sweep = run_path / "sweep.yaml"
    text = sweep.read_text()
    assert text.count("cache_folder: null") == 1
    sweep.write_text(text.replace("cache_folder: null", f"cache_folder: {tmp_path}/pixels"))
    stays = call("purge-forget", run_path, "--yes").stdout
    assert f"decoded pixels of all images in {tmp_path}/pixels of every machine" in stays
    for damaged in ("data: [", "data: 3"):
        sweep.write_text(damaged)
        assert call("purge-forget", run_path, "--yes").returncode == 0
    sweep.unlink()
    lost = call("purge-forget", run_path, "--yes")
    assert (lost.returncode, "decoded pixels, if the sweep named a folder" in lost.stdout) == (0, True)


def test_the_run_can_be_used_afterwards(run_path, tmp_path):
    assert call("purge-forget", run_path, "--yes").returncode == 0
    for verb in (
        ["ls", run_path],
        ["report", run_path],
        ["export", run_path, tmp_path / "model.safetensors", "--epsilon", "0.4"],
        ["audit", run_path, "--quick", "--jobs", "1"],
    ):
        done = call(*verb)
        assert done.returncode == 0, done.stderr
    dialled = open_run(run_path).samples
    assert set(dialled[dialled["set"] == "forget"]["kind"]) == {"output"}
    assert call("purge-forget", run_path, "--yes").returncode == 0
    assert pictures(run_path, "forget") == []


def test_without_yes_it_asks(run_path, monkeypatch):
    before = pictures(run_path, "forget")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert call("purge-forget", run_path).returncode == 1
    assert pictures(run_path, "forget") == before


def test_a_link_in_the_cache_is_removed_and_not_followed(run_path, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (run_path / "cache" / "link").symlink_to(precious)
    assert call("purge-forget", run_path, "--yes").returncode == 0
    assert (precious / "file").read_text() == "mine"
    shutil.rmtree(run_path / "cache")
    (run_path / "cache").symlink_to(precious)
    done = call("purge-forget", run_path, "--yes")
    assert (done.returncode, (precious / "file").read_text()) == (6, "mine")
