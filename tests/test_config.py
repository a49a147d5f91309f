"""A sweep as it is resolved: defaults, what is measured, its dump and its identity."""

import math
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from small_sweep import QUICKSTART
from sweep_keys import field_descriptions
from sweep_text import by_list, model_of, only_error, parse

from pareto_unlearn import config as module
from pareto_unlearn.config import (
    DataSection,
    SweepConfig,
    config_hash,
    describe_difference,
    dump_config,
    load_config,
    parse_config,
    result_fields,
    trial_id,
)
from pareto_unlearn.records import Phase, Role, TrialSpec

# The shipped file, defaults, resolution


def test_quickstart_file_loads() -> None:
    config = load_config(QUICKSTART)
    assert (config.name, config.solver.steps, config.epsilon.points) == ("quickstart", 320, 9)
    assert [(one.method, len(one.weights)) for one in config.baselines] == [("composite", 5)]
    assert [one.method for one in config.controls] == ["retrained"]


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


def test_a_clip_of_null_is_none_and_one_left_out_is_that_of_the_update() -> None:
    assert parse("solver: {update: paper, clip: null}").solver.clip is None
    assert parse("solver: {update: paper}").solver.clip == 1.0
    assert parse("solver: {clip: null}").solver.clip is parse().solver.clip is None


def test_the_preset_of_the_paper_fills_in_what_the_file_leaves_out() -> None:
    found = parse("", "preset=paper")
    solver = found.solver
    assert (found.objective.distance, found.objective.noise_target) == ("l2", "draws")
    assert (solver.update, solver.start, solver.completeness, solver.clip) == (
        "paper",
        "original",
        "mean",
        None,
    )
    assert (solver.control.scaled, solver.control.squared, solver.control.ramp) == (False, True, 0.0)
    assert (solver.lowest.kind, solver.convergence.tolerance) == ("paper", 0.0)
    assert (found.epsilon.points, found.epsilon.spacing) == (3, "linear")


def test_a_file_may_set_what_a_preset_would_fill_in() -> None:
    solver = "solver: {clip: 2, control: {squared: false}}"
    found = parse(f"preset: paper\n{solver}\nepsilon: {{schedule: list, values: [0.5]}}")
    assert (found.solver.clip, found.solver.control.squared, found.solver.update) == (2.0, False, "paper")
    assert found.epsilon.values == (0.5,)


def test_an_unknown_preset_is_refused() -> None:
    assert "preset: expected `paper`" in only_error("preset: nature")


def test_null_means_the_resolved_default() -> None:
    nulls = (
        "solver: {learning_rate: null, learning_rate_end: ~, clip: , "
        "lowest: {learning_rate: null}, control: {ramp: null}}"
    )
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
        f"x.yaml:4: baselines[0].weights: {method} has no weight: expected [1.0], which stands for its "
        "only trial, found [0.5]; leave `weights` out"
    )


def test_a_front_of_a_baseline_is_refused_without_averages() -> None:
    error = only_error("solver: {update: paper}\nbaselines: [mgda, soup]")
    assert error.startswith("x.yaml:5: baselines: expected none of ramped_sum, target_band, ")
    assert error.endswith(
        "with solver.update paper, found soup: their runs average weights and work on e, and the paper's "
        "update does neither"
    )


