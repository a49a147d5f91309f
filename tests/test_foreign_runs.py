"""Run directories of strangers, and damaged ones: reading changes nothing, and no traceback comes out."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from command_line import call
from small_sweep import run, run_of

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import RunInfo
from pareto_unlearn.store import open_run

PRECIOUS = b"a file of the user's"


@pytest.fixture(scope="module")
def finished(copy_small_sweep: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(run_of(copy_small_sweep(tmp_path_factory.mktemp("foreign"))).path)


@pytest.fixture
def foreign(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "theirs")


def highest_of(path: Path) -> str:
    return next(record.trial_id for record in open_run(path).records if record.label == "highest")


TRIAL = "highest"


def commands(path: Path, out: Path, trial: str | None = None) -> dict[str, list[object]]:
    """Return every verb that takes a run, with all that it needs."""
    trial = trial or highest_of(path)
    return {
        "ls": ["ls", path],
        "export": ["export", path, out / "model.safetensors", "--force", "--trial", trial],
        "export --epsilon": ["export", path, out / "mixed.safetensors", "--epsilon", "0.4"],
        "report": ["report", path, "--out", out / "report.html"],
        "compare": ["compare", path, path],
        "audit": ["audit", path, "--quick", "--jobs", "1"],
    }


READING = ("ls", "export", "report", "compare")


def content(path: Path) -> dict[str, bytes | None]:
    return {
        str(entry.relative_to(path)): entry.read_bytes() if entry.is_file() else None
        for entry in sorted(path.rglob("*"))
    }


@pytest.mark.parametrize("verb", READING)
def test_reading_a_run_changes_nothing_in_it(foreign, tmp_path, verb):
    before = content(foreign)
    done = call(*commands(foreign, tmp_path)[verb])
    assert done.returncode == 0, done.stderr
    assert content(foreign) == before


def plant(link: Path, precious: Path) -> None:
    """Put a link to a file or folder of the user's where the run has something of that name."""
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(precious)


LINKS = ("lock.json", "run.json", "report.html", "curves", "checkpoints", "cache")


@pytest.mark.parametrize("name", LINKS)
def test_no_verb_writes_where_a_link_in_a_run_leads(foreign, tmp_path, name):
    precious = tmp_path / "precious"
    if (foreign / name).is_dir():
        precious.mkdir()
        (precious / "theirs").write_bytes(PRECIOUS)
    else:
        precious.write_bytes(PRECIOUS)
    verbs = commands(foreign, tmp_path)
    plant(foreign / name, precious)
    before = content(precious) if precious.is_dir() else precious.read_bytes()
    for verb, arguments in verbs.items():
        done = call(*arguments)
        assert done.returncode in (0, 3, 6), (verb, done.stderr)
        assert done.returncode == 0 or "found a link" in done.stderr
    assert (content(precious) if precious.is_dir() else precious.read_bytes()) == before


@pytest.mark.parametrize("table", ["trials", "metrics"])
def test_a_part_that_is_a_link_is_refused(foreign, tmp_path, table):
    part = sorted((foreign / table).glob("*.parquet"))[0]
    theirs = tmp_path / "theirs.parquet"
    part.rename(theirs)
    part.symlink_to(theirs)
    done = call("report", foreign, "--out", tmp_path / "report.html")
    assert (done.returncode, "found a link" in done.stderr) == (6, True)


def test_a_link_to_the_run_itself_is_followed(foreign, tmp_path):
    (tmp_path / "linked").symlink_to(foreign)
    assert call("ls", tmp_path / "linked").returncode == 0


WRONG = (5, None, [{"a": 1}])


@pytest.mark.parametrize("key", [field.name for field in fields(RunInfo)])
def test_values_of_wrong_types_in_run_json_are_one_sentence(foreign, tmp_path, key):
    stored = json.loads((foreign / "run.json").read_text())
    for value in WRONG:
        (foreign / "run.json").write_text(json.dumps(stored | {key: value}))
        for verb in ("ls", "report"):
            done = call(*commands(foreign, tmp_path, TRIAL)[verb])
            assert done.returncode in (0, 6), (verb, value, done.stderr)
            assert (
                done.returncode == 0 or "run.json is damaged" in done.stderr or "is newer than" in done.stderr
            )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"f1_floor": "x"}'])
def test_scales_that_are_damaged_change_nothing(copy_small_sweep, tmp_path, text):
    config = copy_small_sweep(tmp_path)
    path = Path(run_of(config).path)
    before = json.loads((path / "run.json").read_text())["scales"]
    (path / "scales.json").write_text(text)
    assert run(config) == 0
    assert json.loads((path / "run.json").read_text())["scales"] == before


@pytest.mark.parametrize("name", ["run.json", "scales.json"])
def test_one_digit_of_a_number_that_flipped_is_no_other_result(copy_small_sweep, tmp_path, name):
    config = copy_small_sweep(tmp_path)
    path = Path(run_of(config).path)
    before = (path / "run.json").read_bytes()
    text = (path / name).read_text()
    digit = text.index(".", text.index("f1_original")) + 5
    (path / name).write_text(f"{text[:digit]}{(int(text[digit]) + 1) % 10}{text[digit + 1 :]}")
    if name == "run.json":
        done = call("ls", path)
        assert (done.returncode, "run.json is damaged" in done.stderr) == (6, True)
    else:
        assert run(config) == 0
        assert (path / "run.json").read_bytes() == before


def test_a_reference_point_that_leaves_no_box_has_no_hypervolume(foreign, tmp_path):
    stored = json.loads((foreign / "run.json").read_text())
    del stored["crc32"]  # as of an older release
    (foreign / "run.json").write_text(json.dumps(stored | {"reference_point": [-1.0, 0.1]}))
    assert open_run(foreign).hypervolume() is None
    assert call("report", foreign, "--out", tmp_path / "report.html").returncode == 0


def test_a_manifest_in_another_order_is_one_sentence(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path)
    manifest = Path(run_of(config).path, "manifest.csv")
    head, *lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([head, *lines[::-1]]) + "\n")
    with pytest.raises(ConfigError, match="but the lines in another order"):
        run(config)
