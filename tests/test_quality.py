"""Lint, format, types and import directions hold for the whole tree."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = Path(sys.executable).parent

CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "import contracts": ["lint-imports", "--no-cache"],
}
SLOW = ("mypy",)
"""Three quarters of a minute without a cache of its own."""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, command in CHECKS.items()
    ],
)
def test_tree_passes(command):
    done = subprocess.run([TOOLS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_lock_file_is_tracked():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0:  # a source archive has no history to look at
        assert "uv.lock" not in tracked.stdout.splitlines()


# Import contracts

LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = {contract["name"]: contract for contract in LINTER["contracts"]}
HOMES = {
    "torch lives where tensors are": "torch",
    "Ray lives in the sweep": "ray",
    "YAML and the validator live in config": "yaml",
    "Arrow lives in the store": "pyarrow",
    "Plotly lives in the report": "plotly",
    "Trackers live in their own room": "optuna",
}
"""Contracts that name the only importers of a library."""


def import_contracts(tree: Path) -> str:
    done = subprocess.run([TOOLS / "lint-imports", "--no-cache"], cwd=tree, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_contracts_catch_a_new_module_that_no_contract_names(tmp_path):
    package = tmp_path / "pareto_unlearn"
    shutil.copytree(
        ROOT / "pareto_unlearn", package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (package / "newcomer.py").write_text("".join(f"import {library}\n" for library in HOMES.values()))
    (package / "report" / "heavy.py").write_text("import pareto_unlearn.solver\n")
    told = import_contracts(tmp_path)
    for contract, library in HOMES.items():
        assert f"{contract} BROKEN" in told
        assert f"pareto_unlearn.newcomer -> {library} " in told
    assert "Imports go down only BROKEN" in told
    assert "pareto_unlearn.report is not allowed to import torch" in told
    assert "Planning, configuration and the report know no torch BROKEN" in told


def test_every_room_without_torch_is_named_as_such():
    # The command line and the sweep load torch by way of the rooms they drive.
    drivers = {"cli", "cli_arguments", "cli_finished", "cli_watch", "scripting", "sweep"}
    others = {*drivers, "__init__", "__main__", "assets"}
    paths = [*(ROOT / "pareto_unlearn").glob("*.py"), *(ROOT / "pareto_unlearn").glob("*/__init__.py")]
    names = {path.stem if path.name != "__init__.py" else path.parent.name for path in paths}
    rooms = {f"pareto_unlearn.{name}" for name in names - others - {"pareto_unlearn"}}
    with_torch = set(CONTRACTS["torch lives where tensors are"]["allowed_importers"])
    without = set(CONTRACTS["Planning, configuration and the report know no torch"]["source_modules"])
    assert without == rooms - with_torch