def test_a_front_of_a_baseline_takes_the_steps_of_the_path() -> None:
    config = parse("solver: {path: {steps: 500}}\nbaselines: [pamal]")
    course = TrialSpec(trial_id="0", phase=Phase.BASELINE, method="pamal", seed=0, weight=0.2)
    assert config.baselines[0].weights == (0.2,)
    assert config.steps_of(course) == 500
    assert config.steps_of(replace(course, parents="1", epsilon=0.7)) == 0
    assert config.steps_of(replace(course, method="composite")) == config.solver.steps


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
    code = (
        "import sys, pareto_unlearn.config; "
        "print({'torch', 'ray', 'pyarrow', 'numpy', 'pandas'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


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


# Dump


def test_dump_shows_resolved_defaults_in_order() -> None:
    lines = dump_config(parse()).splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith((" ", "-"))] == [
        "name", "seed", "smoke", "preset", "model", "data", "task", "objective", "solver", "epsilon", "seeds",
        "baselines", "controls", "evaluate", "run", "report",
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
    "seed=1", "model.family=mage", "model.variant=vit_large", "model.predicts=normalised_patches",
    "model.channels_last=true", "model.schedule=file", "model.recompute=true", "data.dataset=generated",
    "data.forget_classes=[0, 2]", "data.forget_classes=2", "data.retain_classes=[4]",
    "data.train_per_class=5", "data.heldout_per_class=5", "task.size=0.25", "task.kind=random",
    "task.patches=2", "task.removal=published", "objective.retain_target=computed",
    "objective.original_precision=bfloat16", "objective.shared_parameters=trained", "objective.space=encoder",
    "objective.distance=l2", "objective.noise_target=draws", "objective.forget_target=reference",
    "objective.forget_target=background", "evaluate.images=100",
    "objective.noise=uniform", "objective.noise_rank=8", "objective.noise_images=64", "solver.steps=401",
    "solver.batch=33", "solver.update=paper", "solver.learning_rate=0.005", "solver.learning_rate_end=0.5",
    "solver.betas=[0.8, 0.99]", "solver.average=0", "solver.stabiliser=1e-6", "solver.clip=1",
    "solver.boundary.alpha=2", "solver.boundary.delta=3", "solver.lowest.kind=paper",
    "solver.lowest.tolerance=0.01", "solver.lowest.beta=66", "solver.lowest.learning_rate=1",
    "solver.control.beta=6", "solver.control.delta=3", "solver.control.scaled=false", "solver.control.ramp=0",
    "solver.convergence.window=51", "solver.convergence.tolerance=0", "run.cpus_per_trial=2",
    "solver.start=original", "solver.completeness=per_image", "solver.path.steps=9",
    "solver.path.learning_rate=1", "solver.path.scan=[]", "solver.path.scan_length=0.2",
    "solver.path.end=0.1", "solver.path.top=0.7", "solver.path.descent=0.2", "solver.path.stay=0.2",
    "solver.path.wait_above=0.3", "solver.path.average=0.1", "solver.control.squared=true",
    "solver.hold.steps=9", "solver.hold.learning_rate=1", "solver.bank.checkpoints=9",
    "solver.bank.images=99", "solver.bank.max_bytes=1000", "solver.precision=bfloat16", "solver.compile=true",
    "data.retain_per_class=3", "data.proxy_retain.classes=3", "data.proxy_retain.per_class=2",
    "data.duplicates=drop_heldout",
]  # fmt: skip
NOT_COUNTING = [
    "name=other", "smoke=true", "model.checkpoint=weights/other.pth", "model.tokenizer=vqgan.ckpt",
    "solver.checkpoint_every=7", "epsilon.points=9", "epsilon.spacing=geometric",
    "epsilon.violation_tolerance=0.5", "epsilon={schedule: list, values: [0.5]}", "seeds=[1, 2]",
    "baselines=[max_loss]", "controls=[retrained]", "evaluate.metrics=[mse]", "evaluate.samples_per_class=3",
    "evaluate.max_samples=3", "evaluate.pictures=100", "evaluate.protocol=standard",
    "evaluate.weights=networks",
    f"evaluate.weights_sha256={{a.pt: '{'ab' * 32}'}}", "evaluate.sampling.method=ddim",
    "evaluate.sampling.steps=20", "evaluate.sampling.schedule=upstream_test", "run.executor=local",
    "evaluate.second_reconstruction=true", "evaluate.tsne=true", "evaluate.audit=off", "run.gpus_per_trial=1",
    "run.max_concurrent=3", "run.ranks_per_trial=1", "run.storage=elsewhere", "run.address=auto",
    "run.reuse_workers=false",
    "run.max_failures=0", "run.memory_bytes=1000", "run.wait_for_resources=0",
    "solver.budget.total_steps=null",
    "solver.budget.wall_steps=null", "solver.learning_rate=0.003", "objective.noise_target=mean", "seeds=[0]",
    "task.size=5e-1", "data.cache_bytes=0", "data.follow_links=true", "objective.reference=a.safetensors",
    "data.cache_folder=pixels",
    "objective.retain_target=cached", "model.variant=small", "solver.relearning.steps=9",
    "report.forget_images=none",
    "solver.relearning.level=0.4", "solver.relearning.every=1", "solver.relearning.weight=2",
]  # fmt: skip
# preset: the keys that it fills in count.
# data.root: only with another dataset, see test_the_root_of_image_files_counts.
# The others too: they exclude the classes of every sweep here, see test_other_ways_to_split_count.
ONE_VALUE_ONLY = {
    "preset",
    "data.root",
    "data.split",
    "data.forget_share",
    "data.class_list",
    "data.class_rule",
    "data.forget",
    "data.same_class",
    "data.forget_split",
    "model.side",
    "model.patch",
    "task.masks",  # see test_own_masks
}
# The family that has a second value for a key, where the embedded one has none.
FAMILY_WITH = {
    "model.family=mage": "mae", "model.variant=vit_large": "mae", "model.predicts=normalised_patches": "mae",
    "model.channels_last=true": "mage", "model.schedule=file": "palette", "model.recompute=true": "palette",
    "model.tokenizer=vqgan.ckpt": "mage", "task.removal=published": "mae",
}  # fmt: skip


