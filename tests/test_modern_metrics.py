"""Protocol modern: DINOv2 as in the original code, LPIPS as in the authors' arithmetic, and five metrics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from test_published_metrics import CPU, MODERN, a_set, pixels
from tiny_families import load_on_generated
from tiny_networks import (
    LINEAR_WEIGHTS,
    vit_tiny_patch14_test,
    write_lpips,
    write_tiny_clip,
    write_tiny_dinov2,
)
from torch import nn

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics import (
    WEIGHTS_FILES,
    FeatureFiles,
    Scoring,
    choose_measures,
    find_weights,
    inspect_weights,
    needed_files,
    score_pictures,
)
from pareto_unlearn.metrics.dinov2 import fit_positions
from pareto_unlearn.metrics.extractors import EXTRACTORS
from pareto_unlearn.metrics.lpips import LPIPS_LEAST_SIDE, Lpips
from pareto_unlearn.metrics.weights import ALEXNET_TORCHVISION, DINOV2_VIT_L_14, LPIPS_ALEX
from pareto_unlearn.trial.measuring import measure_metrics


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with all files, the tensors of the tiny DINOv2 and the drawn features of AlexNet."""
    folder = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        write_tiny_clip(folder, patch)
        yield folder, write_tiny_dinov2(folder, patch), write_lpips(folder, patch)


@pytest.fixture
def scoring(networks, tmp_path):
    measures = choose_measures("modern", MODERN, "digits")
    return Scoring(
        protocol="modern",
        measures=measures,
        weights=find_weights(needed_files(measures), networks[0], {}),
        files=FeatureFiles(tmp_path, "run"),
        device=CPU,
    )


def extractor(name: str, networks):
    return EXTRACTORS[name].load(find_weights(EXTRACTORS[name].files, networks[0], {}), CPU)


# Files


@pytest.mark.parametrize("name", [DINOV2_VIT_L_14, ALEXNET_TORCHVISION, LPIPS_ALEX])
def test_every_file_is_known_by_its_whole_digest_and_size(name):
    file = WEIGHTS_FILES[name]
    assert len(file.sha256) == 64
    assert file.size


def test_name_of_torchvisions_file_begins_its_digest():
    assert f"alexnet-owt-{WEIGHTS_FILES[ALEXNET_TORCHVISION].sha256[:8]}.pth" == ALEXNET_TORCHVISION


def test_linear_weights_of_torchmetrics_are_the_published_ones(networks):
    assert inspect_weights(LPIPS_ALEX, networks[0], {}).problem is None
    assert LINEAR_WEIGHTS.stat().st_size == WEIGHTS_FILES[LPIPS_ALEX].size


@pytest.mark.parametrize("name", [DINOV2_VIT_L_14, ALEXNET_TORCHVISION, LPIPS_ALEX])
def test_file_of_another_network_is_named(networks, tmp_path, name):
    files = EXTRACTORS["lpips_alex"].files if name != DINOV2_VIT_L_14 else (DINOV2_VIT_L_14,)
    found = find_weights(files, networks[0], {})
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / name)
    found[name] = replace(found[name], path=tmp_path / name)
    which = "dinov2_vit_l_14" if name == DINOV2_VIT_L_14 else "lpips_alex"
    with pytest.raises(WeightsError, match=WEIGHTS_FILES[name].holds.split()[0]):
        EXTRACTORS[which].load(found, CPU)


# DINOv2


def cubic_matrix(known: int, side: int) -> np.ndarray:
    """Rows of weights of cubic convolution (a = -0.75) at the points of the original code, edges repeated."""
    matrix = np.zeros((side, known))
    for row in range(side):
        point = (row + 0.5) * known / (side + 0.1) - 0.5
        for place in range(int(np.floor(point)) - 1, int(np.floor(point)) + 3):
            gap = abs(point - place)
            near = 1.25 * gap**3 - 2.25 * gap**2 + 1
            far = -0.75 * (gap**3 - 5 * gap**2 + 8 * gap - 4)
            matrix[row, min(max(place, 0), known - 1)] += near if gap <= 1 else far
    return matrix


