import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pareto_unlearn import config as module
from pareto_unlearn.config import (
    DataSection,
    SweepConfig,
    config_hash,
    describe_difference,
    dump_config,
    field_descriptions,
    load_config,
    parse_config,
    result_fields,
    trial_id,
)
from pareto_unlearn.records import ConfigError, Phase, Role

QUICKSTART = Path(__file__).parents[1] / "sweeps" / "quickstart.yaml"
BASE = """\
name: tiny
model: {family: digits_mae, checkpoint: builtin}
data: {dataset: digits, forget_classes: [0, 1]}
"""
FIRST_LINE_AFTER_BASE = 4


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


def read(value: str, key: str = "data.forget_classes") -> Any:
    """What the YAML rules make of a value, seen through a list of classes, which keeps text as it is."""
    section, name = key.split(".")
    return getattr(getattr(parse("", f"{key}={value}"), section), name)


# The shipped file, defaults, resolution


def test_quickstart_file_loads() -> None:
    config = load_config(QUICKSTART)
    assert (config.name, config.solver.steps, config.epsilon.points) == ("quickstart", 400, 9)
    assert [(one.method, len(one.weights)) for one in config.baselines] == [("max_loss", 1), ("composite", 7)]


def test_quickstart_dump_loads_back_equal() -> None:
    config = load_config(QUICKSTART)
    assert parse_config(dump_config(config), "dump") == config


def test_classes_are_stored_as_text() -> None:
    assert parse().data.forget_classes == ("0", "1")


def test_classes_may_be_a_count() -> None:
    assert parse("", "data.forget_classes=3").data.forget_classes == 3


def test_defaults_of_the_averaged_update() -> None:
    solver = parse().solver
    assert (solver.learning_rate, solver.learning_rate_end, solver.clip) == (0.003, 0.02, None)
    assert (solver.control.ramp, solver.lowest.learning_rate) == (0.4, 0.001)


def test_defaults_of_the_paper_update() -> None:
    solver = parse("solver: {update: paper}").solver
    assert (solver.learning_rate, solver.learning_rate_end, solver.clip) == (0.2, 1.0, 1.0)
    assert (solver.control.ramp, solver.lowest.learning_rate) == (0.0, 0.2 / 3)


def test_null_means_the_resolved_default() -> None:
    nulls = "solver: {learning_rate: null, learning_rate_end: ~, clip: , lowest: {learning_rate: null}, control: {ramp: null}}"
    assert parse(nulls) == parse()


def test_given_values_beat_the_defaults_of_the_update() -> None:
    given = "solver: {update: paper, learning_rate: 1, learning_rate_end: 0, clip: 5, control: {ramp: 0.25}}"
    solver = parse(given).solver
    assert (solver.learning_rate, solver.learning_rate_end, solver.clip, solver.control.ramp) == (
        1,
        0,
        5,
        0.25,
    )


def test_lowest_learning_rate_is_a_third_of_the_given_one() -> None:
    assert parse("solver: {learning_rate: 0.3}").solver.lowest.learning_rate == 0.3 / 3


@pytest.mark.parametrize(("distance", "target"), [("mse", "mean"), ("l2", "draws")])
def test_noise_target_follows_the_distance(distance: str, target: str) -> None:
    assert parse(f"objective: {{distance: {distance}}}").objective.noise_target == target


def test_seeds_default_to_the_seed() -> None:
    assert parse("seed: 7").trial_seeds == (7,)


@pytest.mark.parametrize(("gpus", "reused"), [("0", True), ("0.5", False), ("2", False)])
def test_workers_are_reused_on_cpu_only(gpus: str, reused: bool) -> None:
    assert parse("", f"run.gpus_per_trial={gpus}").run.reuse_workers is reused


def test_given_reuse_of_workers_is_kept() -> None:
    assert parse("run: {gpus_per_trial: 1, reuse_workers: true}").run.reuse_workers is True


def test_epsilon_is_a_grid_without_schedule() -> None:
    epsilon = parse("epsilon: {points: 5}").epsilon
    assert (epsilon.schedule, epsilon.points, epsilon.spacing) == ("grid", 5, "linear")


def test_baseline_name_means_its_usual_weights() -> None:
    named, written = parse("baselines: [composite]"), parse("baselines: [{method: composite, weights: null}]")
    assert named == written
    assert named.baselines[0].weights == (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("cup", (0.1, 0.3, 0.5, 0.7, 0.9)), ("munba", (1.0,)), ("mgda", (1.0,)), ("pcgrad", (1.0,)),
        ("erasediff", (0.1,)), ("orthogonal", (1.0,)),
    ],
)  # fmt: skip
def test_a_rule_named_alone_has_its_usual_weights(method: str, weights: tuple[float, ...]) -> None:
    config = parse(f"baselines: [{method}]")
    assert config.baselines[0].weights == weights
    assert parse_config(dump_config(config), "dump") == config


@pytest.mark.parametrize("method", ["munba", "mgda", "pcgrad"])
def test_a_method_without_a_weight_refuses_one(method: str) -> None:
    assert only_error(f"baselines: [{{method: {method}, weights: [0.5]}}]") == (
        f"x.yaml:4: baselines[0].weights: {method} has no weight: expected [1.0], which stands for its only trial, "
        "found [0.5]; leave `weights` out"
    )


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().solver.steps = 3  # type: ignore[misc]


def test_config_survives_pickling() -> None:
    config = load_config(QUICKSTART)
    assert pickle.loads(pickle.dumps(config)) == config


