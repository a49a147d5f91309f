"""The text of a small sweep file, and what is made of it."""

import pytest

from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError

BASE = """\
name: tiny
model: {family: digits_mae, checkpoint: builtin}
data: {dataset: digits, forget_classes: [0, 1]}
"""


def parse(extra: str = "", *overrides: str) -> SweepConfig:
    return parse_config(BASE + extra, "x.yaml", overrides)


def errors(extra: str = "", *overrides: str, text: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(BASE + extra if text is None else text, "x.yaml", overrides)
    return str(caught.value).splitlines()


def only_error(extra: str = "", *overrides: str, text: str | None = None) -> str:
    lines = errors(extra, *overrides, text=text)
    assert len(lines) == 1, lines
    return lines[0]


def model_of(family: str, rest: str = "") -> str:
    """An override that puts a published checkpoint in the place of the embedded model."""
    return f"model={{family: {family}, checkpoint: weights.pth{rest}}}"


def by_list(path: str, rule: str) -> tuple[str, ...]:
    """Overrides that let a list choose the classes."""
    return "data.forget_classes=null", f"data.class_list={path}", f"data.class_rule={rule}"
