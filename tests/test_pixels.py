"""The rules that turn a file into pixels."""

from pathlib import Path

import numpy as np
import pytest
from image_folders import EXACT, SIDE, noise, save
from PIL import Image
from torchvision.transforms import functional as torchvision

from pareto_unlearn.data.reading import read_image
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat

# Golden pixels of each kind of file: what is saved, and the RGB it becomes


def pixel(tmp_path: Path, image: Image.Image, name: str, channels: int = 3, **options) -> list[int]:
    """Save an image of one colour, read it, and return its only colour."""
    found = read_image(save(image, tmp_path / name, **options), PixelFormat(side=SIDE, channels=channels))
    assert found.shape == (channels, SIDE, SIDE)
    assert found.dtype == np.uint8
    assert (found == found[:, :1, :1]).all()
    return found[:, 0, 0].tolist()


def plain(mode: str, colour) -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)


def palette(**info) -> Image.Image:
    image = plain("P", 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (plain("RGB", (10, 20, 30)), "a.png", [10, 20, 30]),
        (plain("RGB", (10, 20, 30)), "png_named.JPEG", [10, 20, 30]),
        (plain("L", 77), "a.png", [77, 77, 77]),
        (plain("1", 1), "a.png", [255, 255, 255]),
        (plain("1", 1), "a.tiff", [255, 255, 255]),
        (palette(), "a.png", [200, 100, 50]),
        (palette(), "a.gif", [200, 100, 50]),
        # alpha 51 of 255 is a fifth: 4/5 of white and 1/5 of the colour
        (plain("LA", (100, 51)), "a.png", [224, 224, 224]),
        (plain("RGBA", (100, 0, 250, 51)), "a.png", [224, 204, 254]),
        (plain("RGBA", (100, 0, 250, 0)), "a.png", [255, 255, 255]),
        (plain("RGBA", (100, 0, 250, 255)), "a.png", [100, 0, 250]),
        # cyan, magenta, yellow, black: (255 - c)(255 - k) / 255
        (plain("CMYK", (255, 0, 0, 0)), "a.tiff", [0, 255, 255]),
        (plain("CMYK", (51, 102, 0, 0)), "a.tiff", [204, 153, 255]),
        (plain("CMYK", (51, 102, 0, 0)), "a.jpg", [204, 153, 255]),
        (plain("CMYK", (0, 0, 0, 255)), "a.jpg", [0, 0, 0]),
    ],
)  # fmt: skip
def test_each_kind_of_colour_becomes_this_rgb(tmp_path, image, name, expected):
    kind = {"png_named.JPEG": {"format": "PNG"}}.get(name, {})
    assert pixel(tmp_path, image, name, **kind) == expected


@pytest.mark.parametrize(
    ("transparency", "expected"), [(1, [255, 255, 255]), (b"\xff\x33", [244, 224, 214]), (0, [200, 100, 50])]
)
def test_a_palette_with_transparency_is_composited_on_white(tmp_path, transparency, expected):
    assert pixel(tmp_path, palette(), "a.png", transparency=transparency) == expected


def test_the_transparent_colour_of_an_rgb_image_is_white(tmp_path):
    image = plain("RGB", (10, 20, 30))
    assert pixel(tmp_path, image, "a.png", transparency=(10, 20, 30)) == [255, 255, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (257, 1), (128, 0), (129, 1), (40000, 156), (65535, 255)]
)
def test_16_bit_grays_are_scaled_not_clipped(tmp_path, name, value, expected):
    image = Image.fromarray(np.full((SIDE, SIDE), value, np.uint16))
    assert pixel(tmp_path, image, name) == [expected] * 3


@pytest.mark.parametrize("values", [np.float32(0.5), np.int32(70000), np.int32(-1)])
def test_32_bit_values_have_no_rule(tmp_path, values):
    path = save(Image.fromarray(np.full((SIDE, SIDE), values)), tmp_path / "a.tiff")
    with pytest.raises(ConfigError, match="for which there is no rule"):
        read_image(path, EXACT)


@pytest.mark.parametrize(
    ("colour", "gray"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((9, 9, 9), 9)]
)
def test_a_model_of_one_channel_reads_gray(tmp_path, colour, gray):
    assert pixel(tmp_path, plain("RGB", colour), "a.png", channels=1) == [gray]


def test_the_exif_orientation_is_not_applied(tmp_path):
    halves = plain("RGB", (255, 255, 255))
    halves.paste((0, 0, 0), (0, 0, SIDE // 2, SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = save(halves, tmp_path / "a.png", exif=exif)
    found = read_image(path, EXACT)
    assert (found[:, :, : SIDE // 2] == 0).all()
    assert (found[:, :, SIDE // 2 :] == 255).all()


def test_of_several_frames_the_first_counts(tmp_path):
    frames = [plain("RGB", (value, 0, 0)) for value in (10, 200)]
    assert pixel(tmp_path, frames[0], "a.tiff", save_all=True, append_images=frames[1:]) == [10, 0, 0]


# Sizes


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (8, 8), (8, 13), (5, 5), (500, 9), (21, 22)])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_sizes_and_filters_are_those_of_torchvision(tmp_path, size, resample):
    image = noise(*size)
    path = save(image, tmp_path / "a.png")
    mode = torchvision.InterpolationMode(resample)
    squashed = torchvision.resize(image, [SIDE, SIDE], mode)
    cropped = torchvision.center_crop(torchvision.resize(image, SIDE, mode), [SIDE, SIDE])
    for fit, expected in (("squash", squashed), ("crop", cropped)):
        pixels = PixelFormat(side=SIDE, channels=3, fit=fit, resample=resample)
        assert np.array_equal(read_image(path, pixels), np.asarray(expected).transpose(2, 0, 1))
