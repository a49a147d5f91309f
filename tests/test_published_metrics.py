"""FID, KID, IS, CLIP cosine: arithmetic against independent code, networks by file, features kept once."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from scipy.stats import entropy
from tiny_networks import trust, write_tiny_clip, write_tiny_inception
from torch import nn

from pareto_unlearn.data import seeded_generator
from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics import (
    WEIGHTS_FILES,
    FeatureFiles,
    ImageFeatures,
    Pictures,
    Scoring,
    blocked_parts,
    choose_measures,
    compute_frechet,
    compute_kernel_distance,
    compute_split_inception_score,
    find_weights,
    inspect_weights,
    needed_files,
    paired_cosines,
    quantise,
    score_pictures,
    shuffled_parts,
    weights_folder,
)
from pareto_unlearn.metrics.extractors import EXTRACTORS, resize_clean, resize_like_tensorflow
from pareto_unlearn.metrics.weights import (
    CLIP_VIT_H_14,
    INCEPTION_2015,
    INCEPTION_TORCHVISION,
    RESNET_PLACES365,
)
from pareto_unlearn.records import WEIGHTS_VARIABLE

CPU = torch.device("cpu")
ALL = ("fid", "kid", "is", "clip")
MODERN = ("fd_dinov2", "kd_dinov2", "dino", "clip", "lpips")
PROTOCOLS = ("standard", "li2024-code", "paper-text", "modern")


def correlated(count: int, key: int, shift: float = 0.0) -> torch.Tensor:
    generator = seeded_generator(key)
    mixing = torch.randn(24, 24, generator=seeded_generator(99))
    return (torch.randn(count, 24, generator=generator) @ mixing).abs() + shift


def pixels(count: int, key: int, *size: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *(size or (20, 24))), generator=seeded_generator(key)).to(
        torch.uint8
    )


# Arithmetic


@pytest.mark.parametrize("count", [400, 12])
def test_frechet_distance_is_that_of_the_matrix_root(count):
    real, fake = correlated(count, 1).double().numpy(), correlated(count, 2, 0.3).double().numpy()
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = np.real(sqrtm(first @ second))
    gap = real.mean(axis=0) - fake.mean(axis=0)
    expected = gap @ gap + np.trace(first + second - 2.0 * root)
    # Below full rank the matrix root itself is good to three digits only.
    assert compute_frechet(torch.from_numpy(real), torch.from_numpy(fake)) == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception:UserWarning")
def test_kernel_distance_agrees_with_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = correlated(50, 1), correlated(50, 2, 0.3)
    reference = KernelInceptionDistance(nn.Flatten().eval(), subsets=1, subset_size=50, normalize=False)
    reference.set_dtype(torch.float64)
    reference.update(real.double()[:, None, None], real=True)
    reference.update(fake.double()[:, None, None], real=False)
    assert compute_kernel_distance(real, fake) == pytest.approx(float(reference.compute()[0]), rel=1e-9)


def test_kernel_distance_of_large_sets_is_summed_in_blocks():
    real, fake = (
        torch.randn(2100, 3, generator=seeded_generator(1)),
        torch.randn(2100, 3, generator=seeded_generator(2)),
    )

    def kernel(x, y):
        return (x.double() @ y.double().T / 3 + 1) ** 3

    def within(x):
        return (kernel(x, x).sum() - kernel(x, x).trace()) / (2100 * 2099)

    expected = within(real) + within(fake) - 2 * kernel(real, fake).mean()
    assert compute_kernel_distance(real, fake) == pytest.approx(float(expected), rel=1e-9)


def test_kernel_distance_between_draws_of_one_distribution_has_mean_0():
    found = [
        compute_kernel_distance(correlated(60, 2 * key), correlated(60, 2 * key + 1)) for key in range(60)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))


def reference_score(probabilities: np.ndarray, splits: int) -> float:
    """As the released code writes it: splits without the remainder, scipy's entropy."""
    length, scores = len(probabilities) // splits, []
    for split in range(splits):
        part = probabilities[split * length : (split + 1) * length]
        scores.append(np.exp(np.mean([entropy(row, part.mean(axis=0)) for row in part])))
    return float(np.mean(scores))


