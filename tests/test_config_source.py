"""The text of a sweep file: the YAML rules, the file itself, and overrides of it."""

import math
from pathlib import Path
from typing import Any

import pytest
from sweep_text import BASE, errors, only_error, parse

from pareto_unlearn.config import load_config
from pareto_unlearn.errors import ConfigError


def read(value: str, key: str = "data.forget_classes") -> Any:
    """What the YAML rules make of a value, seen through a list of classes, which keeps text as it is."""
    section, name = key.split(".")
    return getattr(getattr(parse("", f"{key}={value}"), section), name)


# YAML rules


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1e3),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.5e+2", 150.0),
        ("+2", 2.0),
        ("1", 1.0),
        ("007.5", 7.5),
    ],
)
def test_numbers_are_numbers(text: str, value: float) -> None:
    assert parse(f"solver: {{learning_rate: {text}}}").solver.learning_rate == value


@pytest.mark.parametrize(
    "text",
    [
        "no", "No", "on", "off", "yes", "y", "n", "0123", "-07", "1_000", "0x10", "0o17", "0b1", "1:30",
        "2001-01-01", "1e", "e5", ".", "=", "<<", "n01440764", "'true'", "'1e5'", "'null'",
    ],
)  # fmt: skip
def test_text_stays_text(text: str) -> None:
    assert read(f"[{text}]") == (text.strip("'"),)


@pytest.mark.parametrize("text", ["true", "True", "false", "1.5", "1e5", "~", "null", "[a]", "{a: b}"])
def test_other_kinds_are_no_class_names(text: str) -> None:
    assert "expected a class name or number" in only_error("", f"data.forget_classes=[{text}]")


@pytest.mark.parametrize("text", ["true", "false"])
def test_booleans(text: str) -> None:
    assert parse(f"solver: {{control: {{scaled: {text}}}}}").solver.control.scaled is (text == "true")


@pytest.mark.parametrize("text", ["yes", "on", "1", "'true'", "null"])
def test_other_kinds_are_no_booleans(text: str) -> None:
    assert "epsilon.absolute: expected true or false, found" in only_error(
        f"epsilon: {{schedule: list, values: [.1], absolute: {text}}}"
    )


@pytest.mark.parametrize(
    "text", ["true", "3.0", "'3'", "three", "1_0", "0x10", "null", "[3]", "{a: 3}", "3 4"]
)
def test_other_kinds_are_no_integers(text: str) -> None:
    assert "solver.steps: expected an integer, found" in only_error(f"solver: {{steps: {text}}}")


@pytest.mark.parametrize("text", ["true", "'0.5'", "half", "null", "[0.5]", "1:30", "1,5"])
def test_other_kinds_are_no_numbers(text: str) -> None:
    assert "solver.stabiliser: expected a number, found" in only_error("", f"solver.stabiliser={text}")


@pytest.mark.parametrize("text", ["true", "'0.5'", "half", "[0.5]", "1:30", "1,5"])
def test_other_kinds_are_no_numbers_where_null_is_one(text: str) -> None:
    assert "task.size: expected a number, found" in only_error("", f"task.size={text}")


@pytest.mark.parametrize("text", [".nan", ".NaN", ".inf", "-.inf", "1e999"])
def test_numbers_are_finite(text: str) -> None:
    assert "solver.stabiliser: expected a finite number" in only_error(f"solver: {{stabiliser: {text}}}")


@pytest.mark.parametrize(
    ("extra", "advice"),
    [
        ("solver: {steps: 0123}", "`0123` has a leading zero: write 123"),
        ("solver: {steps: '12'}", "remove the quotes"),
        ("solver: {steps: 1e3}", "write 1000"),
        ("solver: {steps: 1_000}", "write 1000"),
        ("solver: {control: {scaled: on}}", "only true and false are booleans"),
        ("model: {family: digits_mae, checkpoint: 5}", "put it in quotes"),
        ("task: {size:0.5}", "space missing after the colon"),
        ("task: size:0.5", "space missing after the colon"),
        ("solver:", "indent its keys below it"),
    ],
)
def test_error_says_what_to_write(extra: str, advice: str) -> None:
    text = (
        BASE.replace("model: {family: digits_mae, checkpoint: builtin}\n", "") if "model" in extra else BASE
    )
    assert advice in only_error(text=text + extra)


