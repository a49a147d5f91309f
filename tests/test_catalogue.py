"""The catalogue is complete: every row has a computation, a marker and docs; every computation has a row."""

import re
from pathlib import Path

import pytest
from plotly.validator_cache import ValidatorCache

from pareto_unlearn.catalogue.families import FAMILIES, FamilyRow
from pareto_unlearn.catalogue.methods import BASELINES, METHODS, Method, MethodKind
from pareto_unlearn.catalogue.metrics import (
    BUILTIN,
    BUILTIN_ROWS,
    METRIC_KEYS,
    METRICS,
    PIXEL_KEYS,
    PROTOCOL_NAMES,
    PROTOCOLS,
    PUBLISHED_KEYS,
    Metric,
    Source,
)
from pareto_unlearn.metrics.builtin import BUILTIN_MEASURES
from pareto_unlearn.metrics.published import PUBLISHED_MEASURES, SCORE_OF_PLACES
from pareto_unlearn.models import family_of
from pareto_unlearn.report import marks
from pareto_unlearn.solver import COURSES, RIVALS

ROOT = Path(__file__).parent.parent
STYLE = (ROOT / "pareto_unlearn/report/style.css").read_text()
SHARED = ("max_loss", "composite")
"""Published baselines that every family computes the same way, in ``trial``."""
EACH_METHOD = pytest.mark.parametrize("row", METHODS.values(), ids=METHODS.keys())
EACH_METRIC = pytest.mark.parametrize("row", METRICS.values(), ids=METRICS.keys())


def of_kind(kind: MethodKind) -> set[str]:
    return {name for name, row in METHODS.items() if row.kind is kind}


def test_every_rule_of_the_catalogue_is_computed_and_no_other():
    assert RIVALS.keys() == of_kind(MethodKind.RULE)


def test_every_course_of_the_catalogue_is_computed_and_no_other():
    assert COURSES.keys() == of_kind(MethodKind.COURSE)


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
def test_every_published_baseline_of_a_family_is_computed_and_no_other(row: FamilyRow):
    assert family_of(row.name).baselines.keys() == set(row.baselines)


def test_every_published_baseline_belongs_to_a_family():
    assert {name for row in FAMILIES for name in row.baselines} == of_kind(MethodKind.PUBLISHED) - set(SHARED)


@EACH_METHOD
def test_every_method_can_be_drawn(row: Method):
    assert marks.svg_mark(row.symbol, "red") != marks.svg_mark("no such symbol", "red")
    known = ValidatorCache.get_validator("scatter.marker", "symbol").values
    assert {row.symbol, f"{row.symbol}-open", marks.unconverged_symbol(row.symbol)} <= set(known)
    assert marks.svg_mark(marks.unconverged_symbol(row.symbol), "red") != marks.svg_mark("none such", "red")
    assert f"{row.colour.removeprefix('var(').removesuffix(')')}:" in STYLE


def test_no_two_methods_look_alike():
    looks = {(row.symbol, row.colour) for row in METHODS.values()}
    assert len(looks) == len(METHODS)
    compared = [row.symbol for row in METHODS.values() if row.key != "controls"]
    assert len(set(compared)) == len(compared)


@EACH_METHOD
def test_every_method_of_a_sweep_file_is_explained_there(row: Method):
    explained = row.key != "" and row.kind is not MethodKind.RULE and not row.of
    assert bool(row.summary) == explained
    assert row.knob is None or row.knob.below is None or row.knob.meaning


@EACH_METHOD
def test_a_variant_belongs_to_a_method_and_has_its_name(row: Method):
    if row.of:
        assert row.name == f"{row.of}_{row.variant}"
        assert METHODS[row.of].kind is row.kind


def test_every_metric_without_published_networks_is_computed_and_no_other():
    assert BUILTIN_MEASURES.keys() == BUILTIN_ROWS.keys()


@pytest.mark.parametrize("protocol", PUBLISHED_KEYS)
def test_every_metric_of_a_published_protocol_is_computed_and_no_other(protocol: str):
    measures = PUBLISHED_MEASURES[protocol]
    assert measures.keys() == set(PUBLISHED_KEYS[protocol])
    assert {key: METRICS[one.metric].key for key, one in measures.items()} == {key: key for key in measures}


def test_every_published_metric_is_a_measure_of_some_protocol():
    computed = {one.metric for measures in PUBLISHED_MEASURES.values() for one in measures.values()}
    published = {row.name for row in METRICS.values() if row.source is Source.PUBLISHED}
    assert computed | {SCORE_OF_PLACES.metric} == published


def test_every_metric_belongs_to_a_protocol_and_every_key_is_a_metric():
    keys = {key for row in PROTOCOLS.values() for key in row.keys}
    assert keys | set(PIXEL_KEYS) == set(METRIC_KEYS)
    assert {*PIXEL_KEYS, *PROTOCOLS[BUILTIN].keys} == BUILTIN_ROWS.keys()


@EACH_METRIC
def test_every_metric_has_words_for_the_report(row: Metric):
    assert row.title
    assert row.hint.endswith(".")
    assert bool(row.second_title) == (row.source is not Source.PUBLISHED)


def table_below(text: str, head: str) -> list[list[str]]:
    """Return, row by row, the names in backquotes in the first column of the table with this head."""
    lines = text[text.index(head) :].splitlines()[2:]
    cells = [line.split("|")[1] for line in lines[: next(i for i, line in enumerate(lines) if not line)]]
    return [re.findall(r"`([^`]+)`", cell) for cell in cells]


@pytest.mark.parametrize(("head", "is_course"), [("| method |", False), ("| method with a front", True)])
def test_docs_list_the_baselines(head: str, is_course: bool):
    listed = [name for row in table_below((ROOT / "docs/baselines.md").read_text(), head) for name in row]
    expected = [name for name, row in BASELINES.items() if (row.kind is MethodKind.COURSE) == is_course]
    assert sorted(listed) == sorted(expected)


def test_docs_list_the_protocols_and_the_metrics_of_the_newest():
    docs = (ROOT / "docs/metrics.md").read_text()
    assert [name for row in table_below(docs, "| protocol |") for name in row] == list(PROTOCOL_NAMES)
    assert [name for row in table_below(docs, "| metric |") for name in row] == list(PUBLISHED_KEYS["modern"])
