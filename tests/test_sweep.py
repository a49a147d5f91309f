"""The driver in this process: what a sweep leaves behind, what it repeats, how it ends."""

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from small_sweep import rows_of, run, run_of, small_sweep

from pareto_unlearn.analysis.scores import LEVELS
from pareto_unlearn.config import SweepConfig, dump_config
from pareto_unlearn.errors import ConfigError, RangeError, RunLockedError, WeightsError
from pareto_unlearn.records import MACHINE_FAULT, Phase, Role, TrialRecord, TrialSpec, TrialState
from pareto_unlearn.schedule import EpsilonError, NoTrial
from pareto_unlearn.solver import PathPlan
from pareto_unlearn.store import RunStore, open_run
from pareto_unlearn.sweep import SweepOptions, run_sweep
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import Assignment, execute
from pareto_unlearn.trial.bank import WAY_HOME
from pareto_unlearn.trial.mixing import MAX_EVALUATIONS

FEW_STEPS = ("solver.steps=10", "solver.path.steps=20", "solver.hold.steps=4", "solver.bank.checkpoints=4")
"""For what happens between the phases, however far a model gets in them."""


def summary_of(config: SweepConfig, **options) -> str:
    """What a person reads; of a finished sweep only the closing summary."""
    heard = io.StringIO()
    assert run_sweep(config, SweepOptions(**options), Console(file=heard, width=200)) == 0
    return heard.getvalue()


def record_of(config: SweepConfig, label: str) -> TrialRecord:
    return next(record for record in run_of(config).records if record.label == label)


