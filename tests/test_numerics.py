"""In which arithmetic trials run: exact float32, or bfloat16 near it where the sweep asks."""

import pytest
import torch
from tiny_families import PUBLISHED, load_on_generated, moved
from torch import Tensor
from trial_rows import epsilon_spec

from pareto_unlearn.solver import Outcome
from pareto_unlearn.trial import Hooks, Trial, exact_float32, run_trial, running
from pareto_unlearn.trial.building import build_problem

Flags = tuple[bool, bool]


def flags() -> Flags:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[(True, True), (False, True)], ids=["all on", "as torch has it"])
def outside(request) -> Flags:
    before = flags()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_float32_is_exact_inside_and_nothing_is_left_behind(outside):
    def fail() -> None:
        assert flags() == (False, False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), exact_float32():
        fail()
    assert flags() == outside


def test_a_trial_loads_steps_and_measures_in_exact_float32(outside, tmp_path, monkeypatch):
    seen: dict[str, Flags] = {}

    def watched(name, function):
        def run(*args, **options):
            seen[name] = flags()
            return function(*args, **options)

        return run

    for name in ("build_problem", "solve", "measure_trial"):
        monkeypatch.setattr(running, name, watched(name, getattr(running, name)))
    import pareto_unlearn.trial.loading as home

    monkeypatch.setattr(home, "open_targets", watched("targets", home.open_targets))
    config, material = load_on_generated("mae", tmp_path, "objective.space=encoder")
    result = run_trial(Trial(config, epsilon_spec(material.scales, 0.5), material), Hooks(), "1")
    assert result.record.reason != str(Outcome.DIVERGED)
    assert seen == dict.fromkeys(("build_problem", "solve", "measure_trial", "targets"), (False, False))
    assert flags() == outside


def losses_and_gradients(family: str, cache, *overrides: str) -> list[tuple[float, Tensor]]:
    """Return f1 and f2 of one batch of a model that was moved off the original, each with its gradient."""
    fixed = ("objective.space=encoder", "solver.completeness=mean", "solver.batch=4")
    config, material = load_on_generated(family, cache, *fixed, *overrides)
    moved(material)
    problem = build_problem(Trial(config, epsilon_spec(material.scales, 0.5), material))
    parameters = material.trainable()
    found = []
    for loss in (problem.constraint(0), problem.objective(0)):
        gradients = torch.autograd.grad(loss, parameters)
        found.append((float(loss.detach()), torch.cat([gradient.flatten() for gradient in gradients])))
    return found


@pytest.mark.parametrize("family", PUBLISHED)
def test_losses_and_gradients_of_a_bfloat16_step_are_near_those_of_float32(family, tmp_path):
    narrow = ("solver.precision=bfloat16", "objective.original_precision=bfloat16")
    wide_ones = losses_and_gradients(family, tmp_path / "wide")
    narrow_ones = losses_and_gradients(family, tmp_path / "narrow", *narrow)
    for (wide, exact), (rounded, gradient) in zip(wide_ones, narrow_ones, strict=True):
        assert rounded != wide
        assert rounded == pytest.approx(wide, rel=0.03)
        assert torch.nn.functional.cosine_similarity(exact, gradient, dim=0) > 0.99
