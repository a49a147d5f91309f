"""The kinds of target behind one Protocol, and the one home of e."""

import pytest
import torch
from torch import Tensor

from pareto_unlearn.data import seeded_generator
from pareto_unlearn.objectives import NoiseTarget, Objectives
from pareto_unlearn.records import Scales, Unit
from pareto_unlearn.trial.targets import (
    ComputedAnswers,
    ImageBatch,
    ModelTarget,
    PairedNoise,
    SharedNoise,
    StoredAnswers,
)

MSE, DRAWS = Objectives("mse", "mean"), Objectives("mse", "draws")
ROWS = torch.tensor([3, 0])
DRAWN = torch.tensor([1, 0])
SCALES = Scales(
    f1_floor=0.1, f1_original=0.7, variance_retain=0.3,
    f1_floor_heldout=0.2, f1_original_heldout=0.8, variance_retain_heldout=0.4,
)  # fmt: skip


class Doubling:
    """A model whose output is twice its input, and whose noise inputs are drawn from the generators alone."""

    def noise_like(self, inputs: Tensor, generators: list[torch.Generator], pixels: Tensor | None) -> Tensor:
        return torch.stack([torch.rand(inputs.shape[1:], generator=one) for one in generators])


def double(inputs: Tensor) -> Tensor:
    return 2.0 * inputs


def batch(split: str = "train") -> ImageBatch:
    inputs = torch.rand(2, 5, generator=seeded_generator(1))
    return ImageBatch(inputs, ROWS, split, lambda: [seeded_generator(9, row) for row in ROWS.tolist()])


def bank() -> NoiseTarget:
    rows = torch.rand(4, 5, generator=seeded_generator(2))
    return NoiseTarget(rows, rows.mean(dim=0), float(rows.var(dim=0, correction=0).mean()))


def mean_squares(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean(dim=1)


FEATURES = torch.rand(2, 5, generator=seeded_generator(3))
COMPUTED = ComputedAnswers(Doubling(), double)
STORED = StoredAnswers({"train": torch.arange(20.0).view(4, 5), "heldout": torch.zeros(4, 5)})


def test_shared_noise_compares_with_the_whole_bank_or_with_drawn_rows():
    noise = bank()
    expected = torch.stack([mean_squares(FEATURES, row) for row in noise.rows]).mean(dim=0)
    for objectives in (MSE, DRAWS):
        torch.testing.assert_close(SharedNoise(objectives, noise).per_image(FEATURES, batch()), expected)
    drawn = SharedNoise(DRAWS, noise).step_loss(FEATURES, batch(), DRAWN)
    torch.testing.assert_close(drawn, mean_squares(FEATURES, noise.rows[DRAWN]).mean())
    assert SharedNoise(MSE, noise).bank_size == 4


def test_paired_noise_compares_with_the_output_on_noise_of_the_image_s_own_generator():
    target = PairedNoise(MSE, COMPUTED, None)
    noise = torch.stack([torch.rand(5, generator=one) for one in batch().draw_generators()])
    expected = mean_squares(FEATURES, 2.0 * noise)
    torch.testing.assert_close(target.per_image(FEATURES, batch()), expected)
    torch.testing.assert_close(target.step_loss(FEATURES, batch(), DRAWN), expected.mean())
    assert target.bank_size == 1


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_stored_answers_are_those_of_the_rows_in_their_split(split):
    found = ModelTarget(MSE, STORED).per_image(FEATURES, batch(split))
    torch.testing.assert_close(found, mean_squares(FEATURES, STORED.rows[split][ROWS]))


def test_computed_answers_are_those_of_the_batch_s_own_inputs_without_gradient():
    weight = torch.ones((), requires_grad=True)
    target = ModelTarget(MSE, ComputedAnswers(Doubling(), lambda inputs: 2.0 * weight * inputs))
    found = target.per_image(FEATURES, batch())
    torch.testing.assert_close(found, mean_squares(FEATURES, 2.0 * batch().inputs))
    assert not found.requires_grad


def test_only_models_that_run_are_run_otherwise():
    def negate(features):
        return lambda inputs: -features(inputs)

    for target in (SharedNoise(MSE, bank()), ModelTarget(MSE, STORED)):
        again = target.run_by(negate)
        assert torch.equal(again.per_image(FEATURES, batch()), target.per_image(FEATURES, batch()))
    for target in (PairedNoise(MSE, COMPUTED, None), ModelTarget(MSE, COMPUTED)):
        again = target.run_by(negate)
        expected = target.per_image(-FEATURES, batch())
        assert torch.equal(again.per_image(FEATURES, batch()), expected)


# e


def test_e_and_raw_f1_are_each_other_s_inverse():
    assert (SCALES.normalised_f1(0.1), SCALES.normalised_f1(0.7)) == (0.0, 1.0)
    assert SCALES.f1_at(SCALES.normalised_f1(0.25)) == pytest.approx(0.25, rel=1e-12)
    assert SCALES.f1_unit == Unit(0.1, SCALES.f1_range)
    assert (SCALES.floor("train"), SCALES.floor("heldout")) == (0.1, 0.2)


def test_a_unit_takes_tensors_and_floats_alike():
    values = torch.tensor([0.1, 0.25, 0.7], dtype=torch.float64)
    assert SCALES.f1_unit.of(values).tolist() == [SCALES.normalised_f1(value) for value in values.tolist()]
