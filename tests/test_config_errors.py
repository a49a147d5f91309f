"""What is refused in a sweep file, where, and in which words."""

import pytest
from sweep_text import errors, only_error, parse

from pareto_unlearn.config import dump_config, parse_config
from pareto_unlearn.errors import ConfigError


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
            "`solver.steps` or `solver.path.steps` or `solver.hold.steps` or `solver.relearning.steps` or "
            "`controls.steps` or `evaluate.sampling.steps`?",
        ),
        ("solver: {metrics: [mse]}", "did you mean `evaluate.metrics`?"),
        ("learning_rate: 3", "`solver.learning_rate` or `solver.lowest.learning_rate`"),
        ("solver: {Steps: 3}", "did you mean `steps`?"),
        ("epsilon: {values: [.1]}", "unknown key of schedule grid; it belongs to `schedule: list`."),
        ("epsilon: {schedule: list, values: [.1], point: 3}", "unknown key. Known keys"),
        ("baselines: [{method: composite, weight: 3}]", "did you mean `weights`?"),
        ("xyzzy: 3", "unknown key. Known keys: `name`, `seed`, `smoke`, `preset`"),
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
        ("solver.relearning.level", ["0", "1", "half"]),
        ("solver.relearning.every", ["0", "1.5"]),
        ("solver.relearning.steps", ["0"]),
        ("solver.relearning.weight", ["0"]),
        ("solver.relearning", ["3", "[]", "true"]),
        (
            "epsilon",
            [
                "{points: 0}",
                "{points: 10001}",
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
        ("run.wait_for_resources", ["-1", "1e9999"]),
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
        "seed=2147483647", "task.size=0.999", "solver.learning_rate_end=1", "solver.average=0",
        "solver.clip=1e30", "solver.control.delta=3", "solver.control.ramp=0", "solver.boundary.delta=1",
        "solver.convergence.tolerance=0", "epsilon.points=999", "epsilon={schedule: adaptive, points: 3}",
        "evaluate.metrics=[]", "evaluate.samples_per_class=0", "run.gpus_per_trial=0.25",
        "run.gpus_per_trial=4", "run.max_failures=0", "run.storage=s3://bucket/runs", "baselines=[]",
        "data.retain_classes=[2, 3]", "data.retain_classes=4", "run.address=ray://head:10001",
        "seeds=[0, 1, 2]", "epsilon={schedule: list, absolute: true, values: [1, 2.5]}",
        "model.variant=small", "name=a.b-c_1", "task.patches=1", "evaluate.max_samples=1",
        "evaluate.sampling.steps=1", "smoke=true",
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


def test_keys_of_former_releases_are_refused_in_a_new_file_and_dropped_in_a_stored_one() -> None:
    text = dump_config(parse("solver: {path: {end: 0.02}}\n")).replace(
        "    end: 0.02", "    hold: 0.2\n    end: 0.02"
    )
    with pytest.raises(ConfigError, match=r"solver.path.hold: no longer a key: .* remove it"):
        parse_config(text, "x.yaml")
    assert parse_config(text, "x.yaml", stored=True).solver.path.end == 0.02