def test_every_key_has_a_description() -> None:
    descriptions = field_descriptions()
    assert [key for key, text in descriptions.items() if len(text) < 10] == []
    assert {"name", "solver.control.beta", "epsilon.values (list)", "run.storage"} <= descriptions.keys()


def test_exported_names_are_complete_and_sorted() -> None:
    assert module.__all__ == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_import_is_light() -> None:
    code = "import sys, pareto_unlearn.config; print({'torch', 'ray', 'pyarrow', 'numpy', 'pandas'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


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
        "no", "No", "on", "off", "yes", "y", "n", "0123", "-07", "1_000", "0x10", "0o17", "0b1", "1:30", "2001-01-01",
        "1e", "e5", ".", "=", "<<", "n01440764", "'true'", "'1e5'", "'null'",
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


# Errors of the schema


def test_unknown_key_shows_place_suggestion_and_known_keys() -> None:
    line = only_error("solver:\n  steps: 5\n  batchh: 3\n")
    assert line.startswith(
        "x.yaml:6: solver.batchh: unknown key; did you mean `batch`? Known keys: `steps`, `batch`, "
    )


@pytest.mark.parametrize(
    ("extra", "suggestion"),
    [
        ("batch: 3", "did you mean `solver.batch`?"),
        (
            "steps: 3",
            "`solver.steps` or `solver.path.steps` or `solver.branch.steps` or `controls.steps` or `evaluate.sampling.steps`?",
        ),
        ("solver: {metrics: [mse]}", "did you mean `evaluate.metrics`?"),
        ("learning_rate: 3", "`solver.learning_rate` or `solver.lowest.learning_rate`"),
        ("solver: {Steps: 3}", "did you mean `steps`?"),
        ("epsilon: {values: [.1]}", "unknown key of schedule grid; it belongs to `schedule: list`."),
        ("epsilon: {schedule: list, values: [.1], point: 3}", "unknown key. Known keys"),
        ("baselines: [{method: composite, weight: 3}]", "did you mean `weights`?"),
        ("xyzzy: 3", "unknown key. Known keys: `name`, `seed`, `smoke`, `model`"),
    ],
)
def test_unknown_key_suggestion(extra: str, suggestion: str) -> None:
    assert suggestion in only_error(extra)


@pytest.mark.parametrize(
    ("extra", "key", "suggestion"),
    [
        ("run: {executor: tnue}", "run.executor", "`tune`"),
        ("epsilon: {schedule: adaptiv}", "epsilon.schedule", "`adaptive`"),
        ("epsilon: {spacing: geometrical}", "epsilon.spacing", "`geometric`"),
        ("baselines: [max_los]", "baselines[0]", "`max_loss`"),
        ("baselines: [{method: compsite}]", "baselines[0].method", "`composite`"),
        ("evaluate: {metrics: [mse, psn]}", "evaluate.metrics[1]", "`psnr`"),
        ("task: {kind: centre}", "task.kind", "`center`"),
    ],
)
def test_unknown_choice_suggestion(extra: str, key: str, suggestion: str) -> None:
    line = only_error(extra)
    assert line.startswith(f"x.yaml:4: {key}: expected ")
    assert line.endswith(f"did you mean {suggestion}?")


def test_missing_key_names_the_line_of_its_section() -> None:
    text = "# a comment\nname: x\nmodel:\n  family: digits_mae\ndata:\n  dataset: digits\n"
    first, second = errors(text=text)
    assert first.startswith("x.yaml:3: model.checkpoint: required key is missing: the original weights")
    assert second.startswith("x.yaml:5: data.forget_classes: required key is missing")


def test_missing_section_names_the_first_line() -> None:
    assert [line.split(": required")[0] for line in errors(text="\nseed: 3\n")] == [
        "x.yaml:2: name",
        "x.yaml:2: model",
        "x.yaml:2: data",
    ]


def test_all_errors_are_reported_in_the_order_of_the_file() -> None:
    lines = errors(
        "run: {executor: x}\nseed: -1\nsolver:\n  stepz: 3\n  batch: 0\nseed: 3\n", "task.size=2", "nonsense"
    )
    assert [line.split(": ")[0] for line in lines] == [
        "x.yaml:4", "x.yaml:5", "x.yaml:7", "x.yaml:8", "x.yaml:9", "-o task.size=2", "-o nonsense",
    ]  # fmt: skip


