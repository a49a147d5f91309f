"""Image metrics: formulas against trusted packages and closed forms, and the rows they are stored in."""

import math

import pytest
import torch

from pareto_unlearn.data import load_digits, mark_heldout, seeded_generator
from pareto_unlearn.metrics import (
    DigitClassifier,
    PictureScores,
    compute_frechet,
    compute_inception_score,
    compute_psnr,
    load_classifier,
)
from pareto_unlearn.records import MetricRow

ALL = ("mse", "psnr", "frechet", "inception", "cosine")


def gaussian(*shape: int, key: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded_generator(key), dtype=torch.float64)


def whitened(rows: torch.Tensor) -> torch.Tensor:
    """Rows with mean 0 and covariance I, to rounding."""
    centred = rows - rows.mean(dim=0)
    root = torch.linalg.cholesky(torch.cov(centred.T))
    return torch.linalg.solve_triangular(root, centred.T, upper=False).T


# The Fréchet distance


class Unchanged(torch.nn.Module):
    """A feature extractor whose images are features already."""

    num_features = 32

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("count", [500, 40])
def test_frechet_distance_agrees_with_torchmetrics(count):
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, fake = gaussian(count, 32), 1.5 * gaussian(count, 32, key=1).abs() + 0.2
    reference = FrechetInceptionDistance(feature=Unchanged().eval(), normalize=False).set_dtype(torch.float64)
    reference.update(real[:, None, None], real=True)
    reference.update(fake[:, None, None], real=False)
    assert compute_frechet(real, fake) == pytest.approx(float(reference.compute()), rel=1e-6)


def test_identical_sets_have_frechet_distance_zero():
    rows = gaussian(200, 32)
    assert compute_frechet(rows, rows) == pytest.approx(0.0, abs=1e-10)


def test_the_frechet_distance_is_never_negative():
    for key in range(20):
        rows = 100.0 * gaussian(10, 32, key=key)  # rank-deficient: rounding would make it negative
        assert compute_frechet(rows, rows.flip(0)) >= 0.0


def test_a_shift_adds_its_squared_length_to_the_frechet_distance():
    rows, shift = gaussian(100, 8), torch.arange(8, dtype=torch.float64)
    assert compute_frechet(rows, rows + shift) == pytest.approx(float(shift.square().sum()), rel=1e-10)


def test_the_frechet_distance_of_diagonal_gaussians_has_its_closed_form():
    first = whitened(gaussian(300, 4))
    second = whitened(gaussian(200, 4, key=1))
    spread1, spread2 = torch.tensor([1.0, 2.0, 0.5, 3.0]), torch.tensor([2.0, 2.0, 4.0, 0.1])
    shift = torch.tensor([0.0, 1.0, -2.0, 0.5])
    expected = float(shift.square().sum() + (spread1 - spread2).square().sum())
    ours = compute_frechet(first * spread1.double(), second * spread2.double() + shift.double())
    assert ours == pytest.approx(expected, rel=1e-6)  # spread2 holds 0.1 as a float32


