"""The way out of a run: which model an export means, where it may be written, what it says of itself."""

import json
import re
from pathlib import Path

import pytest
from command_line import call
from huggingface_hub import ModelCard


@pytest.fixture(scope="module")
def run_path(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    copy_small_sweep(folder)
    return folder / "quickstart"


@pytest.fixture(scope="module")
def rows(run_path) -> list[dict[str, object]]:
    return json.loads(call("ls", run_path, "--json").stdout)


def test_ls_json_has_the_label_that_export_takes(run_path, rows, tmp_path):
    for row in rows:
        if row["phase"] != "original":
            done = call(
                "export", run_path, tmp_path / f"{row['trial_id']}.safetensors", "--trial", row["label"]
            )
            assert row["checkpoint_sha256"] in done.stdout, done.stderr


def test_an_unknown_trial_is_told_the_labels_and_ids_there_are(run_path, tmp_path):
    done = call("export", run_path, tmp_path / "x.safetensors", "--trial", "ffff")
    assert done.returncode == 3
    assert re.search(r"lowest \(\w{8}\)", done.stderr)


def test_the_original_is_no_unlearned_model(run_path, tmp_path):
    done = call("export", run_path, tmp_path / "x.safetensors", "--trial", "original")
    assert (done.returncode, "the original's own file" in done.stderr) == (3, True)


def test_a_file_that_is_there_is_written_over_only_by_force(run_path, tmp_path):
    out = tmp_path / "model.safetensors"
    out.write_bytes(b"precious")
    refused = call("export", run_path, out, "--trial", "highest")
    assert (refused.returncode, "--force" in refused.stderr, out.read_bytes()) == (3, True, b"precious")
    assert call("export", run_path, out, "--trial", "highest", "--force").returncode == 0
    assert out.read_bytes() != b"precious"


@pytest.mark.parametrize("name", ["model.pth", "model.onnx", "model"])
def test_an_ending_that_the_model_cannot_be_written_as_is_refused(run_path, tmp_path, name):
    done = call("export", run_path, tmp_path / name, "--trial", "highest")
    assert done.returncode == 3
    assert "ends in .safetensors" in done.stderr
    assert not (tmp_path / name).exists()


def test_an_epsilon_with_a_trial_names_the_command_for_the_trial(run_path, rows, tmp_path):
    row = next(row for row in rows if row["phase"] == "epsilon")
    out = tmp_path / "dialled.safetensors"
    done = call("export", run_path, out, "--epsilon", round(float(str(row["epsilon_fraction"])), 3))
    assert done.returncode == 0, done.stderr
    assert f"a trial lies at this epsilon, {row['label']}" in done.stderr
    assert f"--trial {row['trial_id']}" in done.stderr
    assert "interpolated" in (run_path / "report.html").read_text()
    assert "a trial lies" not in call("export", run_path, out, "--epsilon", "0.5", "--force").stderr


def test_a_refused_file_leaves_no_row_in_the_run(run_path, tmp_path):
    before = call("ls", run_path, "--json").stdout
    assert call("export", run_path, tmp_path / "x.onnx", "--epsilon", "0.4").returncode == 3
    assert call("ls", run_path, "--json").stdout == before


def test_a_folder_for_the_hub_holds_model_card_and_evidence(run_path, tmp_path):
    folder = tmp_path / "hub"
    done = call("export", run_path, folder, "--trial", "highest", "--hub", "--base-model", "somebody/digits")
    assert done.returncode == 0, done.stderr
    evidence, model = folder / "model.evidence.json", folder / "model.safetensors"
    assert set(folder.iterdir()) == {folder / "README.md", evidence, model}
    assert ModelCard.load(folder / "README.md").data.base_model == "somebody/digits"
    checked = call("verify", evidence, "--model", model, "--run", run_path)
    assert checked.returncode == 0, checked.stdout
    again = call("export", run_path, folder, "--trial", "highest", "--hub")
    assert (again.returncode, "--force" in again.stderr) == (3, True)


def test_a_folder_for_the_hub_is_no_file(run_path, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "nowhere" / "hub"):
        done = call("export", run_path, out, "--trial", "highest", "--hub")
        assert (done.returncode, "expected a folder" in done.stderr) == (3, True)