def test_line_is_that_of_the_item_in_a_list() -> None:
    line = only_error(
        "baselines:\n  - max_loss\n  - method: composite\n    weights:\n      - 1.0\n      - -1\n"
    )
    assert line == "x.yaml:9: baselines[1].weights[1]: expected a number above 0, found the number -1"


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", ["-1", "2147483648"]),
        ("name", ["a b", "''", "../x", ".x", "a/b", "x" * 65, '"a\\n"', "3", "[a]"]),
        ("model.checkpoint", ["''", '"a\\nb"', "null"]),
        ("data.forget_classes", ["[]", "0", "-1", "[0, '0']", "five", "null", "true", "['']"]),
        ("data.retain_classes", ["[]", "0", "[5, 5]", "[1]", "[7, '0']"]),
        ("data.train_per_class", ["0", "1.5"]),
        ("task.size", ["0", "1", "-0.5", "1.5"]),
        ("task.patches", ["0", "-1", "1.5"]),
        ("objective.noise_images", ["15"]),
        ("solver.steps", ["0", "-5"]),
        ("solver.learning_rate", ["0", "-1"]),
        ("solver.learning_rate_end", ["-0.1", "1.1"]),
        ("solver.betas", ["[0.9]", "[0.9, 0.9, 0.9]", "[0.9, 1]", "0.9", "[0.9, -0.1]"]),
        ("solver.average", ["1", "-0.1"]),
        ("solver.stabiliser", ["0"]),
        ("solver.clip", ["0"]),
        ("solver.boundary.alpha", ["0"]),
        ("solver.boundary.delta", ["0.9"]),
        ("solver.lowest.tolerance", ["0"]),
        ("solver.control.delta", ["0", "2", "4", "-1", "1.0"]),
        ("solver.control.ramp", ["1", "-0.1"]),
        ("solver.convergence.window", ["1"]),
        ("solver.convergence.tolerance", ["-1"]),
        ("solver.checkpoint_every", ["0"]),
        (
            "epsilon",
            [
                "{points: 0}",
                "{points: 1000}",
                "{schedule: adaptive, points: 2}",
                "3",
                "null",
                "{schedule: null}",
            ],
        ),
        (
            "epsilon",
            [
                "{schedule: list}",
                "{schedule: list, values: []}",
                "{schedule: list, values: [.1, .10]}",
                "[.1]",
            ],
        ),
        ("epsilon", ["{schedule: list, values: [1, 0], absolute: true}", "{violation_tolerance: -1}"]),
        ("seeds", ["[]", "[1, 1]", "[-1]", "3", "[1.0]"]),
        ("baselines", ["max_loss", "[max_loss, {method: max_loss}]", "[{weights: [1]}]", "[3]", "null"]),
        ("baselines", ["[{method: composite, weights: []}]", "[{method: composite, weights: [1, 1.0]}]"]),
        ("baselines", ["[{method: cup, weights: [0]}]", "[{method: cup, weights: [1]}]"]),
        ("evaluate.metrics", ["[mse, mse]", "mse"]),
        ("evaluate.samples_per_class", ["-1"]),
        ("evaluate.max_samples", ["0", "-1", "null"]),
        ("evaluate.sampling.steps", ["0", "1.5"]),
        ("run.cpus_per_trial", ["0", "0.5"]),
        ("run.gpus_per_trial", ["-1", "1.5"]),
        ("run.max_concurrent", ["0"]),
        ("run.max_failures", ["-1"]),
        ("run.memory_bytes", ["0", "1e9"]),
        ("run.storage", ["''", "s3://key:secret@bucket", "3"]),
    ],
)
def test_impossible_values_are_refused_at_their_key(key: str, values: list[str]) -> None:
    for value in values:
        line = only_error("", f"{key}={value}")
        assert line.startswith(f"-o {key}={value}: {key}"), line
        assert "Input should" not in line, line


@pytest.mark.parametrize(
    "override",
    [
        "seed=2147483647", "task.size=0.999", "solver.learning_rate_end=1", "solver.average=0", "solver.clip=1e30",
        "solver.control.delta=3", "solver.control.ramp=0", "solver.boundary.delta=1", "solver.convergence.tolerance=0",
        "epsilon.points=999", "epsilon={schedule: adaptive, points: 3}", "evaluate.metrics=[]", "evaluate.samples_per_class=0",
        "run.gpus_per_trial=0.25", "run.gpus_per_trial=4", "run.max_failures=0", "run.storage=s3://bucket/runs", "baselines=[]",
        "data.retain_classes=[2, 3]", "data.retain_classes=4", "run.address=ray://head:10001", "seeds=[0, 1, 2]",
        "epsilon={schedule: list, absolute: true, values: [1, 2.5]}", "model.variant=small", "name=a.b-c_1", "task.patches=1",
        "evaluate.max_samples=1", "evaluate.sampling.steps=1", "smoke=true",
    ],
)  # fmt: skip
def test_values_at_the_edge_are_accepted_and_survive_a_dump(override: str) -> None:
    config = parse("", override)
    assert parse_config(dump_config(config), "dump") == config


def test_overlap_of_classes_names_them() -> None:
    line = only_error("", "data.forget_classes=[cat, dog, 7]", "data.retain_classes=[7, cow, cat]")
    assert line.endswith("expected classes that are not in forget_classes, found `7`, `cat` in both lists")


def test_mean_target_with_l2_is_explained() -> None:
    line = only_error("objective: {distance: l2, noise_target: mean}")
    assert "replacing draws by their mean is exact only for squared errors" in line


def test_fraction_outside_the_range_is_explained() -> None:
    line = only_error("epsilon: {schedule: list, values: [0.5, 0, 1, 1.2]}")
    assert line.startswith("x.yaml:4: epsilon.values: a fraction outside (0, 1) lies outside the valid range")
    assert "`absolute: true`; found 0.0, 1.0, 1.2" in line


def test_wrong_absolute_brings_no_second_error() -> None:
    assert "epsilon.absolute: expected true or false" in only_error(
        "epsilon: {schedule: list, values: [3], absolute: yes}"
    )


def test_credentials_are_refused_without_repeating_them() -> None:
    assert "secret" not in only_error("run: {storage: 's3://key:secret@bucket'}")


def test_errors_stay_on_one_line() -> None:
    assert only_error('"a\\nb": 3').startswith("x.yaml:4: a\\nb: unknown key")


def test_long_values_are_shortened() -> None:
    assert len(only_error(f"run: {{executor: {'x' * 10_000}}}")) < 200


# The model, its task and what is compared