@pytest.mark.parametrize("count", [100, 57])
def test_blocked_score_is_that_of_the_released_code(count):
    logits = 3.0 * torch.randn(count, 8, generator=seeded_generator(5))
    expected = reference_score(logits.double().softmax(dim=1).numpy(), 10)
    assert compute_split_inception_score(blocked_parts(logits)) == pytest.approx(expected, rel=1e-9)


def test_shuffled_score_is_that_of_torch_fidelity():
    logits = 3.0 * torch.randn(100, 8, generator=seeded_generator(5))
    order = np.random.RandomState(2020).permutation(100)
    expected = reference_score(logits.double().softmax(dim=1).numpy()[order], 10)
    assert compute_split_inception_score(shuffled_parts(logits)) == pytest.approx(expected, rel=1e-9)


def test_shuffled_parts_hold_every_row_once():
    rows = torch.arange(57.0)[:, None]
    parts = shuffled_parts(rows)
    assert len(parts) == 10
    assert torch.cat(parts).flatten().sort().values.tolist() == rows.flatten().tolist()


def test_classes_in_order_score_less_in_blocks_than_shuffled():
    logits = 8.0 * torch.eye(10).repeat_interleave(10, dim=0)
    assert compute_split_inception_score(blocked_parts(logits)) == pytest.approx(1.0)
    assert compute_split_inception_score(shuffled_parts(logits)) > 4.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused_before_any_arithmetic(value):
    good, bad = correlated(20, 1), correlated(20, 2)
    bad[3, 4] = value
    for compute in (compute_frechet, compute_kernel_distance, paired_cosines):
        with pytest.raises(ValueError, match="finite"):
            compute(good, bad)
    with pytest.raises(ValueError, match="finite"):
        compute_split_inception_score(shuffled_parts(bad))


# Resizing


def test_clean_resize_is_bicubic_in_float_and_cut_off():
    image = pixels(1, 7)
    found = resize_clean(image)
    plane = Image.fromarray(image[0, 1].numpy().astype(np.float32))
    expected = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
    assert torch.equal(found[0, 1], torch.from_numpy(expected))
    assert found.min() == 0.0
    assert found.max() == 255.0


def test_tensorflow_resize_starts_at_the_corner_and_interpolates_linearly():
    ramp = torch.arange(0, 230, 10, dtype=torch.uint8).view(1, 1, 1, 23).expand(1, 3, 23, 23)
    found = resize_like_tensorflow(ramp)[0, 0, 0]
    place = torch.arange(299) * (23 / 299)
    assert found.tolist() == pytest.approx((10.0 * place.clamp(max=22.0)).tolist(), abs=1e-3)


def test_resizing_to_the_size_there_is_changes_nothing():
    image = pixels(2, 8, 299, 299)
    assert torch.equal(resize_like_tensorflow(image), image.float())
    assert torch.equal(resize_clean(image), image.float())


def test_quantised_pictures_are_rounded_rgb():
    assert quantise(torch.tensor([[[[0.502, 1.2, -0.1]]]])).tolist() == [[[[128, 255, 0]]] * 3]
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 1.0
    assert quantise(red)[0].sum(dim=(1, 2)).tolist() == [4 * 255, 0, 0]


# Files


def test_torchscript_is_opened_only_because_its_whole_digest_is_known():
    assert len(WEIGHTS_FILES[INCEPTION_2015].sha256) == 64


def test_every_extractor_reads_a_listed_file_and_every_file_is_read():
    assert {file for one in EXTRACTORS.values() for file in one.files} == WEIGHTS_FILES.keys()


def test_missing_files_are_all_named_with_digest_size_and_place(tmp_path):
    with pytest.raises(WeightsError) as caught:
        find_weights((INCEPTION_2015, CLIP_VIT_H_14), tmp_path, {})
    for name in (INCEPTION_2015, CLIP_VIT_H_14):
        file = WEIGHTS_FILES[name]
        for text in (name, file.sha256, f"{file.size:,} bytes", file.source, str(tmp_path)):
            assert text in str(caught.value)
    assert caught.value.exit_code == 8


def test_file_of_another_content_is_refused(tmp_path):
    (tmp_path / INCEPTION_2015).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="another file"):
        find_weights((INCEPTION_2015,), tmp_path, {})


