"""A mask of one's own as the task: what is read, what is refused, and what each kind of family removes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sweep_text import only_error, parse
from tiny_families import build, pictures, seeds

from pareto_unlearn.config import TaskSection, config_hash, dump_config, parse_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.holes import own_mask


def draw(path: Path, side: int, box: tuple[int, int, int, int], mode: str = "L", scale: int = 1) -> str:
    left, top, right, bottom = box
    values = np.zeros((side, side), np.uint8)
    values[top:bottom, left:right] = 255
    image = Image.fromarray(values).resize((side * scale, side * scale), Image.Resampling.NEAREST)
    image.convert(mode).save(path)
    return str(path)


def read(path: str) -> TaskSection:
    return TaskSection.model_validate({"masks": path})


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("scale", [1, 3])
def test_a_family_of_pixels_removes_exactly_the_mask(tmp_path, mode, scale):
    task = read(draw(tmp_path / "m.png", 32, (3, 5, 20, 9), mode, scale))
    model = build("palette", task)
    wanted = torch.zeros(32, 32, dtype=torch.bool)
    wanted[5:9, 3:20] = True
    assert torch.equal(model.removed_pixels(), wanted)
    images = pictures("palette", 2)
    filled = model.generate(images, seeds(0, 1))
    assert torch.equal(filled[:, :, ~wanted], images[:, :, ~wanted])
    assert not torch.equal(filled[:, :, wanted], images[:, :, wanted])


def test_a_family_of_patches_removes_every_patch_that_the_mask_touches(tmp_path):
    model = build("mae", read(draw(tmp_path / "m.png", 56, (3, 5, 9, 9))))
    wanted = torch.zeros(56, 56, dtype=torch.bool)
    wanted[4:12, 0:12] = True
    assert torch.equal(model.removed_pixels(), wanted)
    with pytest.raises(ConfigError, match="one that touches every patch of 4 pixels"):
        build("mae", read(draw(tmp_path / "all.png", 56, (0, 0, 56, 55))))


def test_a_convolutional_family_takes_the_mask(tmp_path):
    """The example networks lay their hole with the same function."""
    task = read(draw(tmp_path / "m.png", 32, (8, 8, 24, 16)))
    hole = own_mask(str(task.masks), 32, 8)
    assert int(hole.sum()) == 16 * 8
    assert bool(hole[8:16, 8:24].all())


def test_the_resolved_sweep_holds_the_mask_and_its_content_counts(tmp_path):
    path = draw(tmp_path / "m.png", 16, (0, 0, 8, 8))
    config = parse("", f"task={{masks: {path}}}")
    assert config.task.kind == "mask"
    Path(path).rename(tmp_path / "gone.png")
    again = parse_config(dump_config(config), "sweep.yaml", stored=True)
    assert again.task == config.task
    moved = parse("", f"task={{masks: {tmp_path / 'gone.png'}}}")
    assert config_hash(moved, "ab" * 32) == config_hash(config, "ab" * 32)
    other = parse("", f"task={{masks: {draw(tmp_path / 'o.png', 16, (0, 0, 8, 4))}}}")
    assert config_hash(other, "ab" * 32) != config_hash(config, "ab" * 32)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: Image.new("L", (16, 16), 255).save(p), "expected a mask of two values"),
        (lambda p: Image.linear_gradient("L").resize((16, 16)).save(p), "found 16 in"),
        (lambda p: Image.new("L", (16, 8)).save(p), "expected a square mask"),
        (lambda p: Image.new("RGBA", (16, 16), (0, 0, 0, 9)).save(p), "without transparency"),
        (lambda p: Image.new("L", (16, 16)).save(p, format="JPEG"), "JPEG blurs its edges"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n cut off"), "found no image of these kinds"),
        (lambda p: p.mkdir(), "a mask for each picture is not supported"),
        (lambda p: None, "found No such file or directory"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, make, words):
    make(tmp_path / "m.png")
    assert words in only_error("", f"task={{masks: {tmp_path / 'm.png'}}}")


def test_other_keys_of_the_hole_and_damaged_texts_are_refused(tmp_path):
    path = draw(tmp_path / "m.png", 16, (0, 0, 8, 8))
    assert "task.size: expected it left out beside `masks`" in only_error(
        "", f"task={{masks: {path}, size: 0.5}}"
    )
    assert "expected kind mask together with `masks`" in only_error("", "task={kind: mask}")
    for text in ("bits:16:AAAA", "bits:9999:AAAA", "bits:16:", "bits:x"):
        assert "task.masks: expected" in only_error("", f"task={{masks: '{text}'}}")
    with pytest.raises(ConfigError, match=r"expected a mask of 56 x 56 pixels, as the model"):
        build("mae", read(path))