@pytest.mark.parametrize(
    ("family", "variants"),
    [
        ("digits_mae", ["small"]),
        ("mae", ["vit_base", "vit_large", "tiny"]),
        ("mage", ["vit_base", "vit_large", "tiny"]),
        ("palette", ["places2", "tiny"]),
    ],
)
def test_the_first_variant_of_a_family_is_its_default(family: str, variants: list[str]) -> None:
    assert parse("", model_of(family)).model.variant == variants[0]
    assert parse("", model_of(family), "model.variant=null").model.variant == variants[0]
    for variant in variants:
        config = parse("", model_of(family), f"model.variant={variant}")
        assert config.model.variant == variant
        assert parse_config(dump_config(config), "dump") == config


@pytest.mark.parametrize(
    ("family", "variant", "expected"),
    [
        ("digits_mae", "tiny", "small"),
        ("mae", "places2", "vit_base or vit_large or tiny"),
        ("mage", "small", "vit_base or vit_large or tiny"),
        ("palette", "vit_base", "places2 or tiny"),
    ],
)
def test_a_variant_of_another_family_is_refused(family: str, variant: str, expected: str) -> None:
    assert only_error("", model_of(family), f"model.variant={variant}") == (
        f"-o model.variant={variant}: model.variant: expected {expected} with family {family}, found `{variant}`"
    )


def test_an_unknown_family_brings_no_second_error() -> None:
    line = only_error("", model_of("maq", ", variant: vit_base, recompute: true"))
    assert "model.family: expected " in line
    assert line.endswith("did you mean `mae`?")


FAMILIES_WITH_KEY = [
    ("model.tokenizer=vqgan.ckpt", {"mage"}),
    ("model.predicts=normalised_patches", {"mae"}),
    ("model.channels_last=true", {"mage", "palette"}),
    ("model.recompute=true", {"palette"}),
]


@pytest.mark.parametrize(("override", "families"), FAMILIES_WITH_KEY)
@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage", "palette"])
def test_a_key_of_some_families_is_refused_with_others(
    override: str, families: set[str], family: str
) -> None:
    key, _, value = override.partition("=")
    if family in families:
        model = parse("", model_of(family), override).model
        assert getattr(model, key.partition(".")[2]) == (True if value == "true" else value)
        return
    line = only_error("", model_of(family), override)
    assert line.startswith(f"-o {override}: {key}: expected it left out with family {family}, found ")
    assert all(name in line.partition("belongs to")[2] for name in families)


@pytest.mark.parametrize(
    "default", ["tokenizer: null", "predicts: pixels", "channels_last: false", "recompute: false"]
)
@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage", "palette"])
def test_the_default_of_a_key_is_no_error_with_any_family(family: str, default: str) -> None:
    assert parse("", model_of(family, f", {default}")) == parse("", model_of(family))


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_only_the_embedded_model_ships_with_the_package(family: str) -> None:
    line = only_error("", model_of(family), "model.checkpoint=builtin")
    assert (
        f"model.checkpoint: expected the path of a published checkpoint of {family}, found `builtin`" in line
    )
    assert "--smoke" in line


@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage", "palette"])
def test_random_weights_are_for_smoke_runs_only(family: str) -> None:
    random = (model_of(family), "model.checkpoint=random")
    line = only_error("", *random)
    assert "model: expected a checkpoint, found `random`: only a sweep started with --smoke" in line
    config = parse("", *random, "smoke=true")
    assert config.model.is_random
    assert parse_config(dump_config(config), "dump") == config


def test_a_file_is_not_random() -> None:
    assert not parse().model.is_random
    assert not parse("smoke: true").model.is_random


KINDS = ["center", "outpaint", "up", "down", "left", "right", "random"]


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_side_is_the_size_of_every_kind(kind: str) -> None:
    task = parse("", f"task.kind={kind}").task
    assert (task.kind, task.size, task.patches, task.removal) == (kind, 0.5, None, "hole")
    assert parse(f"task: {{kind: {kind}, size: null}}").task == task


def test_a_square_may_be_counted_in_patches() -> None:
    config = parse("task: {patches: 8}")
    assert (config.task.patches, config.task.size) == (8, None)
    assert parse_config(dump_config(config), "dump") == config


def test_size_and_patches_together_are_refused() -> None:
    line = only_error("task: {patches: 8, size: 0.5}")
    assert line.startswith("x.yaml:4: task.size: expected either size or patches, found size the number 0.5")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_patches_are_for_a_square_only(kind: str) -> None:
    line = only_error(f"task: {{kind: {kind}, patches: 4}}")
    assert line.startswith(f"x.yaml:4: task.patches: expected `size` with kind {kind}, found patches: 4")


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
@pytest.mark.parametrize("kind", KINDS)
def test_published_removal_goes_with_every_hole_of_the_pictures(family: str, kind: str) -> None:
    task = parse("", model_of(family), f"task={{kind: {kind}, removal: published}}").task
    assert (task.kind, task.removal) == (kind, "published")


def test_the_embedded_model_has_no_other_removal() -> None:
    assert "task: expected removal `hole` with family digits_mae" in only_error("task: {removal: published}")


@pytest.mark.parametrize(
    ("family", "removal", "distance", "targets"),
    [
        ("digits_mae", "hole", "mse", ("mean", "cached")),
        ("digits_mae", "hole", "l2", ("draws", "cached")),
        ("mae", "hole", "mse", ("mean", "cached")),
        ("mae", "hole", "l2", ("draws", "cached")),
        ("mae", "published", "mse", ("paired", "computed")),
        ("mae", "published", "l2", ("paired", "computed")),
        ("mage", "hole", "mse", ("mean", "cached")),
        ("mage", "published", "l2", ("paired", "computed")),
        ("palette", "hole", "mse", ("paired", "computed")),
        ("palette", "hole", "l2", ("paired", "computed")),
        ("palette", "published", "mse", ("paired", "computed")),
    ],
)
def test_targets_follow_what_is_drawn_anew(
    family: str, removal: str, distance: str, targets: tuple[str, str]
) -> None:
    base = (model_of(family), f"task.removal={removal}")
    config = parse("", *base, f"objective.distance={distance}")
    assert (config.objective.noise_target, config.objective.retain_target) == targets
    nulls = f"objective={{distance: {distance}, noise_target: null, retain_target: null}}"
    assert parse("", *base, nulls) == config
    assert parse_config(dump_config(config), "dump") == config