def test_the_frechet_distance_is_symmetric():
    real, fake = gaussian(90, 16), gaussian(60, 16, key=1) * 2 + 1
    assert compute_frechet(real, fake) == pytest.approx(compute_frechet(fake, real), rel=1e-10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_features_that_are_not_finite_are_refused(value, side):
    sets = [gaussian(10, 4), gaussian(10, 4, key=1)]
    sets[side][3, 2] = value
    with pytest.raises(ValueError, match="finite feature rows"):
        compute_frechet(*sets)


def test_one_row_has_no_frechet_distance():
    with pytest.raises(ValueError, match="at least two"):
        compute_frechet(gaussian(1, 4), gaussian(10, 4))


# The inception score


def test_uniform_predictions_have_inception_score_1():
    assert compute_inception_score(torch.zeros(50, 10)) == pytest.approx(1.0, abs=1e-12)


def test_balanced_certain_predictions_have_as_inception_score_the_number_of_classes():
    logits = 1000.0 * torch.eye(10).repeat(7, 1)
    assert compute_inception_score(logits) == pytest.approx(10.0, rel=1e-12)


def test_certain_predictions_of_one_class_have_inception_score_1():
    assert compute_inception_score(1000.0 * torch.eye(10)[:1].repeat(7, 1)) == pytest.approx(1.0, abs=1e-12)


def test_inception_score_agrees_with_the_textbook_formula():
    logits = 3.0 * gaussian(64, 10)
    conditional = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    marginal = conditional.mean(dim=0)
    divergence = (conditional * (conditional / marginal).log()).sum(dim=1)
    assert compute_inception_score(logits) == pytest.approx(float(divergence.mean().exp()), rel=1e-12)


def test_inception_score_does_not_depend_on_the_order_of_images():
    logits = 3.0 * gaussian(64, 10)
    assert compute_inception_score(logits.flip(0)) == pytest.approx(
        compute_inception_score(logits), rel=1e-12
    )


# The peak signal-to-noise ratio


@pytest.mark.parametrize(("error", "decibels"), [(1.0, 0.0), (0.1, 10.0), (0.01, 20.0), (0.0025, 26.0206)])
def test_psnr_is_pinned(error, decibels):
    assert compute_psnr(error) == pytest.approx(decibels, abs=1e-4)


def test_psnr_of_identical_images_is_infinite():
    assert compute_psnr(0.0) == math.inf


# The classifier


@pytest.fixture(scope="module")
def classifier() -> DigitClassifier:
    return load_classifier()


@pytest.fixture(scope="module")
def heldout() -> tuple[torch.Tensor, torch.Tensor]:
    """Held-out digits and their labels."""
    whole = load_digits()
    chosen = mark_heldout(whole)
    return whole.images[chosen], whole.class_ids[chosen]


def test_the_classifier_knows_heldout_digits(classifier, heldout):
    images, labels = heldout
    with torch.no_grad():
        accuracy = float((classifier(images).argmax(dim=1) == labels).float().mean())
    assert accuracy > 0.95


def test_the_classifier_is_in_evaluation_mode_and_the_same_on_every_load(classifier):
    again = load_classifier().state_dict()
    assert not classifier.training
    assert all(torch.equal(tensor, again[name]) for name, tensor in classifier.state_dict().items())


# Rows


def compute_metrics(names, images, truth, hole, network, *, batch=100, **where) -> list[MetricRow]:
    scores = PictureScores(names, hole, network)
    for one, other in zip(images.split(batch), truth.split(batch), strict=True):
        scores.add(one, other)
    return scores.rows(**where)


@pytest.fixture(scope="module")
def hole() -> torch.Tensor:
    removed = torch.zeros(16, 16, dtype=torch.bool)
    removed[4:12, 4:12] = True
    return removed


@pytest.fixture(scope="module")
def rows(classifier, heldout, hole) -> dict[str, MetricRow]:
    truth = heldout[0]
    noise = 0.1 * torch.rand(truth.shape, generator=seeded_generator(3))
    found = compute_metrics(ALL, truth + noise, truth, hole, classifier, image_set="retain", split="heldout")
    assert len(found) == len(ALL)
    return {row.metric: row for row in found}


def test_rows_carry_set_split_and_the_number_of_images(rows, heldout):
    assert {(row.set, row.split, row.n) for row in rows.values()} == {("retain", "heldout", len(heldout[0]))}


def test_errors_in_the_hole_are_of_protocol_pixel_and_all_else_of_builtin(rows):
    assert {name: row.protocol for name, row in rows.items()} == {
        "mse_hole": "pixel",
        "psnr_hole": "pixel",
        "frechet_distance": "builtin",
        "inception_score": "builtin",
        "embedding_cosine": "builtin",
    }


def test_builtin_values_never_carry_the_names_of_the_published_metrics(rows):
    assert not {"fid", "is", "clip", "kid"} & {part for name in rows for part in name.split("_")}


def test_means_over_images_have_an_interval_around_them(rows):
    for name in ("mse_hole", "embedding_cosine"):
        assert rows[name].low < rows[name].value < rows[name].high


def test_numbers_of_a_whole_set_have_no_interval(rows):
    for name in ("psnr_hole", "frechet_distance", "inception_score"):
        assert (rows[name].low, rows[name].high) == (None, None)


def test_psnr_is_that_of_the_mean_error(rows):
    assert rows["psnr_hole"].value == compute_psnr(rows["mse_hole"].value)


def test_the_interval_is_1_96_standard_errors_to_each_side(classifier, hole):
    truth = torch.zeros(4, 1, 16, 16)
    images = truth + torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None, None, None]
    (row,) = compute_metrics(("mse",), images, truth, hole, classifier, image_set="forget", split="train")
    errors = torch.tensor([0.01, 0.04, 0.09, 0.16], dtype=torch.float64)
    half = 1.96 * float(errors.std()) / 2.0
    assert (row.low, row.value, row.high) == pytest.approx((0.075 - half, 0.075, 0.075 + half), rel=1e-6)