@pytest.mark.parametrize("text", ["9223372036854775808", "1" * 5000])
def test_integers_fit_64_bits(text: str) -> None:
    assert "fits 64 bits" in only_error(f"run: {{memory_bytes: {text}}}")


def test_negative_zero_is_zero() -> None:
    ramp = parse("solver: {control: {ramp: -0.0}}").solver.control.ramp
    assert math.copysign(1.0, ramp) == 1.0


def test_duplicate_key_names_both_lines() -> None:
    line = only_error("seed: 1\nrun: {}\nseed: 2\n")
    assert line == "x.yaml:6: seed: key given twice, first on line 4; keep one of them"


def test_duplicate_key_is_found_at_depth() -> None:
    line = only_error("solver:\n  control:\n    beta: 1\n    delta: 1\n    beta: 1\n")
    assert line.startswith("x.yaml:8: solver.control.beta: key given twice, first on line 6")


def test_duplicate_key_is_found_in_a_list() -> None:
    assert "baselines[0].method: key given twice" in only_error(
        "baselines: [{method: composite, method: max_loss}]"
    )


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("solver: {steps: &a 3}", "anchor &a"),
        ("solver: {steps: *a}", "alias *a"),
        ("solver: {steps: !!int '3'}", "tag tag:yaml.org,2002:int"),
        ("solver: {steps: !env HOME}", "tag !env"),
        ("solver: !!python/object/apply:os.system [ls]", "python/object"),
        ("solver: {<<: *a}", "alias *a"),
    ],
)
def test_anchors_aliases_and_tags_are_refused(extra: str, what: str) -> None:
    line = next(line for line in errors(extra) if "unknown key" not in line)
    assert line.startswith("x.yaml:4: solver")
    assert what in line
    assert "is not supported" in line


def test_anchor_on_the_whole_file_is_refused() -> None:
    assert "anchor &a is not supported" in only_error(text="&a {name: x}")


def test_alias_bomb_is_refused_at_once() -> None:
    bomb = "a: &a [x, x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    )
    assert any("anchor &h is not supported" in line for line in errors(bomb))


def test_deep_nesting_is_refused() -> None:
    assert "more than 20 levels deep" in only_error("seeds: " + "[" * 100_000)


def test_many_values_are_refused() -> None:
    assert "more than 50,000 values" in only_error("seeds: [" + "1," * 50_001 + "]")


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "null"])
def test_empty_file_is_refused(text: str) -> None:
    assert "found an empty file" in only_error(text=text)


@pytest.mark.parametrize(
    ("text", "kind"), [("- a", "a list"), ("name", "the text `name`"), ("3", "the number 3")]
)
def test_top_level_must_be_a_mapping(text: str, kind: str) -> None:
    assert only_error(text=text) == f"x.yaml:1: expected a mapping of keys at the top level, found {kind}"


@pytest.mark.parametrize(
    ("extra", "line", "what"),
    [
        ("solver: [1", 4, "flow sequence that starts on line 4"),
        ("seed: 1\nsolver: a: b", 5, "put text that holds `: ` in quotes"),
        ("solver:\n\tsteps: 3", 5, "indent with spaces, not tabs"),
        ("seed: 1\n---\nname: b", 5, "found another document"),
        ("seed: 1\nname: \x07", 5, "control character 0x07"),
        ("run: {storage: 'a", 4, "quoted scalar"),
    ],
)
def test_syntax_error_names_its_line(extra: str, line: int, what: str) -> None:
    message = only_error(extra)
    assert message.startswith(f"x.yaml:{line}: ")
    assert what in message


@pytest.mark.parametrize("key", ["{{ name }}: 3", "? [a, b]\n: 3"])
def test_keys_are_plain_words(key: str) -> None:
    assert "expected a plain word as key" in only_error(key)