@pytest.mark.parametrize(
    "override",
    ["objective.noise_target=mean", "objective.noise_target=draws", "objective.retain_target=cached"],
)
@pytest.mark.parametrize("base", [("palette", "hole"), ("mae", "published"), ("mage", "published")])
def test_stored_targets_are_refused_where_inputs_are_drawn_anew(base: tuple[str, str], override: str) -> None:
    line = only_error("", model_of(base[0]), f"task.removal={base[1]}", override)
    assert "objective: expected noise_target paired and retain_target computed" in line
    assert override.partition("=")[2] in line.partition("found")[2]


@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage"])
def test_paired_targets_are_refused_where_nothing_is_drawn(family: str) -> None:
    line = only_error("", model_of(family), "objective.noise_target=paired")
    assert "objective: expected mean or draws, found paired" in line


@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage"])
def test_the_original_may_run_beside_any_model(family: str) -> None:
    objective = parse("", model_of(family), "objective.retain_target=computed").objective
    assert (objective.noise_target, objective.retain_target) == ("mean", "computed")


def test_a_wrong_model_brings_no_error_of_the_objective() -> None:
    assert "model.variant" in only_error("objective: {noise_target: paired}", "model.variant=x")


# What is measured


def of_other_images(evaluate: dict[str, Any] | None = None) -> SweepConfig:
    """A sweep on images that the feature network of this package does not know."""
    given = {} if evaluate is None else {"evaluate": evaluate}
    return SweepConfig(
        name="x",
        model=parse().model,
        data=DataSection.model_construct(dataset="folder", forget_classes=("0",)),
        **given,
    )


def test_all_metrics_are_the_default_on_digits() -> None:
    everything = ("mse", "psnr", "frechet", "inception", "cosine")
    assert parse().evaluate.metrics == everything
    assert parse("evaluate: {metrics: null}").evaluate.metrics == everything
    assert parse("evaluate: {metrics: []}").evaluate.metrics == ()


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_pixel_metrics_are_the_default_of_families_that_read_other_pictures(family: str) -> None:
    assert parse("", model_of(family)).evaluate.metrics == ("mse", "psnr")
    line = only_error("", model_of(family), "evaluate.metrics=[mse, cosine]")
    assert "evaluate: expected of metrics only mse, psnr, found cosine" in line


@pytest.mark.parametrize("evaluate", [None, {}, {"metrics": None}, {"samples_per_class": 2}])
def test_pixel_metrics_are_the_default_on_other_images(evaluate: dict[str, Any] | None) -> None:
    assert of_other_images(evaluate).evaluate.metrics == ("mse", "psnr")


@pytest.mark.parametrize("metrics", [("psnr",), ("mse",), ()])
def test_given_pixel_metrics_are_kept_on_other_images(metrics: tuple[str, ...]) -> None:
    assert of_other_images({"metrics": metrics}).evaluate.metrics == metrics


@pytest.mark.parametrize("metric", ["frechet", "inception", "cosine"])
def test_metrics_of_the_digits_network_are_refused_on_other_images(metric: str) -> None:
    with pytest.raises(ValueError, match=rf"expected of metrics only mse, psnr, found {metric}"):
        of_other_images({"metrics": ("mse", metric)})


@pytest.mark.parametrize(
    ("protocol", "metrics"),
    [
        ("standard", ("fid", "kid", "is", "clip")),
        ("li2024-code", ("fid", "kid", "is", "clip")),
        ("paper-text", ("fid", "kid", "is", "clip")),
        ("modern", ("fd_dinov2", "kd_dinov2", "dino", "clip", "lpips")),
    ],
)
def test_published_protocols_measure_their_own_metrics_by_default(
    protocol: str, metrics: tuple[str, ...]
) -> None:
    own = ("mse", "psnr", *metrics)
    assert parse("", f"evaluate.protocol={protocol}").evaluate.metrics == own
    assert parse("", model_of("mae"), f"evaluate.protocol={protocol}").evaluate.metrics == own


@pytest.mark.parametrize(
    ("evaluate", "metric"),
    [
        ("metrics: [fid]", "fid"),
        ("protocol: standard, metrics: [mse, cosine]", "cosine"),
        ("protocol: standard, metrics: [lpips]", "lpips"),
        ("protocol: modern, metrics: [mse, clip, fid]", "fid"),
    ],
)
def test_metrics_of_another_protocol_are_refused(evaluate: str, metric: str) -> None:
    assert only_error(f"evaluate: {{{evaluate}}}").endswith(f", found {metric}")


def test_pinned_digests_are_whole() -> None:
    line = only_error("evaluate: {weights_sha256: {a.pt: abc}}")
    assert (
        "evaluate.weights_sha256.a.pt: expected the 64 digits that `sha256sum` prints, found the text `abc`"
        in line
    )


def test_trying_a_sweep_out_needs_no_networks() -> None:
    small = module.as_smoke(parse("", "evaluate.protocol=standard"))
    assert small.evaluate.protocol == "builtin"
    assert small.evaluate.metrics == parse().evaluate.metrics


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


