"""The command line without Ray: help, validation, exit codes, reading verbs."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from command_line import call
from small_sweep import QUICKSTART, SMALL
from typer.testing import CliRunner
from waiting import run_process

from pareto_unlearn.cli import app, main
from pareto_unlearn.config import load_config


def call_process(*arguments: object) -> CompletedProcess[str]:
    """What a shell sees; the other tests call the command line in this process."""
    return run_process([sys.executable, "-m", "pareto_unlearn", *arguments])


def local_sweep(storage: Path) -> list[object]:
    keys = (*SMALL, "run.executor=local", f"run.storage={storage}")
    return ["sweep", QUICKSTART, *(part for key in keys for part in ("-o", key))]


@pytest.fixture(scope="module")
def storage(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    copy_small_sweep(folder)
    done = call(*local_sweep(folder))  # nothing is left to run: it writes the report
    assert done.returncode == 0, done.stderr
    return folder


def test_sweep_leaves_stdout_for_data(storage, capfd):
    done = call(*local_sweep(storage))
    assert done.returncode == 0
    assert (done.stdout, capfd.readouterr().out) == ("", "")  # what Python printed, and what libraries did
    assert "6 trials are committed already" in done.stderr


def test_ls_json_is_one_row_per_trial(storage):
    rows = json.loads(call("ls", storage / "quickstart", "--json").stdout)
    assert {row["phase"] for row in rows} == {"original", "boundary", "epsilon", "baseline"}
    assert all(row["f1"] > 0 and row["checkpoint_sha256"] for row in rows if row["phase"] != "original")


def test_ls_prints_a_table_that_is_no_wider_than_its_head_of_one_line(storage):
    done = call("ls", storage / "quickstart")
    assert "highest" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 81


def test_ls_is_never_cut_outside_a_terminal(storage, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    rows = {row["trial_id"]: row for row in json.loads(call("ls", storage / "quickstart", "--json").stdout)}
    lines = call("ls", storage / "quickstart").stdout.splitlines()[1:]
    assert len(lines) == len(rows)
    for trial_id, row in rows.items():
        (line,) = (one for one in lines if trial_id[:8] in one)
        assert line.startswith(row["label"])
        assert row["state"] in line


def test_export_writes_the_verified_model(storage, tmp_path):
    rows = json.loads(call("ls", storage / "quickstart", "--json").stdout)
    highest = next(row for row in rows if row["role"] == "highest")
    out = tmp_path / "unlearned.safetensors"
    done = call("export", storage / "quickstart", out, "--trial", highest["trial_id"][:8])
    assert done.stdout == f"{out} sha256 {highest['checkpoint_sha256']}\n"
    assert call("validate", QUICKSTART, "-o", f"model.checkpoint={out}").returncode == 0


def test_export_wants_a_trial_or_an_epsilon(storage, tmp_path):
    assert call("export", storage / "quickstart", tmp_path / "x").returncode == 2


def test_report_is_written_again_from_the_store(storage, tmp_path):
    out = tmp_path / "again.html"
    assert call("report", storage / "quickstart", "--out", out).stdout.strip() == str(out)
    assert out.read_bytes() == (storage / "quickstart" / "report.html").read_bytes()


def test_print_config_is_a_sweep_file(tmp_path):
    done = call("sweep", QUICKSTART, "--print-config", "-o", "solver.steps=7")
    (tmp_path / "resolved.yaml").write_text(done.stdout)
    assert load_config(tmp_path / "resolved.yaml") == load_config(QUICKSTART, ["solver.steps=7"])


BAD = [
    pytest.param(["-o", "solver.stepz=3"], 3, ["solver.stepz", "did you mean `steps`"], id="wrong key"),
    pytest.param(
        ["-o", "model.checkpoint=gone.safetensors"], 8, ["gone.safetensors", "builtin"], id="missing weights"
    ),
    pytest.param(["-o", "epsilon={schedule: list, values: [1.5]}"], 3, ["1.5", "(0, 1)"], id="epsilon"),
    pytest.param(["-o", "run.storage=/proc/runs"], 3, ["/proc/runs", "run.storage"], id="unwritable storage"),
    pytest.param(["-o", "data.forget_classes=[11]"], 3, ["data.forget_classes", "11"], id="unknown class"),
    pytest.param(["-o", "task.size=0.3"], 3, ["task.size", "0.5"], id="impossible hole"),
]


@pytest.mark.parametrize(("options", "code", "words"), BAD)
def test_bad_input_ends_with_its_exit_code_and_says_what_to_do(options, code, words, tmp_path):
    storage = [] if any("storage" in option for option in options) else ["-o", f"run.storage={tmp_path}"]
    done = call("sweep", QUICKSTART, *storage, *options)
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_a_process_ends_with_the_exit_code_of_its_error_and_no_traceback():
    done = call_process("validate", QUICKSTART, "-o", "solver.stepz=3")
    assert (done.returncode, done.stdout) == (3, "")
    assert "solver.stepz" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_sweep_file_is_exit_3(tmp_path):
    done = call("sweep", tmp_path / "gone.yaml")
    assert done.returncode == 3
    assert "gone.yaml" in done.stderr


def test_reading_a_folder_without_a_run_is_exit_3(tmp_path):
    assert call("ls", tmp_path).returncode == 3


def test_unknown_option_is_exit_2():
    assert call("sweep", QUICKSTART, "--nonsense").returncode == 2


def test_every_command_has_help():
    for command in ("sweep", "validate", "report", "ls", "export", "train"):
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_a_sweep_can_be_asked_for_checks_and_print_config_ignores_it():
    assert "--check-convergence" in CliRunner().invoke(app, ["sweep", "--help"]).output
    done = call("sweep", QUICKSTART, "--check-convergence", "--print-config")
    assert done.stdout == call("sweep", QUICKSTART, "--print-config").stdout


def test_train_makes_the_model_of_a_sweep_without_its_forget_set(tmp_path):
    out = tmp_path / "model.safetensors"
    done = CliRunner().invoke(
        app, ["train", str(QUICKSTART), "--leave-out-forget", "--steps", "2", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out} sha256 {hashlib.sha256(out.read_bytes()).hexdigest()}\n"
    assert "step 1: loss" in done.stderr


def test_train_refuses_an_unknown_model(tmp_path):
    assert call("train", "resnet", tmp_path / "x").returncode == 2


def test_version_is_printed():
    assert CliRunner().invoke(app, ["--version"]).output.strip() == "0.1.0"
    assert callable(main)


def test_dashboard_without_its_extra_says_how_to_get_it(tmp_path):
    if importlib.util.find_spec("aiohttp_cors") is not None:
        pytest.skip("the dashboard extra is installed here")
    done = call("sweep", QUICKSTART, "-o", f"run.storage={tmp_path}", "--dashboard")
    assert done.returncode == 3
    assert "--extra dashboard" in done.stderr