def test_pinned_digest_decides_where_none_is_published(tmp_path):
    path = tmp_path / RESNET_PLACES365
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert inspect_weights(RESNET_PLACES365, tmp_path, {}).sha256 == digest
    assert (
        find_weights((RESNET_PLACES365,), tmp_path, {RESNET_PLACES365: digest})[RESNET_PLACES365].path == path
    )
    with pytest.raises(WeightsError, match="expected the pinned"):
        find_weights((RESNET_PLACES365,), tmp_path, {RESNET_PLACES365: "0" * 64})


def test_pin_cannot_replace_the_published_digest(tmp_path):
    (tmp_path / INCEPTION_2015).write_bytes(b"mine")
    pins = {INCEPTION_2015: hashlib.sha256(b"mine").hexdigest()}
    with pytest.raises(WeightsError, match="expected the published"):
        find_weights((INCEPTION_2015,), tmp_path, pins)


def test_folder_of_the_sweep_file_comes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert weights_folder(None) == tmp_path
    assert weights_folder("/elsewhere").as_posix() == "/elsewhere"
    monkeypatch.delenv(WEIGHTS_VARIABLE)
    assert weights_folder(None) is None


def test_torchscript_that_changes_after_its_check_is_not_run(tmp_path, monkeypatch):
    write_tiny_inception(tmp_path, monkeypatch)
    found = find_weights((INCEPTION_2015,), tmp_path, {})[INCEPTION_2015]
    found.path.write_bytes(b"another program")
    with pytest.raises(WeightsError, match="changed"):
        EXTRACTORS["inception_2015"].load({INCEPTION_2015: found}, CPU)


@pytest.mark.parametrize("content", [b"no weights at all", None], ids=["damaged", "another network"])
def test_file_that_does_not_hold_its_network_is_named(tmp_path, monkeypatch, content):
    path = tmp_path / INCEPTION_TORCHVISION
    if content is None:
        torch.save(nn.Linear(2, 2).state_dict(), path)
    else:
        path.write_bytes(content)
    trust(INCEPTION_TORCHVISION, path, monkeypatch)
    found = find_weights((INCEPTION_TORCHVISION,), tmp_path, {})
    with pytest.raises(WeightsError, match="Inception-v3 of torchvision"):
        EXTRACTORS["torchvision_logits"].load(found, CPU)


# Networks


@torch.no_grad()
def test_inception_2015_gets_the_pixels_of_the_original_graph(tmp_path, monkeypatch):
    network = write_tiny_inception(tmp_path, monkeypatch)
    found = find_weights((INCEPTION_2015,), tmp_path, {})
    images = pixels(3, 9)
    for name, resize in (("inception_2015", resize_like_tensorflow), ("inception_2015_clean", resize_clean)):
        features = network.layers((resize(images) - 128.0) / 128.0)
        assert torch.allclose(EXTRACTORS[name].load(found, CPU)(images), features, atol=1e-5)
    unbiased = network.layers((resize_like_tensorflow(images) - 128.0) / 128.0) @ network.output.weight.T
    logits = EXTRACTORS["inception_2015_logits"].load(found, CPU)(images)
    assert torch.allclose(logits.softmax(dim=1), unbiased.softmax(dim=1), atol=1e-5)


@pytest.fixture(scope="module")
def torchvision_inception(tmp_path_factory):
    """A folder with the file of the network, its weights drawn; and the network."""
    from torchvision.models import inception_v3

    torch.manual_seed(5)
    network = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False).eval()
    folder = tmp_path_factory.mktemp("torchvision")
    torch.save(network.state_dict(), folder / INCEPTION_TORCHVISION)
    return folder, network


@torch.no_grad()
def test_torchvision_inception_as_the_released_code_calls_it(torchvision_inception, monkeypatch):
    folder, network = torchvision_inception
    trust(INCEPTION_TORCHVISION, folder / INCEPTION_TORCHVISION, monkeypatch)
    found = find_weights((INCEPTION_TORCHVISION,), folder, {})
    images = pixels(2, 9, 256, 256)
    mean, std = (
        torch.tensor(row)[:, None, None] for row in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    )
    expected = network(nn.Upsample(size=(299, 299), mode="bilinear")((images / 255.0 - mean) / std))
    assert torch.allclose(
        EXTRACTORS["torchvision_logits_as_released"].load(found, CPU)(images), expected, atol=1e-4
    )


