"""A sweep's model, its task and what is compared: which go together."""

import pytest
from sweep_text import model_of, only_error, parse

from pareto_unlearn.config import dump_config, parse_config


@pytest.mark.parametrize(
    ("family", "variants"),
    [
        ("digits_mae", ["small"]),
        ("mae", ["vit_base", "vit_large", "small", "tiny"]),
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
        ("mae", "places2", "vit_base or vit_large or vit_huge or small or tiny"),
        ("mage", "small", "vit_base or vit_large or tiny"),
        ("palette", "vit_base", "places2 or tiny"),
    ],
)
def test_a_variant_of_another_family_is_refused(family: str, variant: str, expected: str) -> None:
    assert only_error("", model_of(family), f"model.variant={variant}") == (
        f"-o model.variant={variant}: model.variant: expected {expected} with family {family}, found "
        f"`{variant}`"
    )


def test_an_unknown_family_brings_no_second_error() -> None:
    line = only_error("", model_of("maq", ", variant: vit_base, recompute: true"))
    assert "model.family: expected " in line
    assert line.endswith("did you mean `mae`?")


FAMILIES_WITH_KEY = [
    ("model.tokenizer=vqgan.ckpt", {"mage"}),
    ("model.predicts=normalised_patches", {"mae"}),
    ("model.schedule=file", {"palette"}),
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
    "default",
    [
        "tokenizer: null",
        "predicts: pixels",
        "schedule: published",
        "channels_last: false",
        "recompute: false",
    ],
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
