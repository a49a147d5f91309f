"""The schema of sweep files for editors accepts what is valid and marks what is not."""

import json
from pathlib import Path

import pytest
import yaml
from command_line import call
from jsonschema import Draft202012Validator
from sweep_keys import field_descriptions

from pareto_unlearn.config import dump_config, load_config

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "sweeps").rglob("*.yaml"), *ROOT.glob("examples/*/sweep.yaml")])


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    printed = json.loads(call("schema").stdout)
    Draft202012Validator.check_schema(printed)
    return Draft202012Validator(printed)


def problems(schema: Draft202012Validator, text: str) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_accepts_every_sweep_file_short_and_filled_in(schema, path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert problems(schema, path.read_text()) == []
    assert problems(schema, dump_config(load_config(path, allow_import=True))) == []


SHORT = (
    "name: a\nmodel: {family: digits_mae, checkpoint: builtin}\ndata: {dataset: digits, forget_classes: 3}\n"
)


@pytest.mark.parametrize(
    "more",
    [
        "epsilon: {points: 4}",
        "epsilon: {schedule: list, values: [0.5]}",
        "baselines: [composite, {method: cup, weights: null}]",
        "controls: null",
        "solver: {path: {steps: null}, clip: null, relearning: {}}",
    ],
)
def test_it_accepts_short_forms_and_null(schema, more, tmp_path):
    text = f"{SHORT}{more}\n"
    (tmp_path / "sweep.yaml").write_text(text)
    load_config(tmp_path / "sweep.yaml")
    assert problems(schema, text) == []


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("solvr: {}", "$"),
        ("solver: {steps: 0}", "$.solver.steps"),
        ("epsilon: {values: [0.5]}", "$.epsilon"),
        ("baselines: [composit]", "$.baselines[0]"),
        ("task: {kind: middle}", "$.task.kind"),
    ],
)
def test_it_marks_mistakes_at_their_place(schema, more, place):
    assert [found.partition(":")[0] for found in problems(schema, f"{SHORT}{more}\n")] == [place]


def test_it_describes_every_key(schema):
    texts = json.dumps(schema.schema)
    missing = [key for key, text in field_descriptions().items() if json.dumps(text) not in texts]
    assert missing == []
