"""Images of files that behave like a tensor, and the cache of their pixels."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from image_folders import EXACT, SIDE, SQUASH, make_folder, noise, save, section
from PIL import Image

from pareto_unlearn.data import Images, file_images, load_split, pixel_cache
from pareto_unlearn.data.reading import read_image
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


# Indexing


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    "rows",
    [
        slice(None), slice(2, 5), slice(0, 0), [3, 1, 1], [], torch.tensor([7, 0]), torch.arange(8) % 3 == 0,
        torch.tensor([], dtype=torch.int64), [-1],
    ],
)  # fmt: skip
def test_files_are_indexed_like_a_tensor(root, tmp_path, rows, cached):
    images = load_split(section(root), 0, EXACT, tmp_path / "cache" if cached else None).forget_train
    expected = torch.stack(
        [
            torch.from_numpy(np.asarray(Image.open(root / image_id)).transpose(2, 0, 1) / np.float32(255))
            for image_id in images.image_ids
        ]
    )
    found = images.images[rows]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected[rows])
    assert images.images.shape == expected.shape
    assert len(images) == len(images.images) == 8


def test_tensors_and_files_are_both_images(root):
    files = load_split(section(root), 0, EXACT).forget_train.images
    assert isinstance(files, Images)
    assert isinstance(torch.zeros(1, 3, 4, 4), Images)


def test_a_place_beyond_the_end_is_an_index_error(root):
    with pytest.raises(IndexError):
        load_split(section(root), 0, EXACT).forget_train.images[[8]]


def test_loading_a_split_opens_no_file(root, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    monkeypatch.setattr(Path, "read_bytes", lambda *_: pytest.fail("a file was read"))
    split = load_split(section(root), 0, EXACT)
    assert split.forget_train.images.shape == (8, 3, SIDE, SIDE)
    assert len(split.forget_train.sha256) == 8


# The cache


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The files that were decoded, one entry each time."""
    seen: list[Path] = []

    def read(path: Path, pixels: PixelFormat):
        seen.append(path)
        return read_image(path, pixels)

    monkeypatch.setattr(file_images, "read_image", read)
    return seen


def arrays_in(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.npy"))


def test_a_set_is_decoded_once_whoever_reads_it(root, tmp_path, decoded):
    for _ in range(3):
        split = load_split(section(root), 0, EXACT, tmp_path)
        assert len(split.forget_train.images[[1, 2]]) == 2
    assert sorted(decoded) == [root / image_id for image_id in split.forget_train.image_ids]
    (stored,) = arrays_in(tmp_path)
    assert np.load(stored).shape == (8, 3, SIDE, SIDE)


def test_without_a_cache_only_what_is_asked_for_is_decoded(root, decoded):
    split = load_split(section(root), 0, EXACT)
    split.forget_train.images[[1, 5]]
    assert decoded == [root / split.forget_train.image_ids[place] for place in (1, 5)]


def test_several_readers_at_once_decode_once_and_see_the_same(root, tmp_path, decoded):
    splits = [load_split(section(root), 0, EXACT, tmp_path) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda split: split.retain_train.images[:], splits))
    assert len(decoded) == 16
    assert all(torch.equal(one, found[0]) for one in found)


def test_runs_share_the_folder_that_their_sweeps_name(root, tmp_path, decoded):
    shared = tmp_path / "shared"
    section_of_both = section(root, cache_folder=str(shared))
    found = [
        load_split(section_of_both, 0, EXACT, tmp_path / name).retain_train.images[:] for name in ("a", "b")
    ]
    assert torch.equal(*found)
    assert len(decoded) == 16
    assert len(arrays_in(shared)) == 1
    assert sorted(tmp_path.iterdir()) == [root, shared]
    assert shared.stat().st_mode & 0o777 == 0o700


def test_a_folder_for_pixels_is_the_users_own(root, tmp_path, monkeypatch):
    def refused(folder: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load_split(section(root, cache_folder=str(folder)), 0, EXACT, tmp_path / "run")
        return str(caught.value)

    (tmp_path / "file").touch()
    assert "data.cache_folder" in refused(tmp_path / "file")
    monkeypatch.setattr(pixel_cache.os, "getuid", lambda: -1)
    assert "belongs to another user; name a folder of your own" in refused(tmp_path / "theirs")


def test_what_a_killed_process_left_is_overwritten(root, tmp_path):
    expected = load_split(section(root), 0, EXACT, tmp_path).forget_train.images[:]
    (stored,) = arrays_in(tmp_path)
    stored.rename(stored.with_name(stored.name + ".part"))
    assert torch.equal(load_split(section(root), 0, EXACT, tmp_path).forget_train.images[:], expected)
    assert [path.suffix for path in sorted(tmp_path.glob("pixels*"))] == [".npy", ".lock", ".sums"]


def test_another_file_or_format_is_another_array(root, tmp_path):
    def read(pixels: PixelFormat = EXACT) -> torch.Tensor:
        return load_split(section(root), 0, pixels, tmp_path).forget_train.images[:]

    before = read()
    image_id = load_split(section(root), 0, EXACT).forget_train.image_ids[0]
    save(noise(SIDE, SIDE, 99), root / image_id)
    os.utime(root / image_id, ns=(1, 1))
    after = read()
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])
    read(SQUASH)
    assert len(arrays_in(tmp_path)) == 3


def test_sets_beyond_the_limit_are_decoded_on_demand_training_sets_last(root, tmp_path):
    one = 3 * SIDE * SIDE
    for limit, stored in ((0, 0), (8 * one, 1), (24 * one, 2), (24 * one + 1, 2), (30 * one, 4)):
        cache = tmp_path / str(limit)
        split = load_split(section(root, cache_bytes=limit), 0, EXACT, cache)
        found = {(name, part): images.images[:] for name, part, images in split.items()}
        assert {key: len(part) for key, part in found.items()} == {
            ("forget", "train"): 8,
            ("forget", "heldout"): 2,
            ("retain", "train"): 16,
            ("retain", "heldout"): 4,
        }
        assert len(arrays_in(cache)) == stored


@pytest.mark.parametrize("trouble", ["too small", "fills up"])
def test_a_full_disk_means_decoding_on_demand(root, tmp_path, monkeypatch, trouble, caplog):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if trouble == "too small":
        monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    else:
        monkeypatch.setattr("os.fsync", fail)
    images = load_split(section(root), 0, EXACT, tmp_path).forget_train.images
    assert len(images[[0, 1]]) == 2
    assert "images are decoded on demand" in caplog.text
    assert [path.suffix for path in tmp_path.glob("pixels*")] == [".lock"]