@pytest.fixture(scope="module")
def finished(copy_small_sweep, tmp_path_factory) -> SweepConfig:
    """The finished small sweep, that tests only read."""
    return copy_small_sweep(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def continued(copy_small_sweep, tmp_path) -> Callable[..., SweepConfig]:
    """Build a sweep over a copy of the finished one: only what the overrides add is left to run."""
    return lambda *overrides: copy_small_sweep(tmp_path / "runs", *overrides)


@pytest.fixture(scope="module")
def encoder_sweep(tmp_path_factory) -> SweepConfig:
    """A finished sweep whose objectives compare encoder outputs, that tests only read."""
    few = ("objective.space=encoder", "epsilon.points=1", "baselines=[]")
    config = small_sweep(tmp_path_factory.mktemp("encoder"), *few)
    assert run(config) == 0
    return config


def test_every_planned_trial_is_one_row(finished):
    records = run_of(finished).records
    labels = sorted(record.label for record in records)
    assert labels == ["composite 0.1", "epsilon 19.7%", "epsilon 3.3%", "highest", "lowest", "original"]
    assert {record.phase for record in records} == {
        Phase.ORIGINAL,
        Phase.BOUNDARY,
        Phase.EPSILON,
        Phase.BASELINE,
    }


def test_range_lies_between_the_boundaries(finished):
    info = run_of(finished).info
    (valid,) = info.ranges
    assert valid.lower == record_of(finished, "highest").level
    assert valid.lower < valid.upper <= info.scales.f1_original


def test_reference_point_is_the_worst_corner_of_phase_one(finished):
    info = run_of(finished).info
    assert info.reference_point == (info.scales.f1_original, record_of(finished, "highest").f2)


def test_original_has_no_retain_loss_and_full_forget_loss(finished):
    original = record_of(finished, "original")
    assert (original.f2, original.e, original.retained_quality) == (0.0, 1.0, 1.0)


def test_completeness_is_one_minus_e_in_units_of_the_range(finished):
    info = run_of(finished).info
    for record in run_of(finished).records:
        expected = 1.0 - (record.f1 - info.scales.f1_floor) / info.scales.f1_range
        assert record.completeness == pytest.approx(
            expected, abs=1e-6
        )  # f1 and e are float32 means taken apart


def test_worst_class_is_the_smallest_class_row(finished):
    run_read = run_of(finished)
    metrics = run_read.metrics
    for record in run_read.records:
        rows = metrics[
            (metrics.trial_id == record.trial_id)
            & (metrics.metric == "completeness")
            & (metrics.split == "train")
        ]
        assert rows.value.min() == record.completeness_worst_class
        assert sorted(rows.class_name) == ["0", "1", "2", "3", "4"]


def test_checkpoint_gives_the_recorded_objectives_again(finished, tmp_path):
    from pareto_unlearn.trial.loading import load_material
    from pareto_unlearn.trial.measuring import measure_completeness, measure_retain_loss

    record = record_of(finished, "highest")
    store = RunStore.open(f"{finished.run.storage}/quickstart")
    weights = tmp_path / "unlearned.safetensors"
    weights.write_bytes(store.read_checkpoint(record)["model.safetensors"])
    original = load_material(finished, tmp_path, "same")
    from pareto_unlearn.models import load_model

    unlearned = load_model(finished.model.model_copy(update={"checkpoint": str(weights)}), finished.task)
    original.model.load_state_dict(unlearned.state_dict())
    assert measure_completeness(original, "train").f1 == record.f1
    assert measure_retain_loss(original, "train") == record.f2


def test_curves_hold_every_step_in_raw_units(finished):
    run_read = run_of(finished)
    for label in ("highest", "lowest", "composite 0.1"):
        record = record_of(finished, label)
        curve = run_read.curves[run_read.curves.trial_id == record.trial_id]
        assert list(curve.step) == list(range(record.steps))
        # the first mini-batch sees the original model: f1 near its f1, f2 exactly zero
        assert curve.f1.iloc[0] == pytest.approx(run_read.info.scales.f1_original, rel=0.1)
        assert curve.f2.iloc[0] == 0.0


def test_manifest_lists_every_image_once(finished):
    lines = Path(f"{finished.run.storage}/quickstart/manifest.csv").read_text().splitlines()
    assert len(lines) == 1 + 10 * (32 + 8)
    assert len({line.split(",")[0] for line in lines}) == len(lines)


def test_summary_scores_every_method_in_fixed_boxes_held_out_first(finished):
    run_read, said = run_of(finished), summary_of(finished)
    ours = f"gradient pairs {run_read.gradient_pairs('epsilon_constraint'):,} + "
    ours += f"{run_read.measuring_pairs('epsilon_constraint'):,.0f} of measuring"
    heldout, train = (run_read.scores("epsilon_constraint", 0, split) for split in ("heldout", "train"))
    for place, height in enumerate(("5%", "100%")):
        areas = f"{heldout.areas[place]:.3f} / {train.areas[place]:.3f} ({ours}), composite"
        box = f"area with quality loss below {height} (seed 0), held out / training"
        assert f"{box}: epsilon_constraint {areas}" in said
    levels = "0.05 0.1 0.2 0.35 0.5 of the forget set"
    assert f"held-out quality loss in % at e <= {levels} (seed 0): epsilon_constraint" in said


def test_held_out_loss_is_read_at_e_of_the_images_that_were_to_be_forgotten(finished):
    run_read = run_of(finished)
    rows = [
        row
        for row in run_read.records
        if row.method in ("epsilon_constraint", "original") and row.e is not None
    ]
    assert any(row.e_heldout > level >= row.e for row in rows for level in LEVELS)
    for level, loss in zip(LEVELS, run_read.scores("epsilon_constraint", 0, "heldout").losses, strict=True):
        reached = [1 - row.retained_quality_heldout for row in rows if row.e <= level]
        assert loss == (pytest.approx(min(reached)) if reached else None)


def test_the_pairs_of_a_front_are_path_scan_and_lowest_boundary(finished):
    path = record_of(finished, "highest")
    assert path.gradient_pairs == 240 + 48
    assert run_of(finished).gradient_pairs(method="epsilon_constraint") == 240 + 48 + 40


def test_measuring_is_counted_where_a_trial_looks_at_its_model_while_it_is_solved(finished):
    """160 forget and 160 retain images in steps of 16 and 16: measuring all costs 10 / 3 pairs."""
    whole, path = 10 / 3, finished.solver.path
    taken = sum(
        len(PathPlan(steps=steps, checkpoints=12).capture_times()) for steps in (path.steps, path.scan_steps)
    )
    looks = record_of(finished, "highest").measuring_pairs / whole
    assert looks == pytest.approx(round(looks))
    # after a wait of the descent two checkpoints may be due at one step
    assert taken - 4 <= round(looks) <= taken + len(WAY_HOME)
    for label in ("lowest", "original", "composite 0.1"):
        assert record_of(finished, label).measuring_pairs == 0.0
    for label in ("epsilon 3.3%", "epsilon 19.7%"):
        record = record_of(finished, label)
        # each is at f1 while a mixture is sought, or at f2 of what was found
        looks = record.measuring_pairs / (whole / 2)
        evaluations = int(record.reason.split()[-4])
        assert looks == pytest.approx(round(looks))
        assert evaluations + 1 <= round(looks) <= 2 * (MAX_EVALUATIONS + 1)
    ours = [one.measuring_pairs for one in run_of(finished).records if one.method == "epsilon_constraint"]
    assert run_of(finished).measuring_pairs("epsilon_constraint") == pytest.approx(sum(ours))


def test_f2_falls_strictly_as_epsilon_rises_and_nothing_dominates_the_highest(finished):
    records = [record for record in run_of(finished).records if record.method == "epsilon_constraint"]
    highest = record_of(finished, "highest")
    epsilons = sorted(
        (record for record in records if record.epsilon is not None), key=lambda one: one.epsilon
    )
    losses = [highest.f2, *(record.f2 for record in epsilons)]
    assert all(early > late for early, late in pairwise(losses))
    assert not [one.label for one in records if one.f1 < highest.f1 and one.f2 < highest.f2]
    assert all(abs(one.level - one.epsilon) <= 0.01 * one.range_width for one in epsilons)


def test_same_command_again_runs_nothing(finished):
    parts = Path(f"{finished.run.storage}/quickstart/trials")
    before = {part.name: part.stat().st_mtime_ns for part in parts.iterdir()}
    assert run(finished) == 0
    assert {part.name: part.stat().st_mtime_ns for part in parts.iterdir()} == before


def test_same_seed_gives_the_same_rows_bit_for_bit(finished, small_config):
    again = small_config()
    assert run(again) == 0
    assert rows_of(again) == rows_of(finished)


@pytest.mark.slow
def test_another_seed_gives_other_solutions(finished, small_config):
    other = small_config("seeds=[1]", "epsilon.points=1", "baselines=[]")
    assert run(other) == 0
    assert record_of(other, "highest").f1 != record_of(finished, "highest").f1


def test_added_epsilons_keep_the_trials_there_are(finished, continued):
    wider = continued("epsilon={schedule: list, values: [0.25]}")
    assert run(wider) == 0
    before, after = rows_of(finished), rows_of(wider)
    (added,) = (row for row in after if row not in before)
    assert added["epsilon_fraction"] == "0.25"
    assert [row for row in after if row != added] == before


def test_changed_solver_under_the_same_name_is_refused_with_the_difference(continued):
    with pytest.raises(ConfigError, match=r"solver\.batch: 16 -> 8"):
        run(continued("solver.batch=8"))


def test_a_run_that_lost_run_json_takes_its_own_sweep_only(continued):
    config = continued()
    storage = Path(config.run.storage)
    folder = storage / config.name
    before = rows_of(config)
    (folder / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"holds a run of another sweep: solver\.batch: 16 -> 8"):
        run(small_sweep(storage, "solver.batch=8"))
    assert not (folder / "run.json").exists()
    assert run(config) == 0
    assert rows_of(config) == before
    (folder / "run.json").unlink()
    kept = (folder / "sweep.yaml").read_bytes()
    (folder / "sweep.yaml").unlink()
    with pytest.raises(ConfigError, match=r"neither run\.json nor sweep\.yaml says of which sweep"):
        run(config)
    (folder / "sweep.yaml").write_bytes(kept)
    assert run(config) == 0
    manifest = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(manifest.replace("forget,train", "retain,train", 1))
    (folder / "run.json").unlink()
    with pytest.raises(ConfigError, match="was started with other images"):
        run(config)


def test_diverged_trial_is_a_row_with_its_reason_and_the_others_go_on(continued):
    config = continued("baselines=[{method: composite, weights: [1.0e+38, 0.2]}]")
    assert run(config) == 4
    broken = record_of(config, "composite 1e+38")
    assert broken.state is TrialState.DIVERGED
    assert "not finite" in broken.reason
    assert broken.checkpoint is None
    assert record_of(config, "composite 0.2").state is TrialState.DONE


def test_absolute_epsilon_outside_the_range_ends_after_phase_one_and_keeps_it(small_config):
    config = small_config(
        *FEW_STEPS, "epsilon={schedule: list, values: [9.0], absolute: true}", "baselines=[]"
    )
    with pytest.raises(EpsilonError, match="outside the valid range") as raised:
        run(config)
    assert raised.value.exit_code == 3
    assert {row["role"] for row in rows_of(config)} >= {repr(Role.HIGHEST), repr(Role.LOWEST)}


def test_absolute_epsilon_inside_the_range_is_solved(finished, continued):
    (valid,) = run_of(finished).info.ranges
    inside = round((valid.lower + valid.upper) / 2, 3)
    config = continued(f"epsilon={{schedule: list, values: [{inside}], absolute: true}}")
    assert run(config) == 0
    known = {record.trial_id for record in run_of(finished).records}
    records = run_of(config).records
    (added,) = (record for record in records if record.trial_id not in known)
    assert (added.phase, added.epsilon) == (Phase.EPSILON, inside)


def test_degenerate_range_is_its_own_error(small_config):
    # one tiny step moves nothing, so both ends of the range are the original model
    config = small_config("solver.steps=1", "solver.learning_rate=1e-9", "baselines=[]")
    with pytest.raises(RangeError, match="no valid epsilon range") as raised:
        run(config)
    assert raised.value.exit_code == 7


@pytest.mark.slow
def test_paper_rules_run_end_to_end(small_config):
    config = small_config(
        "solver.update=paper", "solver.lowest.kind=paper", "solver.control.scaled=true", "baselines=[]"
    )
    assert run(config) in (0, 7)
    assert record_of(config, "highest").f1 < run_of(config).info.scales.f1_original


def check_objective(config: SweepConfig, description: str) -> None:
    highest, info = record_of(config, "highest"), run_of(config).info
    assert info.scales.f1_floor < highest.f1 < info.scales.f1_original
    assert info.objective == description


@pytest.mark.slow
def test_encoder_objective_runs_end_to_end(encoder_sweep):
    check_objective(
        encoder_sweep,
        "mean squared error per value of the encoder outputs of the 12 visible patches, 48 values each; "
        "noise target: mean",
    )


@pytest.mark.slow
def test_l2_objective_runs_end_to_end(small_config):
    config = small_config("objective.distance=l2", "epsilon.points=1", "baselines=[]")
    assert run(config) == 0
    check_objective(
        config,
        "L2 norm per image of the predictions of all 16 patches, 16 normalised pixels each; noise target: "
        "draws",
    )


@pytest.mark.slow
def test_encoder_objective_leaves_the_decoder_alone(encoder_sweep):
    from safetensors.torch import load

    from pareto_unlearn.models import load_model

    store = RunStore.open(f"{encoder_sweep.run.storage}/quickstart")
    highest = record_of(encoder_sweep, "highest")
    unlearned = load(store.read_checkpoint(highest)["model.safetensors"])
    original = load_model(encoder_sweep.model, encoder_sweep.task).state_dict()
    changed = {name for name in original if not original[name].equal(unlearned[name])}
    assert changed
    assert not [name for name in changed if name.startswith(("decoder", "predict", "mask_token"))]


@pytest.mark.slow
def test_adaptive_schedule_runs_end_to_end(finished, continued):
    config = continued("epsilon={schedule: adaptive, points: 5}")
    assert run(config) in (0, 4)
    known = {record.epsilon for record in run_of(finished).records}
    added = [record.epsilon for record in run_of(config).records if record.epsilon not in known]
    assert len(set(added)) == 5


def test_missing_weights_end_before_anything_is_written(small_config, tmp_path):
    config = small_config("model.checkpoint=nowhere.safetensors")
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors") as raised:
        run(config)
    assert raised.value.exit_code == 8
    assert not (tmp_path / "runs").exists()


def test_unwritable_storage_is_refused(small_config, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"run\.storage"):
        run(small_config(f"run.storage={tmp_path / 'file'}"))


def test_second_driver_is_refused_while_the_first_runs(small_config):
    config = small_config()
    store = RunStore.create(config.run.storage, config.name)
    with store.lock(), pytest.raises(RunLockedError):
        run(config)


def test_planner_waits_while_boundaries_are_live(finished, tmp_path):
    store = RunStore.create(str(tmp_path), "fresh")
    config = finished.model_copy(update={"baselines": ()})
    spec = TrialSpec(trial_id="", phase=Phase.ORIGINAL, method="original", seed=0)
    template = Assignment(run_path="", config_text="", targets_key="", code_version="", spec=spec)
    planner = Planner(config, store, "0" * 64, template)
    live = []
    while not isinstance(assignment := planner.next_trial(live), NoTrial):
        live.append(assignment.spec.trial_id)
    assert assignment is NoTrial.WAIT
    assert len(live) == 3  # both boundaries and the original; no epsilon before the range is known


def test_trial_that_raises_is_a_failed_row_with_its_reason(continued, tmp_path):
    """The weights vanish between the check and the trial, as they can on a cluster."""
    config = continued()
    store = RunStore.open(f"{config.run.storage}/quickstart")
    spec = TrialSpec(trial_id="abcdef0123456789", phase=Phase.ORIGINAL, method="original", seed=7)
    gone = config.model_copy(
        update={"model": config.model.model_copy(update={"checkpoint": str(tmp_path / "gone")})}
    )
    assignment = Assignment(
        run_path=store.path, config_text=dump_config(gone), targets_key="other", code_version="1", spec=spec
    )
    record = execute(assignment, lambda step, f1, f2: None).record
    assert record.state is TrialState.FAILED
    assert record.reason.startswith(f"{MACHINE_FAULT}WeightsError: model.checkpoint")
    assert store.records()[spec.trial_id] == record


def test_max_loss_raises_the_training_loss_on_forget_images(continued):
    config = continued("baselines=[max_loss]")
    assert run(config) == 0
    record = record_of(config, "max_loss 1")
    curves = run_of(config).curves
    losses = curves[curves.trial_id == record.trial_id].f1.to_numpy()
    assert losses[0] > 0
    assert losses[-10:].mean() > 10 * losses[:5].mean()


def test_range_is_readable_as_soon_as_phase_one_ends_and_while_a_run_goes_on(small_config, monkeypatch):
    """Readers of a live or killed run see: the first epsilon trial already finds the range in run.json."""
    from pareto_unlearn.sweep import executors

    seen = []

    def look(assignment, on_progress, on_scan, on_stage):
        if assignment.spec.phase is Phase.EPSILON:
            seen.append(open_run(assignment.run_path).info.ranges)
        return execute(assignment, on_progress, on_scan)

    monkeypatch.setattr(executors, "execute", look)
    config = small_config(*FEW_STEPS, "baselines=[]", "epsilon.points=1")
    assert run(config) in (0, 4)
    continued = small_config(*FEW_STEPS, "baselines=[]", "epsilon.points=2")  # known from its start
    assert run(continued) in (0, 4)
    assert len(seen) >= 2
    assert all(len(ranges) == 1 for ranges in seen)
