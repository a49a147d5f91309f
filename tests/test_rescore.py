"""Metrics of the papers on a finished run: from its checkpoints, committed beside what is there, once."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from small_sweep import QUICKSTART, SMALL
from tiny_networks import write_lpips, write_tiny_clip, write_tiny_dinov2, write_tiny_inception
from typer.testing import CliRunner

from pareto_unlearn.cli import app
from pareto_unlearn.config import load_config, parse_config
from pareto_unlearn.errors import ConfigError, RunLockedError, StoreError, WeightsError
from pareto_unlearn.finished.rescore import ScoredRow, rescore
from pareto_unlearn.metrics.weights import (
    ALEXNET_TORCHVISION,
    CLIP_VIT_H_14,
    DINOV2_VIT_L_14,
    INCEPTION_2015,
    LPIPS_ALEX,
    WEIGHTS_FILES,
)
from pareto_unlearn.records import HAS_MODEL, WEIGHTS_VARIABLE, MetricRow
from pareto_unlearn.store import RunStore, open_run, read_extractors, record_extractors
from pareto_unlearn.sweep import SweepOptions, check_sweep, run_sweep
from pareto_unlearn.trial import load_material
from pareto_unlearn.trial.measuring import measure_metrics

TINY = (
    "solver.steps=30",
    "solver.path.steps=40",
    "solver.hold.steps=20",
    "solver.bank.checkpoints=6",
    "data.heldout_per_class=2",
    "baselines=[]",
)
ALL = ("fid", "kid", "is", "clip")


def config_of(folder: Path, *overrides: str):
    return load_config(QUICKSTART, [*SMALL, *TINY, "run.executor=local", f"run.storage={folder}", *overrides])


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        write_tiny_inception(folder, patch)
        write_tiny_clip(folder, patch)
        write_tiny_dinov2(folder, patch)
        write_lpips(folder, patch)
        yield str(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, networks: str) -> Path:
    """A run whose sweep measured the inception score and found the networks by the environment."""
    folder = tmp_path_factory.mktemp("rescore")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, networks)
        config = config_of(folder, "evaluate={protocol: standard, metrics: [mse, is]}")
        assert run_sweep(config, SweepOptions(), Console(quiet=True)) == 0
    return folder / "quickstart"


@pytest.fixture
def run_path(finished: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(finished, tmp_path / "quickstart"))


def values(rows: list[ScoredRow]) -> list[tuple[str, MetricRow]]:
    """Rows by trial id: records hold NaN, which equals nothing."""
    return [(one.trial.trial_id, one.row) for one in rows]


def contents(run_path: str) -> dict[str, bytes]:
    """Every committed file; caches and locks are none."""
    tables = ("trials", "curves", "metrics", "samples", "checkpoints")
    return {
        str(file.relative_to(run_path)): file.read_bytes()
        for table in tables
        for file in (Path(run_path) / table).rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def test_every_model_of_a_run_gets_every_metric_of_both_sets(run_path, networks):
    run = open_run(run_path)
    rows = rescore(run_path, "standard", ALL, weights=networks)
    models = [record.trial_id for record in run.records if record.state in HAS_MODEL]
    expected = [(trial, metric, part) for trial in models for metric in ALL for part in ("forget", "retain")]
    assert [(one.trial.trial_id, one.row.metric, one.row.set) for one in rows] == expected
    assert {one.row.protocol for one in rows} == {"standard"}
    assert len({one.row.n for one in rows}) == 1
    stored = open_run(run_path).metrics
    assert (stored["protocol"] == "standard").sum() == len(rows)


def test_nothing_committed_changes(run_path, networks):
    before = contents(run_path)
    rescore(run_path, "standard", ("fid",), weights=networks)
    after = contents(run_path)
    assert before.items() <= after.items()
    assert {Path(name).parts[0] for name in after.keys() - before.keys()} == {"metrics"}


def test_asking_twice_gives_the_same_rows_and_measures_nothing(run_path, networks):
    first = rescore(run_path, "standard", ALL, weights=networks)
    before, said = contents(run_path), []
    assert values(rescore(run_path, "standard", ALL, weights=networks, say=said.append)) == values(first)
    assert contents(run_path) == before
    assert said == []


def test_one_trial_and_one_metric_can_be_measured_before_the_others(run_path, networks):
    record = open_run(run_path).records[-1]
    (forget, _) = rescore(run_path, "standard", ("kid",), weights=networks, trial=record.trial_id[:6])
    assert forget.trial.trial_id == record.trial_id
    said: list[str] = []
    rows = rescore(run_path, "standard", ("kid", "fid"), weights=networks, say=said.append)
    assert values([forget])[0] in values(rows)
    assert [line for line in said if line.startswith(record.trial_id)] == [
        f"{record.trial_id} {record.label}: fid"
    ]


def test_protocols_stand_beside_each_other(run_path, networks):
    standard = rescore(run_path, "standard", ("fid",), weights=networks)
    released = rescore(run_path, "li2024-code", ("fid",), weights=networks)
    assert [one.row.value for one in standard] != [one.row.value for one in released]
    assert values(rescore(run_path, "standard", ("fid",), weights=networks)) == values(standard)


def test_sweep_measures_what_its_file_asks_for(run_path):
    run = open_run(run_path)
    models = [record.trial_id for record in run.records if record.state in HAS_MODEL]
    measured = run.metrics.query("protocol == 'standard'")
    assert sorted(measured["trial_id"].unique()) == sorted(models)
    assert set(measured["metric"]) == {"is"}
    assert set(measured["n"]) == {10}
    assert read_extractors(run.store).keys() == {INCEPTION_2015}


def test_what_the_sweep_has_measured_is_not_measured_again(run_path, networks):
    said: list[str] = []
    assert rescore(run_path, "standard", ("is",), weights=networks, say=said.append)
    assert said == []


@pytest.mark.parametrize(
    ("protocol", "metrics"), [("standard", ("fid", "clip")), ("modern", ("fd_dinov2", "kd_dinov2", "dino"))]
)
def test_rescored_values_are_those_a_sweep_measures(run_path, networks, protocol, metrics):
    run = open_run(run_path)
    text = run.store.read_text("sweep.yaml")
    evaluate = f"{{protocol: {protocol}, metrics: [{', '.join(metrics)}], weights: {networks}}}"
    overrides = [f"evaluate={evaluate}"]
    config = parse_config(text, "sweep.yaml", overrides)
    material = load_material(config, run.store.cache_dir(), run.info.config_hash[:16])
    expected = {(row.metric, row.set): row.value for row in measure_metrics(config, material)}
    original = run.records[0].trial_id
    rows = rescore(run_path, protocol, metrics, weights=networks, trial=original)
    assert [one.row.metric for one in rows[::2]] == list(metrics)
    assert {(one.row.metric, one.row.set): one.row.value for one in rows} == pytest.approx(expected, rel=1e-5)


def test_missing_network_is_named_before_anything_is_touched(run_path, tmp_path):
    before = contents(run_path)
    with pytest.raises(WeightsError, match=INCEPTION_2015):
        rescore(run_path, "standard", ALL, weights=str(tmp_path))
    assert contents(run_path) == before


def test_sweep_without_its_networks_does_not_start(tmp_path, monkeypatch):
    monkeypatch.delenv("PARETO_UNLEARN_WEIGHTS", raising=False)
    config = config_of(tmp_path, "evaluate={protocol: standard}")
    with pytest.raises(WeightsError, match=CLIP_VIT_H_14):
        run_sweep(config, SweepOptions(), Console(quiet=True))
    assert not (tmp_path / "quickstart").exists()


def test_sets_too_small_for_a_metric_are_refused_before_anything_starts(tmp_path, networks):
    config = config_of(
        tmp_path,
        "evaluate={protocol: standard, metrics: [is]}",
        f"evaluate.weights={networks}",
        "data.heldout_per_class=1",
    )
    with pytest.raises(ConfigError, match="is needs 10 held-out images"):
        check_sweep(config)


def test_digest_of_an_unknown_file_is_refused(tmp_path):
    config = config_of(tmp_path, f"evaluate.weights_sha256={{other.pt: '{'ab' * 32}'}}")
    with pytest.raises(ConfigError, match=r"other\.pt"):
        check_sweep(config)


def test_one_run_looks_through_one_file_of_a_name(run_path, networks):
    rescore(run_path, "standard", ("fid",), weights=networks)
    store = RunStore.open(run_path)
    digest = read_extractors(store)[INCEPTION_2015]
    record_extractors(store, {INCEPTION_2015: digest, CLIP_VIT_H_14: "1" * 64})
    assert read_extractors(store).keys() == {INCEPTION_2015, CLIP_VIT_H_14}
    with pytest.raises(ConfigError, match="cannot be compared"):
        record_extractors(store, {INCEPTION_2015: "0" * 64})


def test_images_too_small_for_a_metric_are_refused(run_path, networks):
    with pytest.raises(ConfigError, match="lpips needs images of at least 31 pixels a side, found 16"):
        rescore(run_path, "modern", weights=networks)


def test_given_digest_must_be_that_of_the_file(run_path, networks):
    digest = hashlib.sha256((Path(networks) / INCEPTION_2015).read_bytes()).hexdigest()
    assert rescore(run_path, "standard", ("fid",), weights=networks, weights_sha256={INCEPTION_2015: digest})
    before = contents(run_path)
    with pytest.raises(WeightsError, match="expected the pinned"):
        rescore(run_path, "standard", ("kid",), weights=networks, weights_sha256={INCEPTION_2015: "0" * 64})
    assert contents(run_path) == before


def test_given_digest_stands_beside_those_of_the_sweep_file(run_path, networks):
    sweep = Path(run_path) / "sweep.yaml"
    pin = f"weights_sha256: {{{INCEPTION_2015}: '{'0' * 64}'}}"
    sweep.write_text(sweep.read_text().replace("weights_sha256: {}", pin))
    with pytest.raises(WeightsError, match="expected the pinned"):
        rescore(run_path, "standard", ("fid",), weights=networks, weights_sha256={CLIP_VIT_H_14: "1" * 64})


def test_run_with_a_control_can_be_measured(run_path, networks):
    sweep = Path(run_path) / "sweep.yaml"
    assert "controls: []" in sweep.read_text()
    sweep.write_text(sweep.read_text().replace("controls: []", "controls: [retrained]"))
    assert rescore(run_path, "standard", ("fid",), weights=networks)


def test_other_images_are_refused(run_path, networks):
    manifest = Path(run_path) / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("forget", "retain", 1))
    with pytest.raises(ConfigError, match="not those of its manifest"):
        rescore(run_path, "standard", ("fid",), weights=networks)


def test_running_sweep_is_not_disturbed(run_path, networks):
    with open_run(run_path).store.lock(), pytest.raises(RunLockedError):
        rescore(run_path, "standard", ("fid",), weights=networks)


def test_damaged_checkpoint_is_not_measured(run_path, networks):
    record = next(record for record in open_run(run_path).records if record.checkpoint)
    weights = Path(run_path) / record.checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01"[:1])
    with pytest.raises(StoreError, match="damaged"):
        rescore(run_path, "standard", ("fid",), weights=networks, trial=record.trial_id)


@pytest.mark.parametrize(
    ("protocol", "metrics"),
    [
        ("builtin", ("fid",)),
        ("standard", ("cosine",)),
        ("standard", ()),
        ("stndard", ("fid",)),
        ("standard", ("lpips",)),
        ("modern", ("fid",)),
    ],
)
def test_what_is_no_published_metric_is_refused(run_path, protocol, metrics):
    with pytest.raises(ConfigError, match="expected"):
        rescore(run_path, protocol, metrics)


def test_unknown_trial_is_refused(run_path, networks):
    with pytest.raises(ConfigError, match="'zz'"):
        rescore(run_path, "standard", ("fid",), weights=networks, trial="zz")


# The store


def added(metric: str = "fid", **changes: object) -> MetricRow:
    row = MetricRow(set="forget", split="heldout", metric=metric, protocol="paper-text", value=1.0, n=10)
    return replace(row, **changes)


def test_added_metric_is_kept_as_first_measured(run_path):
    store, record = RunStore.open(run_path), open_run(run_path).records[0]
    assert store.add_metric(record, [added()])
    assert not store.add_metric(record, [added(value=2.0)])
    found = store.table("metrics").to_pylist()
    assert [row["value"] for row in found if row["protocol"] == "paper-text"] == [1.0]


def test_added_metric_of_an_attempt_that_does_not_count_is_not_read(run_path):
    store, record = RunStore.open(run_path), open_run(run_path).records[0]
    store.add_metric(replace(record, attempt=record.attempt + 1), [added()])
    assert "paper-text" not in store.table("metrics")["protocol"].to_pylist()


@pytest.mark.parametrize("rows", [[], [added(), added("kid")]], ids=["none", "two metrics"])
def test_rows_of_one_metric_are_added_at_a_time(run_path, rows):
    store, record = RunStore.open(run_path), open_run(run_path).records[0]
    with pytest.raises(ValueError, match="one metric"):
        store.add_metric(record, rows)


# The command line


def test_eval_prints_the_rows_and_writes_the_report_again(run_path, networks):
    (Path(run_path) / "report.html").unlink(missing_ok=True)
    arguments = [
        "eval",
        run_path,
        "--metrics",
        "fid,kid",
        "--protocol",
        "standard",
        "--weights",
        networks,
        "--json",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert {row["metric"] for row in rows} == {"fid", "kid"}
    page = (Path(run_path) / "report.html").read_text()
    assert "FID" in page
    assert "protocol: standard" in page


@pytest.mark.parametrize(
    ("digest", "exit_code", "text"),
    [
        (INCEPTION_2015, 2, "expected NAME=HEX"),
        (f"{INCEPTION_2015}=abc", 3, f"weights_sha256.{INCEPTION_2015}: expected the 64 digits"),
        (f"other.pt={'ab' * 32}", 3, "other.pt"),
        (f"{INCEPTION_2015}={'ab' * 32}", 8, "expected the pinned"),
    ],
)
def test_digests_of_the_command_line_are_checked(run_path, networks, digest, exit_code, text):
    arguments = ["eval", run_path, "--metrics", "fid", "--weights", networks, "--weights-sha256", digest]
    done = CliRunner().invoke(app, arguments)
    assert getattr(done.exception, "exit_code", done.exit_code) == exit_code
    assert text in done.output + str(done.exception)


def test_eval_measures_the_whole_protocol_unless_told_otherwise(run_path, networks):
    done = CliRunner().invoke(app, ["eval", run_path, "--weights", networks, "--json"])
    assert done.exit_code == 0, done.output
    assert {row["metric"] for row in json.loads(done.stdout)} == set(ALL)


def test_doctor_lists_the_files_of_protocol_modern(tmp_path, networks):
    file = tmp_path / "sweep.yaml"
    file.write_text(QUICKSTART.read_text().replace("protocol: builtin", "protocol: modern, metrics: null"))
    done = CliRunner().invoke(app, ["doctor", str(file), "--weights", networks])
    assert done.exit_code == 0, done.output
    needed = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("ok      needed")]
    assert needed[1:] == [
        f"{name}:" for name in (CLIP_VIT_H_14, DINOV2_VIT_L_14, ALEXNET_TORCHVISION, LPIPS_ALEX)
    ]
    done = CliRunner().invoke(app, ["doctor", str(file), "--weights", str(tmp_path)])
    assert done.exit_code == 8
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"missing needed {LPIPS_ALEX}"))
    for text in ("6,009 bytes", WEIGHTS_FILES[LPIPS_ALEX].sha256, WEIGHTS_FILES[LPIPS_ALEX].source):
        assert text in line


def test_doctor_lists_what_a_sweep_needs(tmp_path, networks):
    networks = str(shutil.copytree(networks, tmp_path / "networks"))
    file = tmp_path / "sweep.yaml"
    file.write_text(QUICKSTART.read_text().replace("protocol: builtin", "protocol: standard, metrics: null"))
    assert CliRunner().invoke(app, ["doctor", str(file), "--weights", networks]).exit_code == 0
    (Path(networks) / INCEPTION_2015).unlink()
    done = CliRunner().invoke(app, ["doctor", str(file), "--weights", networks])
    assert done.exit_code == 8
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("missing needed"))
    assert INCEPTION_2015 in line
    findings = json.loads(
        CliRunner().invoke(app, ["doctor", str(file), "--weights", networks, "--json"]).stdout
    )
    assert [one["name"] for one in findings if one["is_needed"] and not one["is_right"]] == [INCEPTION_2015]


def test_doctor_without_a_sweep_minds_wrong_files_only(tmp_path):
    assert CliRunner().invoke(app, ["doctor", "--weights", str(tmp_path)]).exit_code == 0
    (tmp_path / INCEPTION_2015).write_bytes(b"another")
    done = CliRunner().invoke(app, ["doctor", "--weights", str(tmp_path)])
    assert done.exit_code == 8
    assert f"wrong   unused {INCEPTION_2015}" in done.stdout