@pytest.mark.parametrize("with_network", [False, True])
def test_pixel_metrics_of_colour_pictures_need_no_feature_network(hole, classifier, with_network):
    network, truth = (
        classifier if with_network else None,
        torch.rand(5, 3, 16, 16, generator=seeded_generator(4)),
    )
    found = compute_metrics(
        ("mse", "psnr"), truth + 0.1, truth, hole, network, image_set="forget", split="heldout"
    )
    assert [row.metric for row in found] == ["mse_hole", "psnr_hole"]
    assert [row.value for row in found] == pytest.approx([0.01, 20.0], rel=1e-5)


def test_one_image_has_a_value_without_an_interval(classifier, hole):
    image = torch.zeros(1, 1, 16, 16)
    (row,) = compute_metrics(
        ("mse",), image + 0.5, image, hole, classifier, image_set="forget", split="train"
    )
    assert (row.value, row.low, row.high) == (0.25, None, None)


def test_errors_in_the_hole_ignore_visible_pixels(classifier, heldout, hole):
    truth = heldout[0][:20]
    changed = torch.where(hole, truth, 1.0 - truth)
    found = compute_metrics(
        ("mse", "psnr"), changed, truth, hole, classifier, image_set="forget", split="train"
    )
    assert [row.value for row in found] == [0.0, math.inf]


def test_true_images_have_frechet_distance_0_and_cosine_1(classifier, heldout, hole):
    truth, names = heldout[0], ("frechet", "cosine")
    found = compute_metrics(names, truth, truth, hole, classifier, image_set="forget", split="train")
    assert [row.value for row in found] == pytest.approx([0.0, 1.0], abs=1e-6)


def test_metrics_come_in_the_order_they_are_asked_for(classifier, heldout, hole):
    truth, names = heldout[0][:20], ("cosine", "mse")
    found = compute_metrics(names, truth, truth, hole, classifier, image_set="forget", split="train")
    assert [row.metric for row in found] == ["embedding_cosine", "mse_hole"]


def test_metrics_leave_the_process_wide_random_state_alone(classifier, heldout, hole):
    truth = heldout[0][:20]
    before = torch.random.get_rng_state()
    compute_metrics(ALL, truth, truth, hole, classifier, image_set="forget", split="train")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_images_that_are_not_finite_are_refused(classifier, hole, value):
    images = torch.zeros(3, 1, 16, 16)
    images[1, 0, 0, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        compute_metrics(("mse",), images, images, hole, classifier, image_set="forget", split="train")


def test_batches_make_no_difference(classifier, heldout, hole):
    truth = heldout[0][:60]
    noisy = truth + 0.1 * torch.rand(truth.shape, generator=seeded_generator(3))
    found = [
        compute_metrics(ALL, noisy, truth, hole, classifier, batch=batch, image_set="forget", split="train")
        for batch in (60, 7)
    ]
    assert [row.n for row in found[1]] == [60] * len(ALL)
    assert [row.value for row in found[1]] == pytest.approx([row.value for row in found[0]], rel=1e-4)


def test_no_pictures_are_no_metrics(classifier, hole):
    with pytest.raises(ValueError, match="found none"):
        PictureScores(("mse",), hole, classifier).rows(image_set="forget", split="train")
