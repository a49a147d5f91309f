"""The model that never saw the forget images, as a row of a sweep."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from small_sweep import run_of, small_sweep

from pareto_unlearn.config import SweepConfig, as_smoke
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.pretraining import loop
from pareto_unlearn.pretraining.runs import train_sweep_model
from pareto_unlearn.records import Phase, TrialRecord, TrialSpec
from pareto_unlearn.report import write_report
from pareto_unlearn.store import StoredRun
from pareto_unlearn.sweep import SweepOptions, run_sweep
from pareto_unlearn.trial import Hooks, Trial, load_material, run_trial

STEPS = 30
SPEC = TrialSpec(trial_id="1" * 16, phase=Phase.CONTROL, method="retrained", seed=0)
CONTROLS = f"controls=[{{method: retrained, steps: {STEPS}}}]"


def config_in(folder: Path, *overrides: str) -> SweepConfig:
    return small_sweep(folder, CONTROLS, *overrides)


@pytest.fixture(scope="module")
def heard() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def finished(copy_small_sweep, tmp_path_factory, heard) -> StoredRun:
    config = copy_small_sweep(tmp_path_factory.mktemp("controls"), CONTROLS)
    assert run_sweep(config, SweepOptions(report=write_report), Console(file=heard, width=300)) == 0
    return run_of(config)


@pytest.fixture(scope="module")
def control(finished) -> TrialRecord:
    return next(record for record in finished.records if record.phase is Phase.CONTROL)


def test_the_control_is_a_row_like_the_others(finished, control):
    assert (control.label, control.method, control.start, control.steps) == (
        "retrained", "retrained", "scratch", STEPS,
    )  # fmt: skip
    assert control.gradient_pairs == 0
    assert None not in (control.f1, control.f2_heldout, control.completeness_worst_class, control.checkpoint)
    metrics = finished.metrics[finished.metrics["trial_id"] == control.trial_id]
    assert {"mse_hole", "embedding_cosine", "completeness"} <= set(metrics["metric"])


def test_the_control_is_the_model_that_train_makes_without_the_forget_set(finished, control, tmp_path):
    out = tmp_path / "model.safetensors"
    train_sweep_model(config_in(tmp_path), out, leave_out_forget=True, steps=STEPS)
    assert out.read_bytes() == finished.store.read_checkpoint(control)["model.safetensors"]


def test_a_control_belongs_to_no_front_and_no_hypervolume(finished, control):
    assert control.trial_id not in set(finished.front()["trial_id"])
    assert finished.hypervolume("retrained") == 0.0


def test_summary_and_report_say_where_the_front_is_as_if_never_seen(finished, heard):
    (found,) = finished.compare_with_retrained()
    assert found.error.low < found.error.value < found.error.high
    assert "As if never seen (seed 0). The retrained model's error" in heard.getvalue()
    page = Path(f"{finished.path}/report.html").read_text()
    assert "<h3>As if never seen</h3>" in page


def test_an_interrupted_control_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 10)
    config, states = config_in(tmp_path), {}
    keeping = Hooks(save_resume=lambda step, files: states.update({step: files}))
    whole = run_trial(Trial(config, SPEC, load_material(config, tmp_path, "a")), keeping, "1")
    assert sorted(states) == [10, 20]
    resumed = Hooks(load_resume=lambda: (20, dict(states[20])))
    again = run_trial(Trial(config, SPEC, load_material(config, tmp_path, "a")), resumed, "1")
    assert again.files == whole.files


def test_steps_of_a_control_count_for_itself_and_for_no_other_trial(tmp_path):
    from pareto_unlearn.config import trial_id

    def identify(config: SweepConfig, phase: Phase) -> str:
        return trial_id(
            config,
            weights_sha256="0",
            phase=phase,
            method="retrained",
            role=None,
            epsilon=None,
            weight=None,
            seed=0,
        )

    short, long = (config_in(tmp_path, f"controls=[{{method: retrained, steps: {n}}}]") for n in (5, 6))
    assert identify(short, Phase.CONTROL) != identify(long, Phase.CONTROL)
    assert identify(short, Phase.BASELINE) == identify(long, Phase.BASELINE)


def test_a_control_has_the_original_s_budget_unless_told(tmp_path):
    config = config_in(tmp_path, "controls=[retrained]")
    assert config.training_steps_of("retrained") == 3000
    assert as_smoke(config).controls[0].steps < 100


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model={family: mae, checkpoint: a.pth}", "evaluate={}"],
            "1600 epochs of ImageNet",
        ),
        (["evaluate.metrics=[psnr]"], "expected mse among the metrics"),
        (["controls=[retrained, retrained]"], "controls"),
    ],
)
def test_controls_that_cannot_be_are_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config_in(tmp_path, *overrides)
