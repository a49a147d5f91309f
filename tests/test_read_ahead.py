"""Images of the next step, read in the background: the same pixels, the same errors, at the same place."""

from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest
import torch
from device_traffic import DeviceTraffic
from PIL import Image
from tiny_families import configure
from waiting import STALLED_AFTER

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import BatchOrder, ReadsAhead, SplitData, load_split, pixels_on, reading_ahead
from pareto_unlearn.data.image_sets import pixels_of
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase, PixelFormat, TrialSpec
from pareto_unlearn.trial import Trial, load_material, step_losses
from pareto_unlearn.trial.building import build_problem

PIXELS = PixelFormat(side=8, channels=3)
COUNT = 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of six training images and one held out."""
    for class_id in range(2):
        for part, count in (("train", COUNT), ("val", 1)):
            for number in range(count):
                values = np.random.default_rng([class_id, number, count]).integers(
                    0, 256, (8, 8, 3), np.uint8
                )
                path = tmp_path / "images" / part / f"c{class_id}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    return tmp_path / "images"


def load(root: Path, cache: Path | None = None) -> SplitData:
    section = DataSection(dataset="folder", root=str(root), forget_classes=("c0",), retain_classes=("c1",))
    return load_split(section, 0, PIXELS, cache)


def settle(images) -> None:
    """Wait until all that was read ahead is there."""
    wait(images._ahead.values(), timeout=STALLED_AFTER)


@pytest.mark.parametrize("cached", [False, True])
def test_pixels_do_not_depend_on_what_was_read_ahead(root, tmp_path, cached):
    plain, ahead = (load(root, tmp_path / "cache" if cached else None).forget_train.images for _ in range(2))
    order = BatchOrder(COUNT, 4, seed=0, stream=1)
    eager = reading_ahead(order, ahead)
    for step in (0, 1, 2, 2, 5, 6, 3, 4):
        assert torch.equal(eager(step), order(step))
        assert torch.equal(ahead[eager(step)], plain[order(step)])


def test_the_next_batch_is_read_before_it_is_asked_for(root, monkeypatch):
    images = load(root).forget_train.images
    order = reading_ahead(BatchOrder(COUNT, 2, seed=0, stream=1), images)
    images[order(0)]
    settle(images)
    monkeypatch.setattr("pareto_unlearn.data.file_images.read_image", lambda *_: pytest.fail("read too late"))
    assert len(images[BatchOrder(COUNT, 2, seed=0, stream=1)(1)]) == 2


def test_a_damaged_file_is_an_error_of_the_step_that_needs_it(root):
    images = load(root)
    order = BatchOrder(COUNT, 2, seed=0, stream=1)
    damaged = images.forget_train.image_ids[int(order(1)[0])]
    (root / damaged).write_bytes(b"no image")
    eager = reading_ahead(order, images.forget_train.images)
    images.forget_train.images[eager(0)]
    settle(images.forget_train.images)
    with pytest.raises(ConfigError, match=damaged):
        images.forget_train.images[eager(1)]
    assert len(images.forget_train.images[eager(2)]) == 2


def test_at_most_two_batches_wait_and_one_thread_reads_them(root):
    split = load(root)
    for place in range(COUNT):
        split.forget_train.images.read_ahead([place])
        split.retain_train.images.read_ahead([place])
    assert list(split.forget_train.images._ahead) == [(COUNT - 2,), (COUNT - 1,)]
    reader = split.forget_train.images._reader
    assert reader is split.retain_heldout.images._reader
    assert len(reader._threads) == 1


def test_images_in_memory_need_no_reading_ahead():
    split = load_split(DataSection(dataset="digits", forget_classes=("0",)), 0)
    order = BatchOrder(4, 2, seed=0, stream=1)
    assert not isinstance(split.forget_train.images, ReadsAhead)
    assert reading_ahead(order, split.forget_train.images) is order


@pytest.mark.parametrize("completeness", ["per_class", "mean"])
def test_losses_of_a_step_are_the_same_to_the_bit(root, tmp_path, monkeypatch, completeness):
    config = configure(
        "mae",
        f"data={{dataset: folder, root: {root}, forget_classes: [c0]}}",
        f"solver.completeness={completeness}",
    )
    material = load_material(config, tmp_path / "cache", "ahead")
    spec = TrialSpec(trial_id="t", phase=Phase.EPSILON, method="epsilon_constraint", seed=0, epsilon=0.5)

    def losses() -> list[float]:
        problem = build_problem(Trial(config, spec, material))
        return [
            float(loss(step).detach())
            for step in range(5)
            for loss in (problem.constraint, problem.objective)
        ]

    ahead = losses()
    assert len(material.split.retain_train.images._ahead) > 0
    monkeypatch.setattr(step_losses, "reading_ahead", lambda order, *_: order)
    assert losses() == ahead


@pytest.mark.parametrize("cached", [False, True])
def test_pixels_are_sent_as_bytes_and_are_the_same_numbers(root, tmp_path, cached):
    images = load(root, tmp_path / "cache" if cached else None).forget_train.images
    rows = torch.tensor([4, 0, 1])
    with DeviceTraffic([]) as traffic:
        pixels = pixels_on(images, rows, torch.device("cpu"))
    assert (traffic.sent, traffic.waits) == ([3 * 3 * 8 * 8], [])
    assert torch.equal(pixels, images[rows])
    assert torch.equal(pixels, images.take_bytes(rows).to(torch.float32).div_(255.0))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_byte_is_the_number_that_a_cpu_divides_it_to(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(pixels_of(values.to(device)).cpu(), values.to(torch.float32).div_(255.0))
