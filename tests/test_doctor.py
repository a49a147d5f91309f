"""doctor: what it says of the machine."""

import json
from pathlib import Path

import pytest
from command_line import call
from small_sweep import QUICKSTART
from synthetic_run import write_run

from pareto_unlearn.finished import machine


def findings(*arguments: object) -> dict[str, dict[str, object]]:
    done = call("doctor", *arguments, "--json")
    return {one["name"]: one for one in json.loads(done.stdout)}


def test_it_names_versions_devices_and_places_with_room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("doctor")
    assert done.returncode == 0, done.stdout
    for name in ("versions: Python 3.", "devices: ", "run.storage: runs: ", "temporary folder: "):
        assert f"ok      machine {name}" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert "7 files of published metrics are not here and not needed" in done.stdout


def test_a_storage_that_cannot_be_written_to_is_wrong(monkeypatch):
    monkeypatch.chdir("/proc")
    done = call("doctor")
    assert done.returncode == 9
    assert "wrong   machine run.storage: runs: cannot be written to" in done.stdout


def test_a_temporary_folder_that_ray_cannot_use_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 60)
    assert not findings()["temporary folder"]["is_right"]


def test_a_nearly_full_disk_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 10**18)
    assert "which is little" in str(findings()["run.storage"]["detail"])


@pytest.mark.parametrize("storage", ["s3://bucket/runs"])
def test_an_object_store_is_not_tried(tmp_path, storage):
    file = tmp_path / "sweep.yaml"
    file.write_text(call("sweep", QUICKSTART, "--print-config", "-o", f"run.storage={storage}").stdout)
    assert "run.storage" not in findings(file)


def test_the_run_of_a_sweep_is_looked_at(tmp_path):
    run = Path(write_run(str(tmp_path)))
    sweep = ("doctor", QUICKSTART, "-o", f"run.storage={tmp_path}", "-o", f"name={run.name}")
    whole = call(*sweep)
    assert (whole.returncode, f"ok      run {run}: all files are whole" in whole.stdout) == (0, True)
    part = next((run / "samples").iterdir())
    part.write_bytes(part.read_bytes()[:-40])
    damaged = call(*sweep)
    assert damaged.returncode == 6
    assert f"wrong   run {run}: 1 damaged trial; `pareto-unlearn store check {run}`" in damaged.stdout
    (run / "run.json").unlink()
    assert "run.json is lost; the sweep's own command writes it again" in call(*sweep).stdout
