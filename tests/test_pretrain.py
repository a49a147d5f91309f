"""The recipes of the shipped weights: the same seed gives the same file."""

import hashlib
from importlib.resources import files

import pytest
import torch

from pareto_unlearn.pretrain import TRAINERS


@pytest.fixture(params=sorted(TRAINERS))
def name(request) -> str:
    return request.param


def test_training_twice_gives_the_same_bytes(name):
    assert TRAINERS[name](steps=20) == TRAINERS[name](steps=20)


def test_another_seed_gives_other_initial_weights(name):
    assert TRAINERS[name](steps=0, seed=1) != TRAINERS[name](steps=0, seed=0)


def test_training_does_not_depend_on_the_state_of_the_process(name):
    expected = TRAINERS[name](steps=2)
    torch.rand(7)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert TRAINERS[name](steps=2) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_training_reports_the_first_and_the_last_step(name):
    reports: list[tuple[int, float]] = []
    TRAINERS[name](steps=5, report=lambda step, loss: reports.append((step, loss)))
    assert [step for step, _ in reports] == [0, 4]
    assert reports[1][1] < reports[0][1]


def test_every_recipe_has_its_weights_in_the_package():
    shipped = {
        path.name for path in files("pareto_unlearn.assets").iterdir() if path.name.endswith("safetensors")
    }
    assert shipped == {f"{name}.safetensors" for name in TRAINERS}


@pytest.mark.slow
def test_the_full_recipe_makes_the_shipped_file(name):
    # A minute on one core. Bits may differ on another kind of CPU or with another torch.
    shipped = (files("pareto_unlearn.assets") / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(TRAINERS[name]()).hexdigest() == hashlib.sha256(shipped).hexdigest()