def without_and_with(override: str) -> tuple[SweepConfig, SweepConfig]:
    """The same sweep without and with an override, with a family that has its key."""
    family = FAMILY_WITH.get(override)
    base = () if family is None else (model_of(family),)
    if override == "objective.forget_target=reference":
        base = ("objective.reference=a.safetensors",)
    if override == "solver.control.squared=true":
        base = ("solver.control.scaled=false",)
    return parse("", *base), parse("", *base, override)


def test_every_key_is_tried_for_identity() -> None:
    tried = {override.partition("=")[0] for override in COUNTING + NOT_COUNTING}
    leaves = {key.partition(" ")[0] for key in field_descriptions()}
    sections = {key.rpartition(".")[0] for key in leaves} | {"epsilon", "baselines", "controls"}
    plain = {key for key in leaves - sections if not key.startswith(("epsilon.", "baselines.", "controls."))}
    assert plain - ONE_VALUE_ONLY <= tried


def test_trial_id_is_pinned() -> None:
    # A change here makes every stored trial count as new: raise the identity version on purpose only.
    assert trial_id(parse(), **TRIAL) == "48ceaadad88d901c"


@pytest.mark.parametrize("override", COUNTING)
def test_trial_id_changes_with_what_can_change_a_result(override: str) -> None:
    old, new = without_and_with(override)
    assert trial_id(new, **TRIAL) != trial_id(old, **TRIAL)


@pytest.mark.parametrize("key", ["level=0.4", "every=1", "steps=9", "weight=2"])
def test_the_keys_of_relearning_count_for_the_trial_that_resists_it(key: str) -> None:
    hardened = TRIAL | {"phase": Phase.HARDENED, "epsilon": None}
    old, new = parse("", "solver.relearning={}"), parse("", f"solver.relearning.{key}")
    assert trial_id(new, **hardened) != trial_id(old, **hardened)


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
    solver = parse("", "solver.steps=50", "solver.path.steps=70", "solver.hold.steps=30").solver
    assert solver.steps_of(Phase.CHECK, Role.HIGHEST) == 140
    assert solver.steps_of(Phase.CHECK, None) == 60
    from_original = parse("", "solver.steps=50", "solver.start=original").solver
    assert {from_original.steps_of(Phase.CHECK, role) for role in (Role.HIGHEST, None)} == {100}


def test_the_root_of_image_files_counts() -> None:
    one, other = (parse("", "data.dataset=folder", f"data.root={root}") for root in ("a", "b"))
    assert trial_id(one, **TRIAL) != trial_id(other, **TRIAL)
    assert describe_difference(result_fields(one), result_fields(other)) == ["data.root: a -> b"]


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
    named = "data.forget_classes=null", "data.retain_classes=null", "data.forget=[a, b]"
    sweeps += [named, (*named[:2], "data.forget=[a]"), (*named, "data.same_class=leave_out")]
    sweeps.append((*named, "data.forget_split=named"))
    assert len({trial_id(parse("", *sweep), **TRIAL) for sweep in sweeps}) == len(sweeps)
    assert parse("", *random) == parse("", *random, "data.forget_share=0.5")


def test_the_size_of_a_small_model_counts() -> None:
    small = "model={family: mae, variant: small, checkpoint: a.pth}"
    sweeps = [(small,), (small, "model.side=32"), (small, "model.patch=16")]
    assert len({trial_id(parse("", *sweep), **TRIAL) for sweep in sweeps}) == len(sweeps)
    assert parse("", small) == parse("", small, "model.side=64", "model.patch=8")


def test_keys_that_came_later_leave_the_ids_of_other_sweeps_as_they_were() -> None:
    fields = result_fields(parse())
    assert not {"forget", "same_class", "forget_split"} & fields["data"].keys()
    assert not {"side", "patch"} & fields["model"].keys()


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
        *COUNTING, "evaluate.samples_per_class=3", "evaluate.max_samples=3", "evaluate.tsne=true",
        "evaluate.sampling.method=ddim", "evaluate.sampling.steps=20", "evaluate.pictures=100",
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
        "name=b", "model.checkpoint=a", "model.tokenizer=vqgan.ckpt", "run.storage=x", "seeds=[3]",
        "baselines=[max_loss]", "controls=[retrained]", "smoke=true", "data.cache_bytes=7",
        "data.cache_folder=p",
        "evaluate.weights=networks", f"evaluate.weights_sha256={{a.pt: '{'ab' * 32}'}}",
        "solver.relearning={}", "solver.checkpoint_every=7", "evaluate.metrics=[mse]",
        "evaluate.protocol=standard", "evaluate.second_reconstruction=true", "evaluate.audit=full",
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