@torch.no_grad()
def test_torchvision_inception_of_the_paper_is_pooled_before_its_classes(torchvision_inception, monkeypatch):
    folder, network = torchvision_inception
    trust(INCEPTION_TORCHVISION, folder / INCEPTION_TORCHVISION, monkeypatch)
    found = find_weights((INCEPTION_TORCHVISION,), folder, {})
    images = pixels(2, 9, 299, 299)
    pooled = EXTRACTORS["torchvision_pooled"].load(found, CPU)(images)
    assert pooled.shape == (2, 2048)
    assert torch.allclose(network.fc(pooled), network(images / 127.5 - 1.0), atol=1e-4)


@torch.no_grad()
def test_places365_is_read_from_a_parallel_module(tmp_path, monkeypatch):
    from torchvision.models import resnet50

    torch.manual_seed(6)
    network = resnet50(weights=None, num_classes=365).eval()
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"arch": "resnet50", "state_dict": state}, tmp_path / RESNET_PLACES365)
    found = find_weights((RESNET_PLACES365,), tmp_path, {})
    images = pixels(2, 9, 256, 256)
    mean, std = (torch.tensor(row)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network((images[..., 16:240, 16:240] / 255.0 - mean) / std)
    assert torch.allclose(EXTRACTORS["places365_logits"].load(found, CPU)(images), expected, atol=1e-4)


@torch.no_grad()
def test_clip_sees_what_open_clip_prepares(tmp_path, monkeypatch):
    import open_clip

    visual = write_tiny_clip(tmp_path, monkeypatch)
    found = find_weights((CLIP_VIT_H_14,), tmp_path, {})
    images = pixels(3, 9, 40, 48)
    path = str(found[CLIP_VIT_H_14].path)
    _, _, prepare = open_clip.create_model_and_transforms("tiny-clip", pretrained=path)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    expected = visual(torch.stack([prepare(picture) for picture in pictures]))
    assert torch.allclose(EXTRACTORS["clip_vit_h_14"].load(found, CPU)(images), expected, atol=1e-5)


# Protocols


def test_no_metric_has_two_meanings_under_one_name():
    meanings = {}
    for protocol in PROTOCOLS:
        for dataset in ("imagenet", "places365", "folder", "digits"):
            for measure in choose_measures(protocol, (*ALL, *MODERN), dataset):
                meaning = (measure.extractor, measure.compute)
                assert meanings.setdefault((protocol, measure.metric), meaning) == meaning


@pytest.mark.parametrize("protocol", ["li2024-code", "paper-text"])
def test_scenes_are_scored_by_a_classifier_of_scenes(protocol):
    assert [one.metric for one in choose_measures(protocol, ("is",), "places365")] == ["is_places365"]
    assert needed_files(choose_measures(protocol, ("is",), "places365")) == (RESNET_PLACES365,)


def test_builtin_protocol_measures_nothing_here():
    assert choose_measures("builtin", ("mse", "cosine", "fid"), "digits") == ()


# Scoring


@pytest.fixture
def scoring(tmp_path, monkeypatch):
    write_tiny_inception(tmp_path, monkeypatch)
    write_tiny_clip(tmp_path, monkeypatch)
    measures = choose_measures("standard", ALL, "digits")
    return Scoring(
        protocol="standard",
        measures=measures,
        weights=find_weights(needed_files(measures), tmp_path, {}),
        files=FeatureFiles(tmp_path, "run"),
        device=CPU,
    )


def a_set(count: int = 12, key: int = 1) -> Pictures:
    truth, output = pixels(count, key, 32, 32), pixels(count, key + 50, 32, 32) // 2
    return Pictures(
        ids=tuple(f"image-{row}" for row in range(count)), truth=lambda: truth, output=lambda: output
    )


def test_scores_of_saved_pictures_are_those_of_independent_code(scoring, tmp_path):
    one = a_set()
    rows = {
        row.metric: row
        for row in score_pictures(scoring, {"forget": one, "retain": one}, None)
        if row.set == "forget"
    }
    saved = []
    for kind, images in (("truth", one.truth()), ("output", one.output())):
        for row, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{kind}-{row:02}.png")
        files = sorted(tmp_path.glob(f"{kind}-*.png"))
        saved.append(
            torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])
        )
    network = EXTRACTORS["inception_2015"].load(scoring.weights, CPU)
    with torch.no_grad():
        real, fake = (network(images).double().numpy() for images in saved)
    root = np.real(sqrtm(np.cov(real, rowvar=False) @ np.cov(fake, rowvar=False)))
    gap = real.mean(axis=0) - fake.mean(axis=0)
    distance = gap @ gap + np.trace(np.cov(real, rowvar=False) + np.cov(fake, rowvar=False) - 2 * root)
    assert rows["fid"].value == pytest.approx(distance, rel=1e-3)
    assert {row.n for row in rows.values()} == {12}
    assert {row.protocol for row in rows.values()} == {"standard"}
    assert rows["clip"].low < rows["clip"].value < rows["clip"].high


