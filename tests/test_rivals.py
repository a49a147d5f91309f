"""Every method a sweep can compare with: from the sweep file to a finished trial and the report."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_sweep import run as run_sweep
from small_sweep import run_of

from pareto_unlearn.catalogue.methods import BASELINES, MethodKind
from pareto_unlearn.records import Phase, TrialState
from pareto_unlearn.report import write_report
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.marks import look, svg_mark
from pareto_unlearn.report.solution import Solution
from pareto_unlearn.store import StoredRun

METHODS = tuple(name for name, row in BASELINES.items() if row.kind is not MethodKind.COURSE)
"""Those of one trial a weight; test_courses has the others."""
pytestmark = pytest.mark.slow  # a trial of every method; the rules themselves are in test_rules
EACH_METHOD = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def run(copy_small_sweep, tmp_path_factory) -> StoredRun:
    """One finished small sweep with one trial of every method, that tests only read."""
    named = ", ".join("{method: cup, weights: [0.5]}" if name == "cup" else name for name in METHODS)
    named = named.replace("composite", "{method: composite, weights: [0.1]}")
    config = copy_small_sweep(tmp_path_factory.mktemp("rivals"), f"baselines=[{named}]")
    assert run_sweep(config) == 0
    return run_of(config)


def solution_of(run: StoredRun, method: str) -> Solution:
    return next(one for one in gather(run).solutions if one.method == method)


@EACH_METHOD
def test_every_method_ends_done(run: StoredRun, method: str):
    (record,) = (one for one in run.records if one.method == method)
    assert (record.phase, record.state) == (Phase.BASELINE, TrialState.DONE)


@pytest.mark.parametrize("method", ["cup", "munba", "pcgrad", "erasediff", "orthogonal"])
def test_a_rule_makes_the_model_forget(run: StoredRun, method: str):
    assert solution_of(run, method).train.completeness > 0.05


def test_the_minimum_norm_never_leaves_the_original_model(run: StoredRun):
    found, original = solution_of(run, "mgda"), solution_of(run, "original")
    assert found.train == replace(original.train, requested=found.train.requested)


def test_the_report_names_every_method(run: StoredRun, tmp_path: Path):
    page = Path(write_report(run.path, str(tmp_path / "report.html"))).read_text()
    assert all(f"</svg> {method.replace('_', ' ')}" in page for method in METHODS)


def test_every_method_has_a_shape_of_its_own(run: StoredRun):
    looks = [look(solution_of(run, method)) for method in ("original", "epsilon_constraint", *METHODS)]
    assert len({one.symbol for one in looks}) == len(looks)
    assert len({svg_mark(one.symbol, "red") for one in looks}) == len(looks)


def test_a_method_the_report_does_not_know_still_has_a_marker(run: StoredRun):
    unknown = look(replace(solution_of(run, "cup"), method="of_tomorrow"))
    assert unknown.symbol not in {look(solution_of(run, method)).symbol for method in METHODS}
    assert svg_mark(unknown.symbol, unknown.colour) != svg_mark("circle", unknown.colour)