# Dump


def test_dump_shows_resolved_defaults_in_order() -> None:
    lines = dump_config(parse()).splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith((" ", "-"))] == [
        "name", "seed", "smoke", "model", "data", "task", "objective", "solver", "epsilon", "seeds", "baselines", "controls",
        "evaluate", "run",
    ]  # fmt: skip
    assert "  learning_rate: 0.003" in lines
    assert "  noise_target: mean" in lines
    assert "seeds: [0]" in lines


def test_dump_is_stable() -> None:
    dump = dump_config(parse())
    assert dump_config(parse_config(dump, "dump")) == dump


def test_dump_quotes_text_that_looks_like_something_else() -> None:
    names = [
        "'1e5'",
        "'true'",
        "'null'",
        "'5'",
        "no",
        "'0123'",
        "'a: b'",
        "'#x'",
        "'.5'",
        "'~'",
        "café",
        "'[a]'",
    ]
    config = parse("", f"data.forget_classes=[{', '.join(names)}]")
    assert parse_config(dump_config(config), "dump").data.forget_classes == tuple(
        name.strip("'") for name in names
    )


def test_dump_keeps_every_bit_of_a_number() -> None:
    values = (0.1 + 0.2, 1 / 3, 5e-324, 1 - 2**-53)
    config = parse("", "epsilon.schedule=list", f"epsilon.values=[{', '.join(map(repr, values))}]")
    assert parse_config(dump_config(config), "dump").epsilon.values == values


# Identity

TRIAL: dict[str, Any] = {
    "weights_sha256": "ab" * 32,
    "phase": Phase.EPSILON,
    "method": "epsilon_constraint",
    "role": None,
    "epsilon": 0.7,
    "weight": None,
    "seed": 0,
}
# One other valid value for every key that can change a result, and for every one that cannot.
COUNTING = [
    "seed=1", "model.family=mage", "model.variant=vit_large", "model.predicts=normalised_patches", "model.channels_last=true",
    "model.recompute=true", "data.dataset=generated", "data.forget_classes=[0, 2]", "data.forget_classes=2", "data.retain_classes=[4]",
    "data.train_per_class=5", "data.heldout_per_class=5", "task.size=0.25", "task.kind=random", "task.patches=2",
    "task.removal=published", "objective.retain_target=computed", "objective.original_precision=bfloat16",
    "objective.shared_parameters=trained", "objective.space=encoder", "objective.distance=l2",
    "objective.noise_target=draws", "objective.forget_target=reference", "objective.noise=uniform", "objective.noise_rank=8", "objective.noise_images=64", "solver.steps=401", "solver.batch=33", "solver.update=paper",
    "solver.learning_rate=0.005", "solver.learning_rate_end=0.5", "solver.betas=[0.8, 0.99]", "solver.average=0",
    "solver.stabiliser=1e-6", "solver.clip=1", "solver.boundary.alpha=2", "solver.boundary.delta=3", "solver.lowest.kind=paper",
    "solver.lowest.tolerance=0.01", "solver.lowest.beta=66", "solver.lowest.learning_rate=1", "solver.control.beta=6",
    "solver.control.delta=3", "solver.control.scaled=false", "solver.control.ramp=0", "solver.convergence.window=51",
    "solver.convergence.tolerance=0", "run.cpus_per_trial=2", "solver.start=original", "solver.completeness=per_image",
    "solver.path.steps=9", "solver.path.learning_rate=1", "solver.path.warm_up=0", "solver.path.scan=[]", "solver.path.scan_length=0.2", "solver.path.end=0.1", "solver.path.hold=0",
    "solver.path.average=0.1", "solver.branch.steps=9", "solver.branch.learning_rate=1", "solver.bank.checkpoints=9",
    "solver.bank.images=99", "solver.bank.max_bytes=1000", "solver.precision=bfloat16", "solver.compile=true",
    "data.retain_per_class=3", "data.proxy_retain.classes=3", "data.proxy_retain.per_class=2", "data.duplicates=drop_heldout",
]  # fmt: skip
NOT_COUNTING = [
    "name=other", "smoke=true", "model.checkpoint=weights/other.pth", "model.tokenizer=vqgan.ckpt", "solver.checkpoint_every=7", "epsilon.points=9",
    "epsilon.spacing=geometric", "epsilon.violation_tolerance=0.5", "epsilon={schedule: list, values: [0.5]}", "seeds=[1, 2]",
    "baselines=[max_loss]", "controls=[retrained]", "evaluate.metrics=[mse]", "evaluate.samples_per_class=3", "evaluate.max_samples=3",
    "evaluate.protocol=standard", "evaluate.weights=networks", f"evaluate.weights_sha256={{a.pt: '{'ab' * 32}'}}",
    "evaluate.sampling.method=ddim", "evaluate.sampling.steps=20", "evaluate.sampling.schedule=upstream_test", "run.executor=local",
    "evaluate.second_reconstruction=true", "evaluate.tsne=true",
    "run.gpus_per_trial=1", "run.max_concurrent=3", "run.storage=elsewhere", "run.address=auto", "run.reuse_workers=false",
    "run.max_failures=0", "run.memory_bytes=1000", "solver.budget.total_steps=null", "solver.budget.wall_steps=null",
    "solver.learning_rate=0.003", "objective.noise_target=mean", "seeds=[0]", "task.size=5e-1",
    "data.cache_bytes=0", "objective.reference=a.safetensors", "objective.retain_target=cached", "model.variant=small",
]  # fmt: skip
# data.root: only with another dataset, see test_the_root_of_image_files_counts.
# The others too: they exclude the classes of every sweep here, see test_other_ways_to_split_count.
ONE_VALUE_ONLY = {"data.root", "data.split", "data.forget_share", "data.class_list", "data.class_rule"}
# The family that has a second value for a key, where the embedded one has none.
FAMILY_WITH = {
    "model.family=mage": "mae", "model.variant=vit_large": "mae", "model.predicts=normalised_patches": "mae",
    "model.channels_last=true": "mage", "model.recompute=true": "palette", "model.tokenizer=vqgan.ckpt": "mage",
    "task.removal=published": "mae",
}  # fmt: skip