def test_positions_are_sampled_where_the_original_code_does(networks):
    positions = networks[1]["pos_embed"]
    found = fit_positions(positions, 16)
    matrix = cubic_matrix(37, 16)
    patches = positions[0, 1:].double().view(37, 37, -1).numpy()
    expected = np.einsum("ri,cj,ijd->rcd", matrix, matrix, patches).reshape(256, -1)
    assert found.shape == (1, 257, 32)
    assert torch.equal(found[:, 0], positions[:, 0])
    assert found[0, 1:].numpy() == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_dinov2_sees_squashed_pictures_with_the_statistics_of_imagenet(networks):
    _, state, _ = networks
    network = vit_tiny_patch14_test(img_size=224).eval()
    network.load_state_dict({**state, "pos_embed": fit_positions(state["pos_embed"], 16)})
    images = pixels(3, 9, 40, 56)
    mean, std = (torch.tensor(row)[:, None, None] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    resized = [
        np.asarray(
            Image.fromarray(image.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
        )
        for image in images
    ]
    inputs = (torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255.0 - mean) / std
    found = extractor("dinov2_vit_l_14", networks)(images)
    assert torch.allclose(found, network.forward_features(inputs)[:, 0], atol=1e-5)


# LPIPS


def reference_lpips(features: nn.Sequential) -> nn.Module:
    """torchmetrics' module with the same weights."""
    from torchmetrics.functional.image.lpips import _LPIPS

    # It cannot be built without drawing the whole AlexNet.
    module = _LPIPS(pretrained=False, net="alex", pnet_rand=True)
    for part in module.net.children():
        for place, layer in part.named_children():
            layer.load_state_dict(features[int(place)].state_dict())
    linear = torch.load(LINEAR_WEIGHTS, map_location="cpu", weights_only=True)
    assert not module.load_state_dict(linear, strict=False).unexpected_keys
    return module.eval()


@torch.no_grad()
def test_lpips_is_that_of_torchmetrics(networks):
    reference, embed = reference_lpips(networks[2]), extractor("lpips_alex", networks)
    for size in ((64, 48), (31, 31)):
        real, fake = pixels(4, 1, *size), pixels(4, 2, *size)
        fake[0] = real[0] // 2 + fake[0] // 2
        found = embed(real, fake).flatten()
        expected = reference(real / 127.5 - 1.0, fake / 127.5 - 1.0).flatten()
        assert found.min() > 0.01
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
        assert embed(fake, real).flatten().tolist() == pytest.approx(found.tolist(), rel=1e-5)
        assert embed(real, real).abs().max() == 0.0


def test_lpips_refuses_what_alexnet_cannot_see():
    network = Lpips()
    small = pixels(1, 1, LPIPS_LEAST_SIDE - 1, 64)
    with pytest.raises(ValueError, match="at least 31 pixels"):
        network(small, small)
    with pytest.raises(RuntimeError):
        network.layers(small.float())


# Scoring


def by_metric(rows, name: str = "forget"):
    return {row.metric: row for row in rows if row.set == name}


def test_five_metrics_of_a_set_are_those_of_its_features(scoring, networks):
    one = a_set()
    rows = by_metric(score_pictures(scoring, {"forget": one, "retain": one}, None))
    assert tuple(rows) == MODERN
    embed = extractor("dinov2_vit_l_14", networks)
    with torch.no_grad():
        real, fake = (embed(images).double().numpy() for images in (one.truth(), one.output()))
        distances = extractor("lpips_alex", networks)(one.truth(), one.output()).flatten().double()
    root = np.real(sqrtm(np.cov(real, rowvar=False) @ np.cov(fake, rowvar=False)))
    gap = real.mean(axis=0) - fake.mean(axis=0)
    frechet = gap @ gap + np.trace(np.cov(real, rowvar=False) + np.cov(fake, rowvar=False) - 2 * root)
    cosines = (real * fake).sum(axis=1) / np.linalg.norm(real, axis=1) / np.linalg.norm(fake, axis=1)
    assert rows["fd_dinov2"].value == pytest.approx(frechet, rel=1e-3)
    assert rows["dino"].value == pytest.approx(cosines.mean(), rel=1e-6)
    assert rows["lpips"].value == pytest.approx(float(distances.mean()), rel=1e-6)
    half = 1.96 * float(distances.std()) / 12**0.5
    assert rows["lpips"].high - rows["lpips"].value == pytest.approx(half, rel=1e-5)
    assert [name for name, row in rows.items() if row.low is None] == ["fd_dinov2", "kd_dinov2"]
    assert {(row.protocol, row.n) for row in rows.values()} == {("modern", 12)}


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception:UserWarning")
def test_kernel_distance_is_that_of_torchmetrics_on_the_same_features(scoring, networks):
    from torchmetrics.image.kid import KernelInceptionDistance

    one, embed = a_set(), extractor("dinov2_vit_l_14", networks)
    reference = KernelInceptionDistance(nn.Flatten().eval(), subsets=1, subset_size=12, normalize=False)
    reference.set_dtype(torch.float64)
    with torch.no_grad():
        for images, is_real in ((one.truth(), True), (one.output(), False)):
            reference.update(embed(images).double()[:, None, None], real=is_real)
    rows = by_metric(score_pictures(scoring, {"forget": one, "retain": one}, None))
    assert rows["kd_dinov2"].value == pytest.approx(float(reference.compute()[0]), rel=1e-6)


def test_perfect_pictures_have_no_distance_and_cosine_1(scoring):
    one = a_set()
    same = replace(one, output=one.truth)
    rows = by_metric(score_pictures(scoring, {"forget": same, "retain": same}, None))
    assert rows["fd_dinov2"].value == pytest.approx(0.0, abs=1e-4)
    assert rows["dino"].value == pytest.approx(1.0)
    assert (rows["lpips"].value, rows["lpips"].low, rows["lpips"].high) == (0.0, 0.0, 0.0)


def test_features_and_distances_are_computed_once_a_model(scoring, tmp_path):
    pictures = {"forget": a_set(), "retain": a_set(key=2)}
    first = score_pictures(scoring, pictures, "model")

    def never():
        raise AssertionError("asked for pictures whose features are stored")

    stored = {name: replace(one, truth=never, output=never) for name, one in pictures.items()}
    assert score_pictures(scoring, stored, "model") == first
    # Of two sets: truth and output by two networks, and the pairs.
    assert len(list(tmp_path.glob("features-*.safetensors"))) == 10
    with pytest.raises(AssertionError):
        score_pictures(scoring, stored, "another model")


def test_distances_that_are_not_finite_are_refused(scoring, monkeypatch):
    monkeypatch.setitem(
        EXTRACTORS,
        "lpips_alex",
        replace(
            EXTRACTORS["lpips_alex"], load=lambda *_: lambda real, _: torch.full((len(real), 1), torch.nan)
        ),
    )
    with pytest.raises(ValueError, match="finite"):
        score_pictures(scoring, {"forget": a_set(), "retain": a_set(key=2)}, None)


def test_sweep_of_pictures_of_56_pixels_measures_all_five(networks, tmp_path):
    metrics = f"evaluate={{protocol: modern, metrics: null, weights: {networks[0]}}}"
    config, material = load_on_generated("mae", tmp_path, metrics)
    rows = [row for row in measure_metrics(config, material) if row.protocol == "modern"]
    assert [row.metric for row in rows] == [name for name in MODERN for _ in range(2)]
    assert all(np.isfinite(row.value) for row in rows)
