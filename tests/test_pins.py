"""The pinned versions: what the script takes from an export, and that pyproject.toml holds what it writes."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
PINS = tomllib.loads(PROJECT)["tool"]["uv"]["constraint-dependencies"]

_spec = importlib.util.spec_from_file_location("make_pins", ROOT / ".ci" / "make_pins.py")
make_pins = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_pins)


def test_pins_are_sorted_and_a_marker_stays_where_a_package_has_several_versions():
    export = """
b==2 ; python_full_version >= '3.12'
b==1 ; python_full_version < '3.12'
a-b==1.0.post1 ; sys_platform == 'linux'
a==3
"""
    assert make_pins.pins_of(export) == [
        "a==3",
        "a-b==1.0.post1",
        "b==1; python_full_version < '3.12'",
        "b==2; python_full_version >= '3.12'",
    ]


@pytest.mark.parametrize(
    "line",
    ["--index-url https://host/simple", "a @ https://host/a.whl", "-e .", "a==1 --hash=sha256:00", "a>=1"],
)
def test_a_line_that_is_no_version_is_refused(line):
    with pytest.raises(ValueError, match="expected NAME==VERSION"):
        make_pins.pins_of(f"b==1\n{line}\n")


def test_the_project_holds_what_the_script_writes():
    assert make_pins.with_pins(PROJECT, PINS) == PROJECT
    assert make_pins.pins_of("\n".join(pin.replace(";", " ;") for pin in PINS)) == PINS


def test_new_pins_replace_the_old_ones_and_nothing_else():
    written = tomllib.loads(make_pins.with_pins(PROJECT, ["a==1", "b==2; python_full_version < '3.12'"]))
    expected = tomllib.loads(PROJECT)
    expected["tool"]["uv"]["constraint-dependencies"] = ["a==1", "b==2; python_full_version < '3.12'"]
    assert written == expected


def test_a_project_without_a_place_for_pins_is_refused():
    with pytest.raises(ValueError, match="put them back"):
        make_pins.with_pins("[project]\n", ["a==1"])


def test_every_dependency_is_pinned():
    project = tomllib.loads(PROJECT)
    groups = [*project["dependency-groups"].values(), *project["project"]["optional-dependencies"].values()]
    named = [one for group in [project["project"]["dependencies"], *groups] for one in group]
    names = {one.partition(">=")[0].partition("[")[0].lower().replace("_", "-") for one in named}
    assert names <= {pin.partition("==")[0] for pin in PINS}


def test_uv_has_no_second_file_of_settings():
    # A uv.toml would replace all of [tool.uv], and uv would ignore constraints in it.
    assert not (ROOT / "uv.toml").exists()
