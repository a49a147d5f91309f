"""CITATION.cff names this version of the package, its licence and the papers behind it."""

import tomllib
from pathlib import Path

import yaml

import pareto_unlearn

ROOT = Path(__file__).parent.parent
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_licence_and_name_are_those_of_the_package():
    named = (CITATION["title"], CITATION["version"], CITATION["license"])
    assert named == (PROJECT["name"], PROJECT["version"], PROJECT["license"])
    assert CITATION["version"] == pareto_unlearn.__version__


def test_the_file_has_what_its_format_requires():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert CITATION["message"]
    assert CITATION["authors"] == [{"name": "The pareto-unlearn developers"}]


def test_the_paper_of_the_method_comes_first():
    papers = [reference["identifiers"][0]["value"] for reference in CITATION["references"]]
    assert papers == ["arXiv:2408.01689", "arXiv:2402.00351"]
    assert all(reference["authors"] and reference["title"] for reference in CITATION["references"])
