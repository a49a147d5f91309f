"""Sweeps tried out with --smoke: the big families' shipped files, from first check to exported model."""

import json
import math
from pathlib import Path

import pytest
import torch
from command_line import call

from pareto_unlearn.config import SweepConfig, as_smoke, dump_config, load_config, parse_config
from pareto_unlearn.config.smoke import SMOKE, SMOKE_NOTICE
from pareto_unlearn.errors import ConfigError, WeightsError
from pareto_unlearn.models import load_model
from pareto_unlearn.records import Phase, Role
from pareto_unlearn.store import StoredRun, open_run

SWEEPS = Path(__file__).parent.parent / "sweeps"
FILES = {"mae": "imagenet_mae.yaml", "mage": "imagenet_vqgan.yaml", "palette": "places_diffusion.yaml"}
LOCAL = (
    "run.executor=local",
    "epsilon.points=1",
    "baselines=[{method: composite, weights: [0.25]}]",
    "solver.precision=float32",  # bfloat16 has tests of its own and is slow on a CPU
    "objective.original_precision=float32",
)


def smoke(name: str, *overrides: str) -> SweepConfig:
    return as_smoke(load_config(SWEEPS / name, overrides))


SLOW = {"mage": pytest.mark.slow, "palette": pytest.mark.nightly}
"""A quarter to three quarters of a minute, without the audit: ``check-family`` tries that on every family."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=SLOW.get(name, ())) for name in FILES],
)
def tried(request, tmp_path_factory) -> tuple[StoredRun, str]:
    """A sweep of every family, and what it said."""
    storage = tmp_path_factory.mktemp(request.param)
    unaudited = ("evaluate.audit=off",) if request.param in SLOW else ()
    overrides = [part for key in (*LOCAL, *unaudited, f"run.storage={storage}") for part in ("-o", key)]
    done = call("sweep", SWEEPS / FILES[request.param], "--smoke", *overrides)
    assert done.returncode == 0, done.stderr
    (path,) = storage.iterdir()
    return open_run(str(path)), done.stderr


def test_smoke_sweep_solves_every_kind_of_trial(tried):
    run, _ = tried
    kinds = [(record.phase, record.role) for record in run.records]
    assert sorted(map(str, kinds)) == sorted(
        map(
            str,
            [
                (Phase.ORIGINAL, None),
                (Phase.BOUNDARY, Role.HIGHEST),
                (Phase.BOUNDARY, Role.LOWEST),
                (Phase.EPSILON, None),
                (Phase.BASELINE, None),
            ],
        )
    )
    assert all(math.isfinite(record.f1) and math.isfinite(record.f2) for record in run.records)
    trained = [record for record in run.records if record.steps]
    assert all(record.f2 > 0 for record in trained)
    highest = next(record for record in run.records if record.role is Role.HIGHEST)
    assert highest.completeness > 0.05


def test_original_of_a_smoke_sweep_is_exact(tried):
    original = next(record for record in tried[0].records if record.phase is Phase.ORIGINAL)
    assert original.f2 == 0.0
    assert original.e == pytest.approx(1.0, abs=1e-6)


def test_every_output_says_that_it_is_a_smoke_run(tried):
    run, talk = tried
    assert run.info.smoke
    assert run.info.name.endswith("-smoke")
    assert talk.count(SMOKE_NOTICE) == 2
    assert f"{SMOKE} trial" in talk
    page = Path(run.path, "report.html").read_text()
    assert f"<title>{SMOKE} · " in page
    assert f'<p class="smoke" role="alert">{SMOKE_NOTICE}</p>' in page
    assert "smoke: true" in Path(run.path, "sweep.yaml").read_text()
    assert f"{SMOKE} trial" in call("ls", run.path).stdout


def test_report_of_a_smoke_run_says_what_was_compared(tried):
    run, _ = tried
    words = {"mae": "class token and 132 visible patches", "mage": "256 codes", "palette": "input stages"}
    family = parse_config(Path(run.path, "sweep.yaml").read_text(), "sweep.yaml").model.family
    assert words[family] in run.info.objective


def test_model_of_a_smoke_run_is_exported_under_a_name_that_says_so(tried, tmp_path):
    run, _ = tried
    trial = next(record for record in run.records if record.role is Role.HIGHEST).trial_id
    refused = call("export", run.path, tmp_path / "model.pth", "--trial", trial)
    assert refused.returncode == 3
    assert f"{SMOKE}-model.pth" in refused.stderr
    out = tmp_path / f"{SMOKE}-model.pth"
    done = call("export", run.path, out, "--trial", trial)
    assert done.returncode == 0, done.stderr
    written = [f"{SMOKE}-model.card.md", f"{SMOKE}-model.evidence.json", out.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    assert SMOKE in (tmp_path / written[0]).read_text().split("---")[2]
    config = parse_config(Path(run.path, "sweep.yaml").read_text(), "sweep.yaml")
    section = config.model.model_copy(update={"checkpoint": str(out)})
    exported = load_model(section, config.task, sampling=config.evaluate.sampling).state_dict()
    original = load_model(config.model, config.task, sampling=config.evaluate.sampling).state_dict()
    assert list(exported) == list(original)
    changed = [name for name in exported if not torch.equal(exported[name], original[name])]
    assert changed
    assert not any(name.startswith(("decoder", "mlm", "vqgan", "denoise_fn.output")) for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize("tried", ["mage"], indirect=True)
def test_any_epsilon_can_be_dialled(tried):
    run, _ = tried
    done = call("export", run.path, Path(run.path, "smoke.pth"), "--epsilon", "0.5")
    assert done.returncode == 0, done.stderr
    assert "interpolated" in done.stderr


# What a smoke sweep is made of


@pytest.mark.parametrize("name", FILES.values())
def test_task_and_objective_of_the_file_stay(name):
    whole, small = load_config(SWEEPS / name), smoke(name)
    assert (small.task, small.baselines[0].method) == (whole.task, whole.baselines[0].method)
    for key in (
        "space",
        "distance",
        "noise_target",
        "retain_target",
        "original_precision",
        "shared_parameters",
    ):
        assert getattr(small.objective, key) == getattr(whole.objective, key)
    for key in ("update", "control", "completeness", "start", "precision", "betas"):
        assert getattr(small.solver, key) == getattr(whole.solver, key)


@pytest.mark.parametrize("name", FILES.values())
def test_smoke_sweep_is_small_and_survives_its_own_file(name):
    small = smoke(name)
    assert small.smoke
    assert (small.model.variant, small.model.checkpoint, small.data.dataset) == (
        "tiny",
        "random",
        "generated",
    )
    assert small.solver.steps <= 30
    assert small.run.gpus_per_trial == 0
    assert parse_config(dump_config(small), "sweep.yaml") == small


def test_digits_keep_their_weights_and_images():
    small = smoke("quickstart.yaml")
    assert (small.model.checkpoint, small.data.dataset) == ("builtin", "digits")
    assert small.name == "quickstart-smoke"


@pytest.mark.parametrize(
    ("epsilon", "points"),
    [
        ("epsilon={schedule: adaptive, points: 9}", 3),
        ("epsilon={schedule: list, values: [0.1, 0.2, 0.3, 0.4]}", 2),
        ("epsilon={schedule: list, absolute: true, values: [1.3, 1.4, 1.5]}", 2),
    ],
)
def test_every_schedule_is_shortened(epsilon, points):
    assert sum(smoke("imagenet_mae.yaml", epsilon).epsilon.rounds) == points


def test_long_names_stay_valid():
    assert len(smoke("imagenet_mae.yaml", f"name={'a' * 64}").name) == 64


# What the shipped files say without --smoke


@pytest.mark.parametrize("name", FILES.values())
def test_missing_weights_end_with_exit_code_8_and_where_they_are_published(name):
    done = call("sweep", SWEEPS / name)
    assert done.returncode == WeightsError.exit_code == 8
    assert any(
        word in done.stderr for word in ("mae_visualize_vit_base.pth", "mage-vitb-1600.pth", "16_Network.pth")
    )
    assert "--smoke" in done.stderr


def test_missing_images_end_with_exit_code_3_and_the_layout(tmp_path):
    done = call(
        "validate", SWEEPS / "imagenet_mae.yaml", "-o", f"data.root={tmp_path}",
        "-o", "model.family=digits_mae", "-o", "model.variant=null", "-o", "model.checkpoint=builtin",
        "-o", "task={kind: center}",
    )  # fmt: skip
    assert done.returncode == ConfigError.exit_code == 3
    assert "train" in done.stderr


def test_run_does_not_continue_on_other_images(tmp_path):
    arguments = ["sweep", SWEEPS / "quickstart.yaml", "--smoke", "-o", f"run.storage={tmp_path}", "-o"]
    started = call(*arguments, "run.executor=local", "-o", "epsilon.points=1", "-o", "baselines=[]")
    assert started.returncode == 0, started.stderr
    manifest = tmp_path / "quickstart-smoke" / "manifest.csv"
    info = json.loads((tmp_path / "quickstart-smoke" / "run.json").read_text())
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]) + lines[-1].replace(lines[-1][-10:-1], "000000000"))
    again = call(*arguments, "run.executor=local", "-o", "epsilon.points=1", "-o", "baselines=[]")
    assert again.returncode == 3
    assert "other images" in again.stderr
    assert json.loads((tmp_path / "quickstart-smoke" / "run.json").read_text()) == info