def without_and_with(override: str) -> tuple[SweepConfig, SweepConfig]:
    """The same sweep without and with an override, with a family that has its key."""
    family = FAMILY_WITH.get(override)
    base = () if family is None else (model_of(family),)
    if override == "objective.forget_target=reference":
        base = ("objective.reference=a.safetensors",)
    return parse("", *base), parse("", *base, override)


def test_every_key_is_tried_for_identity() -> None:
    tried = {override.partition("=")[0] for override in COUNTING + NOT_COUNTING}
    leaves = {key.partition(" ")[0] for key in field_descriptions()}
    sections = {key.rpartition(".")[0] for key in leaves} | {"epsilon", "baselines", "controls"}
    plain = {key for key in leaves - sections if not key.startswith(("epsilon.", "baselines.", "controls."))}
    assert plain - ONE_VALUE_ONLY <= tried


def test_trial_id_is_pinned() -> None:
    # A change here makes every stored trial count as new: raise the identity version on purpose only.
    assert trial_id(parse(), **TRIAL) == "562408da3339cf39"


@pytest.mark.parametrize("override", COUNTING)
def test_trial_id_changes_with_what_can_change_a_result(override: str) -> None:
    old, new = without_and_with(override)
    assert trial_id(new, **TRIAL) != trial_id(old, **TRIAL)


@pytest.mark.parametrize("override", NOT_COUNTING)
def test_trial_id_ignores_what_cannot_change_a_result(override: str) -> None:
    old, new = without_and_with(override)
    assert trial_id(new, **TRIAL) == trial_id(old, **TRIAL)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "cd" * 32},
        {"phase": Phase.CONTROL},
        {"method": "max_loss"},
        {"role": Role.HIGHEST},
        {"epsilon": math.nextafter(0.7, 1)},
        {"epsilon": None},
        {"weight": 1.0},
        {"seed": 1},
    ],
)
def test_trial_id_changes_with_each_argument(change: dict[str, Any]) -> None:
    assert trial_id(parse(), **(TRIAL | change)) != trial_id(parse(), **TRIAL)


@pytest.mark.parametrize(
    "problem",
    [{"phase": Phase.EPSILON}, {"phase": Phase.BOUNDARY, "role": Role.HIGHEST, "epsilon": None}],
    ids=["epsilon", "highest"],
)
@pytest.mark.parametrize("update", ["averaged", "paper"])
def test_a_check_is_the_trial_of_a_sweep_with_twice_the_steps(problem: dict[str, Any], update: str) -> None:
    once, twice = (parse("", f"solver.steps={steps}", f"solver.update={update}") for steps in (50, 100))
    checked = TRIAL | problem
    check = trial_id(once, **(checked | {"phase": Phase.CHECK}))
    assert check == trial_id(twice, **checked)
    assert check != trial_id(once, **checked)
    assert once.for_phase(Phase.CHECK) == twice
    assert once.for_phase(Phase.EPSILON) is once


def test_a_check_takes_twice_the_steps_of_what_it_checks() -> None:
    solver = parse("", "solver.steps=50", "solver.path.steps=70", "solver.branch.steps=30").solver
    assert solver.steps_of(Phase.CHECK, Role.HIGHEST) == 140
    assert solver.steps_of(Phase.CHECK, None) == 60
    from_original = parse("", "solver.steps=50", "solver.start=original").solver
    assert {from_original.steps_of(Phase.CHECK, role) for role in (Role.HIGHEST, None)} == {100}


def test_the_root_of_image_files_counts() -> None:
    one, other = (parse("", "data.dataset=folder", f"data.root={root}") for root in ("a", "b"))
    assert trial_id(one, **TRIAL) != trial_id(other, **TRIAL)
    assert describe_difference(result_fields(one), result_fields(other)) == ["data.root: a -> b"]


def by_list(path: str, rule: str) -> tuple[str, ...]:
    return "data.forget_classes=null", f"data.class_list={path}", f"data.class_rule={rule}"


def test_other_ways_to_split_count() -> None:
    random = "data.forget_classes=null", "data.split=random_images"
    sweeps = [
        (),
        random,
        (*random, "data.forget_share=0.3"),
        by_list("a", "imagenet_r"),
        by_list("b", "imagenet_r"),
    ]
    sweeps.append(by_list("a", "places_flist"))
    assert len({trial_id(parse("", *sweep), **TRIAL) for sweep in sweeps}) == len(sweeps)
    assert parse("", *random) == parse("", *random, "data.forget_share=0.5")