def test_perfect_pictures_have_distance_0_and_cosine_1(scoring):
    one = a_set()
    same = replace(one, output=one.truth)
    rows = {row.metric: row.value for row in score_pictures(scoring, {"forget": same, "retain": same}, None)}
    assert rows["fid"] == pytest.approx(0.0, abs=1e-5)
    assert rows["clip"] == pytest.approx(1.0)


def test_rows_come_by_metric_then_set(scoring):
    rows = score_pictures(scoring, {"forget": a_set(), "retain": a_set(key=2)}, None)
    assert [(row.metric, row.set) for row in rows] == [
        (name, part) for name in ALL for part in ("forget", "retain")
    ]


def test_scoring_leaves_the_process_wide_random_state_alone(scoring):
    before = torch.random.get_rng_state()
    score_pictures(scoring, {"forget": a_set(), "retain": a_set(key=2)}, None)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sets_of_unequal_size_are_refused(scoring):
    with pytest.raises(ValueError, match="unequal"):
        score_pictures(scoring, {"forget": a_set(12), "retain": a_set(13)}, None)


def test_too_few_pictures_are_refused(scoring):
    with pytest.raises(ValueError, match="is needs at least 10 images"):
        score_pictures(scoring, {"forget": a_set(9), "retain": a_set(9)}, None)


def test_features_are_computed_once(scoring):
    pictures = {"forget": a_set(), "retain": a_set(key=2)}
    first = score_pictures(scoring, pictures, "model")

    def never():
        raise AssertionError("asked for pictures whose features are stored")

    stored = {name: replace(one, truth=never, output=never) for name, one in pictures.items()}
    assert score_pictures(scoring, stored, "model") == first
    other = {name: replace(one, truth=never) for name, one in pictures.items()}
    assert score_pictures(scoring, other, "another model") == first


def test_features_without_a_model_name_are_not_kept(scoring, tmp_path):
    score_pictures(scoring, {"forget": a_set(), "retain": a_set(key=2)}, None)
    # Of two sets: truth by features and CLIP.
    assert len(list(tmp_path.glob("features-*.safetensors"))) == 4


def test_damaged_features_are_computed_again(tmp_path):
    files, rows = FeatureFiles(tmp_path, "run"), ImageFeatures(("a", "b"), torch.eye(2))
    files.open(("key",), lambda: rows)
    (path,) = tmp_path.glob("features-*.safetensors")
    path.write_bytes(b"cut off")
    again = files.open(("key",), lambda: rows)
    assert torch.equal(again.values, rows.values)
    assert FeatureFiles(tmp_path, "run").open(("key",), lambda: pytest.fail("not stored")).ids == ("a", "b")


def test_features_of_another_run_are_not_taken(tmp_path):
    FeatureFiles(tmp_path, "run").open(("key",), lambda: ImageFeatures(("a",), torch.zeros(1, 2)))
    found = FeatureFiles(tmp_path, "other").open(("key",), lambda: ImageFeatures(("a",), torch.ones(1, 2)))
    assert torch.equal(found.values, torch.ones(1, 2))


def test_features_are_paired_by_the_id_of_the_image():
    features = ImageFeatures(("a", "b", "c"), torch.arange(3.0)[:, None])
    assert features.rows_of(("c", "a", "b")).flatten().tolist() == [2.0, 0.0, 1.0]
    for others in (("a", "b"), ("a", "b", "d"), ("a", "b", "b")):
        with pytest.raises(ValueError, match="same"):
            features.rows_of(others)