# The file itself


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: expected a sweep file .* no such file"):
        load_config(tmp_path / "absent.yaml")


def test_directory_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found a directory"):
        load_config(tmp_path)


def test_path_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a readable sweep file"):
        load_config(tmp_path / "a\0b")


def test_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: x\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: expected UTF-8 text, found the byte 0xe9"):
        load_config(path)


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_config(path) == parse()


def test_windows_line_ends_keep_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes((BASE + "\nsolvers: {}\n").replace("\n", "\r\n").encode())
    with pytest.raises(ConfigError, match=r"windows\.yaml:5: solvers: unknown key"):
        load_config(path)


def test_file_above_a_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(BASE + "#" * 1_000_000)
    with pytest.raises(ConfigError, match="at most 1 MB"):
        load_config(path)


# Overrides


def test_override_values_follow_the_yaml_rules() -> None:
    config = parse(
        "", "epsilon.schedule=list", "epsilon.values=[.1,.5]", "baselines=[max_loss]", "solver.steps=50"
    )
    assert config.epsilon.values == (0.1, 0.5)
    assert config.baselines[0].method == "max_loss"
    assert config.solver.steps == 50


def test_override_beats_the_file_and_the_last_one_wins() -> None:
    assert parse("solver: {steps: 5, batch: 8}", "solver.steps=6", "solver.steps = 7").solver.steps == 7


def test_override_keeps_the_rest_of_the_section() -> None:
    assert parse("solver: {steps: 5, batch: 8}", "solver.steps=6").solver.batch == 8


def test_override_replaces_a_list_as_a_whole() -> None:
    assert parse("seeds: [1, 2, 3]", "seeds=[4]").trial_seeds == (4,)


def test_override_may_contain_equals_and_colons() -> None:
    assert parse("", "run.storage=s3://bucket/a=b").run.storage == "s3://bucket/a=b"


def test_empty_override_is_null() -> None:
    assert parse("run: {max_concurrent: 3}", "run.max_concurrent=").run.max_concurrent is None


def test_empty_override_asks_for_the_default_that_others_decide() -> None:
    assert parse("", "model.variant=").model.variant == "small"


def test_override_repairs_a_wrong_value_of_the_file() -> None:
    assert parse("seeds: [1, -1]", "seeds=[2]").trial_seeds == (2,)


def test_overriding_the_schedule_drops_keys_of_the_other_one() -> None:
    file = "epsilon: {points: 7, spacing: geometric, violation_tolerance: 0.1}"
    epsilon = parse(file, "epsilon.schedule=list", "epsilon.values=[0.5]").epsilon
    assert (epsilon.schedule, epsilon.values, epsilon.violation_tolerance) == ("list", (0.5,), 0.1)


def test_schedule_of_the_file_still_refuses_foreign_keys() -> None:
    line = only_error("epsilon: {schedule: grid}", "epsilon.values=[0.5]")
    assert line.startswith("-o epsilon.values=[0.5]: epsilon.values: unknown key of schedule grid")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("solver.stepz=3", "solver.stepz: unknown key; did you mean `steps`?"),
        ("solvr.steps=3", "solvr: unknown key; did you mean `solver`?"),
        ("solver.steps=0", "solver.steps: expected at least 1, found the number 0"),
        ("name.first=a", "name: expected a section, found the text `tiny`; override `name` as a whole"),
        ("solver.steps=[1", "solver.steps: not valid YAML: "),
        ("solver.steps=*a", "solver.steps: YAML alias *a is not supported"),
        ("solver={steps: 1, steps: 2}", "solver.steps: key given twice; keep one of them"),
        ("model={family: digits_mae}", "model.checkpoint: required key is missing"),
        ("solver.steps", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("solver..steps=3", "expected key.path=value"),
    ],
)
def test_override_error_names_the_override(override: str, message: str) -> None:
    assert only_error("", override).startswith(f"-o {override}: {message}")
