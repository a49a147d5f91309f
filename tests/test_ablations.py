"""The ablation sweeps: what their headers tell to type is valid, and varies what they say."""

import itertools
import re
import shlex
from pathlib import Path
from string import Template

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pareto_unlearn.cli import app
from pareto_unlearn.config import load_config, result_fields
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.sweep import SweepOptions, run_sweep

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "sweeps" / "paper_tables.yaml", *sorted((ROOT / "sweeps" / "ablations").glob("*.yaml"))]


def header(file: Path) -> list[str]:
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return [line.lstrip("# ") for line in lines]


def sweeps(file: Path) -> list[list[str]]:
    """Return the words of every sweep command that the header's loops unroll to."""
    loops = [re.fullmatch(r"for (\w+) in ([^;]+); do", line) for line in header(file)]
    choices = {found[1]: found[2].split() for found in loops if found}
    (command,) = (line for line in header(file) if line.startswith("pareto-unlearn sweep "))
    unrolled = []
    for values in itertools.product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        unrolled.append(shlex.split(Template(command).substitute(chosen)))
    return unrolled


def overrides(words: list[str]) -> list[str]:
    return [word for before, word in itertools.pairwise(words) if before == "-o"]


def test_there_are_ablations():
    assert len(FILES) >= 7


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_command_of_a_header_is_a_valid_sweep_of_its_own(file):
    configs = [load_config(ROOT / words[2], overrides(words)) for words in sweeps(file)]
    for config in configs:
        build_hole(config.task, side=16, patch=4, seed=config.seed)
    assert len({config.name for config in configs}) == len(configs)
    assert len({str(result_fields(config)) for config in configs}) == len(configs)
    read = " ".join(
        line for line in header(file) if line.startswith(("pareto-unlearn compare", "pareto-unlearn report"))
    )
    assert {f"runs/{config.name}" for config in configs} == set(re.findall(r"runs/[\w.-]+", read))


@pytest.mark.slow
def test_an_ablation_ends_in_a_comparison(tmp_path):
    paths = []
    for words in sweeps(ROOT / "sweeps" / "ablations" / "delta_boundary.yaml")[:2]:
        small = [
            "solver.steps=24",
            "solver.batch=8",
            "epsilon.points=1",
            "objective.noise_images=64",
            "controls=[]",
        ]
        config = load_config(
            ROOT / words[2], [*overrides(words), *small, "run.executor=local", f"run.storage={tmp_path}"]
        )
        assert run_sweep(config, SweepOptions(), Console(quiet=True)) == 0
        paths.append(str(tmp_path / config.name))
    done = CliRunner().invoke(app, ["compare", *paths])
    assert done.exit_code == 0, done.output
    assert "solver.boundary.delta: 1.0 -> 2.0" in done.output