def test_a_proxy_is_on_or_has_numbers() -> None:
    assert parse("", "data.proxy_retain=true") == parse("", "data.proxy_retain={}")
    assert parse("", "data.proxy_retain=false") == parse()
    assert parse("", "data.proxy_retain={classes: 3, per_class: 2}").data.proxy_retain.classes == 3


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        (("data.retain_classes=0",), "retain_classes", "expected at least one, found the number 0: f2 is measured on"),
        (("data.retain_classes=[]",), "retain_classes", "`proxy_retain: true` takes other classes instead"),
        (("data.retain_per_class=0",), "retain_per_class", "expected at least one, found the number 0: f2 is measured on"),
        (("data.forget_share=0.3",), "forget_share", "expected none without `split: random_images`"),
        (("data.class_rule=imagenet_r",), "class_rule", "expected class_list and class_rule together"),
        ((*by_list("a", "imagenet_r"), "data.retain_classes=3"), "retain_classes", "expected none beside class_list"),
        (("data.retain_per_class=2", "data.proxy_retain=true"), "proxy_retain", "expected either retain_per_class or"),
    ],
)  # fmt: skip
def test_data_that_contradicts_itself_is_refused(overrides: tuple[str, ...], key: str, expected: str) -> None:
    line = only_error("", *overrides)
    assert f": data.{key}: " in line
    assert expected in line


def test_a_list_and_named_classes_exclude_each_other() -> None:
    line = only_error("", *by_list("a", "imagenet_r")[1:])
    assert (
        "data.forget_classes: expected none beside class_list, which names the classes, found a list" in line
    )


@pytest.mark.parametrize(
    "extra", ["retain_classes=[1]", "retain_per_class=2", "proxy_retain=true", "forget_classes=[0]"]
)
def test_random_images_have_no_classes_to_choose(extra: str) -> None:
    line = only_error("", "data.forget_classes=null", "data.split=random_images", f"data.{extra}")
    assert "expected none with `split: random_images`, which does not look at classes" in line


@pytest.mark.parametrize("dataset", ["folder", "imagenet", "places365"])
def test_a_data_set_of_files_needs_a_root(dataset: str) -> None:
    assert only_error("", f"data.dataset={dataset}") == (
        f"x.yaml:3: data.root: expected the folder that holds the images of dataset {dataset}, found nothing"
    )
    assert parse("", f"data.dataset={dataset}", "data.root=/images").data.root == "/images"


@pytest.mark.parametrize("dataset", ["digits", "generated"])
def test_a_data_set_without_files_refuses_a_root(dataset: str) -> None:
    assert only_error("", f"data.dataset={dataset}", "data.root=/images") == (
        f"-o data.root=/images: data.root: expected none for dataset {dataset}, which needs no files, found the text `/images`; "
        "remove it"
    )


def test_the_cache_of_image_files_may_be_switched_off() -> None:
    assert parse().data.cache_bytes == 16 * 2**30
    assert parse("", "data.cache_bytes=0").data.cache_bytes == 0
    assert "data.cache_bytes: expected" in only_error("", "data.cache_bytes=-1")


def test_trial_id_does_not_mix_up_epsilon_and_weight() -> None:
    swapped = TRIAL | {"epsilon": None, "weight": 0.7}
    assert trial_id(parse(), **swapped) != trial_id(parse(), **TRIAL)


def test_trial_id_is_the_same_after_a_dump() -> None:
    config = load_config(QUICKSTART)
    assert trial_id(parse_config(dump_config(config), "dump"), **TRIAL) == trial_id(config, **TRIAL)


def test_seed_of_the_split_and_of_the_trial_both_count() -> None:
    ids = {
        trial_id(parse("", f"seed={split}"), **(TRIAL | {"seed": seed}))
        for split in (0, 1)
        for seed in (0, 1)
    }
    assert len(ids) == 4


@pytest.mark.parametrize(
    "override",
    [
        *COUNTING, "evaluate.metrics=[mse]", "evaluate.protocol=standard", "evaluate.samples_per_class=3", "evaluate.max_samples=3",
        "evaluate.sampling.method=ddim", "evaluate.sampling.steps=20", "solver.checkpoint_every=7",
        "evaluate.second_reconstruction=true", "evaluate.tsne=true",
    ],
)  # fmt: skip
def test_config_hash_changes_and_the_difference_names_the_key(override: str) -> None:
    old, new = without_and_with(override)
    assert config_hash(old, "a") != config_hash(new, "a")
    key = override.partition("=")[0]
    assert any(
        line.startswith(f"{key}: ") for line in describe_difference(result_fields(old), result_fields(new))
    )


@pytest.mark.parametrize(
    "override",
    [
        "name=b", "model.checkpoint=a", "model.tokenizer=vqgan.ckpt", "run.storage=x", "seeds=[3]", "baselines=[max_loss]",
        "controls=[retrained]", "smoke=true", "data.cache_bytes=7", "evaluate.weights=networks", f"evaluate.weights_sha256={{a.pt: '{'ab' * 32}'}}",
    ],
)  # fmt: skip
def test_config_hash_ignores_what_may_differ_in_a_run(override: str) -> None:
    old, new = without_and_with(override)
    assert config_hash(new, "a") == config_hash(old, "a")
    assert describe_difference(result_fields(new), result_fields(old)) == []


def test_config_hash_changes_with_the_weights() -> None:
    assert config_hash(parse(), "a") != config_hash(parse(), "b")


def test_difference_is_readable() -> None:
    old = {"solver": {"steps": 400, "clip": None}, "data": {"classes": ["0", "1"]}, "gone": True}
    new = {"solver": {"steps": 800, "clip": 1.0}, "data": {"classes": ["0"]}, "task": {"kind": "center"}}
    assert describe_difference(old, new) == [
        'data.classes: ["0", "1"] -> ["0"]',
        "gone: true -> (absent)",
        "solver.clip: null -> 1.0",
        "solver.steps: 400 -> 800",
        "task.kind: (absent) -> center",
    ]
