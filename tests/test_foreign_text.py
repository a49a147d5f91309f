"""Text of strangers on a terminal and in a spreadsheet, and what of the user nobody else should read."""

import csv
import io
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import call
from small_sweep import QUICKSTART, SMALL, TINIEST, run, run_of, small_sweep
from synthetic_run import write_run
from trial_rows import finished_record

from pareto_unlearn import trial as trial_package
from pareto_unlearn.data import load_split, write_manifest
from pareto_unlearn.errors import MachineError, WeightsError
from pareto_unlearn.foreign_text import guarded_csv, near_paths, no_paths, plain, without_secrets, write_csv
from pareto_unlearn.models import pixel_format
from pareto_unlearn.models.checkpoint_files import read_checkpoint
from pareto_unlearn.records import TrialResult
from pareto_unlearn.store import RunStore
from pareto_unlearn.terminal import open_console

TITLE, CLEAR, BELL, TURN = "\x1b]0;title\x07", "\x1b[2J", "\x07", "\u202e"
HOSTILE = f"x[/nope][bold red]{TITLE}{CLEAR}{BELL}{TURN}\x9b31m"
"""A method's name: markup of Rich that closes nothing, and what steers a terminal."""


def steers(text: str) -> bool:
    return re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text) is not None


# The terminal


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    """A stranger's run with a trial of a hostile name, which failed for a hostile reason."""
    path = write_run(str(tmp_path / "runs"), [])
    record = finished_record("00000009", method=HOSTILE, reason=HOSTILE, f1=1.0, f2=0.1, completeness=0.5)
    RunStore.open(path).commit(TrialResult(record=record, files={}))
    return Path(path)


@pytest.mark.parametrize("verb", ["ls", "ls --json", "report", "compare", "compare --format md", "pick"])
def test_a_hostile_name_is_shown_and_steers_nothing(hostile_run, tmp_path, verb):
    words = verb.split()
    others = {"report": ["--out", tmp_path / "r.html"], "compare": [hostile_run]}
    done = call(words[0], hostile_run, *others.get(words[0], []), *words[1:])
    assert not steers(done.stdout + done.stderr)
    if verb == "ls":
        assert r"x[/nope][boldred]\x1b]0;title\x07\x1b[2J" in done.stdout.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("argument", [f"/nowhere/{HOSTILE}", f"{TITLE}.yaml"])
def test_errors_about_hostile_paths_steer_nothing(argument):
    for verb in ("ls", "sweep", "validate", "report"):
        done = call(verb, argument)
        assert done.returncode == 3
        assert r"\x1b" in done.stderr
        assert not steers(done.stderr)


def test_a_run_in_a_folder_named_like_markup_is_swept_and_listed(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path / "x[/nope]")
    options = [part for one in (*SMALL, "run.executor=local") for part in ("-o", one)]
    done = call("sweep", QUICKSTART, *options, "-o", f"run.storage={config.run.storage}")
    assert (done.returncode, "x[/nope]" in done.stderr) == (0, True), done.stderr


def test_a_terminal_gets_the_colours_and_nothing_else_that_steers(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    open_console().print(HOSTILE, style="red")
    shown = screen.getvalue()
    assert shown.startswith("\x1b[31m")
    assert not steers(re.sub(r"\x1b\[[0-9;]*m", "", shown))
    assert "x[/nope][bold red]" in shown


def test_what_letters_are_is_left_as_it_is():
    text = "Straße\t東京 🙂 נמל\nab\u200dc"
    assert plain(text) == text


# Spreadsheets

FORMULAS = ("=cmd()", "+1+1", "-x", "@SUM(A1)", "\tx", "\rx")
NUMBERS = ("-1", "-1.5e-05", "+2", "0.5", "-.5", "1e3")


def test_formulas_get_an_apostrophe_and_numbers_stay_numbers():
    rows = list(csv.reader(io.StringIO(write_csv([FORMULAS, NUMBERS, ("a", "")]), newline="")))
    assert rows == [["'" + cell.replace("\r", r"\r") for cell in FORMULAS], list(NUMBERS), ["a", ""]]
    assert guarded_csv(write_csv([FORMULAS])) == write_csv([FORMULAS])


def test_a_manifest_has_no_formulas_and_one_of_an_older_release_is_known_again(small_config):
    config = small_config()
    split = load_split(config.data, config.seed, pixel_format(config.model))
    names = ("=cmd()", *split.forget_train.class_names[1:])
    changed = replace(split, forget_train=replace(split.forget_train, class_names=names))
    text = write_manifest(changed)
    cells = {cell for row in csv.reader(io.StringIO(text)) for cell in row}
    assert "'=cmd()" in cells
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert guarded_csv(text.replace("'=cmd()", "=cmd()")) == text


# Secrets and paths

SECRETS = (
    "s3://AKIA1:hunter2@bucket/runs", "s3://bucket/runs?access_key=hunter2&secret_key=hunter2&region=eu",
    "abfs://account:hunter2@host/x", "x AWS_SECRET_ACCESS_KEY=hunter2 y", "gs://b?token=hunter2",
)  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_masked_wherever_they_stand(text):
    assert "hunter2" not in without_secrets(f"cannot open '{text}': refused")
    assert "***" in without_secrets(text)


def test_what_is_no_secret_stays():
    text = "model.tokenizer=vqgan.ckpt, token_drop=0.1, s3://bucket/runs?region=eu, me@host, config=3"
    assert without_secrets(text) == text


@pytest.mark.parametrize("verb", ["ls", "report", "compare", "pick", "export", "audit", "eval", "sweep"])
def test_no_error_tells_the_secret_of_a_uri(verb, tmp_path):
    uri = "nowhere://me:hunter2@host/runs?access_key=hunter2"
    others = {"compare": [uri], "export": [tmp_path / "m.pth", "--trial", "x"]}
    first = [QUICKSTART, "-o", f"run.storage={uri}"] if verb == "sweep" else [uri]
    done = call(verb, *first, *others.get(verb, []))
    assert done.returncode == 3
    assert "hunter2" not in done.stdout + done.stderr


def test_paths_start_at_the_run_or_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    text = (
        "/home/alice/runs/a/curves/x: full; /home/alice/data, /home/alice2/data, /scratch/alice/m.pth, "
        "/a/airfield"
    )
    near = near_paths(text, "/home/alice/runs/a")
    assert near == "./curves/x: full; ~/data, /home/alice2/data, /scratch/alice/m.pth, /a/airfield"
    assert no_paths(text, "/home/alice/runs/a") == (
        "./curves/x: full; ~/data, .../data, .../m.pth, /a/airfield"
    )
    assert near_paths("root: /home/alice\n") == "root: ~/\n"  # a bare ~ would be null


ADDRESS = "run.address=ray://host:1?token=hunter2"


def test_no_file_that_is_passed_on_tells_whose_machine_it_was(tmp_path, monkeypatch):
    home = tmp_path / "alice"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    weights = home / "weights.safetensors"
    shutil.copy(Path(trial_package.__file__).parent.parent / "assets" / "digits_mae.safetensors", weights)
    real = trial_package.run_trial

    def fail_lowest(trial, hooks, version):
        if trial.spec.label == "lowest":
            raise OSError(5, "Input/output error", f"{home}/runs/quickstart/cache/x.npy")
        return real(trial, hooks, version)

    config = small_sweep(home / "runs", *TINIEST, f"model.checkpoint={weights}", ADDRESS)
    with monkeypatch.context() as patch:
        patch.setattr(trial_package, "run_trial", fail_lowest)
        with pytest.raises(MachineError):
            run(config)
    path = Path(run_of(config).path)
    (failed,) = (record for record in run_of(config).records if record.label == "lowest")
    assert "'./cache/x.npy'" in failed.reason
    assert call("report", path).returncode == 0
    assert call("export", path, home / "m.safetensors", "--trial", "highest").returncode == 0
    files = ("run.json", "report.html", "manifest.csv", "sweep.yaml", "../../m.safetensors")
    for name in files:
        content = (path / name).read_bytes()
        assert b"alice" not in content.replace(b"aliceblue", b""), name  # a colour of CSS
        assert str(tmp_path).encode() not in content, name
        assert b"hunter2" not in content, name
    assert "checkpoint: ~/weights.safetensors" in (path / "sweep.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    assert run(config) == 0  # runs what failed and knows the rest again


# Weights that unpack to more than memory has


def test_weights_that_unpack_to_a_multiple_are_refused_unread(tmp_path):
    whole, packed = tmp_path / "whole.pth", tmp_path / "packed.pth"
    torch.save({"w": torch.zeros(5_000_000)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))
    with pytest.raises(WeightsError, match=r"packed\.pth: expected weights, found .* that unpack to 20,"):
        read_checkpoint(packed)
    assert len(read_checkpoint(whole)[0]["w"]) == 5_000_000


def test_a_view_that_repeats_one_number_for_ever_is_refused(tmp_path):
    path = tmp_path / "view.pth"
    torch.save({"w": torch.zeros(1).expand(100_000, 100_000)}, path)
    with pytest.raises(WeightsError, match=r"view\.pth: .* that unpack to 40,000,000,000"):
        read_checkpoint(path)


# A cluster that anybody may use


@pytest.mark.parametrize(
    ("address", "environment", "is_warned"),
    [
        ("ray://head:10001?token=hunter2", {}, True),
        ("10.0.0.7:6379", {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "t"}, True),
        ("10.0.0.7:6379", {"RAY_AUTH_TOKEN": "t"}, False),
        ("127.0.0.1:6379", {}, False),
        (None, {}, False),
        (None, {"RAY_ADDRESS": "ray://head:10001"}, True),
    ],
)
def test_doctor_warns_of_a_cluster_elsewhere_without_a_token(
    monkeypatch, tmp_path, address, environment, is_warned
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = call("doctor", QUICKSTART, *([] if address is None else ["-o", f"run.address={address}"]))
    assert done.returncode == 0, done.stderr
    assert ("is used without a token" in done.stderr) == is_warned
    assert "hunter2" not in done.stderr
