"""Forget images in the report: shown, as mosaics, or not at all; and what decides unless told."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from PIL import Image
from synthetic_run import SWEEP_FILE, planned_trials, synthetic_result, write_run

from pareto_unlearn.config import ForgetImages, forget_images_of
from pareto_unlearn.records import Phase
from pareto_unlearn.report.veil import TILES, make_mosaic


def pictures(page: Path) -> set[bytes]:
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', page.read_text())
    return {base64.b64decode(one) for one in found}


def stored(image_set: str, *, hidden: bool | None = None, kinds: tuple[str, ...] = ("output",)) -> set[bytes]:
    """The pictures of a run; ``hidden``: of models at least 90 % complete, or of the others."""
    results = [synthetic_result(plan) for plan in planned_trials()]
    return {
        row.image
        for result in results
        for row in result.samples
        if row.set == image_set
        and row.kind in kinds
        and hidden in (None, (result.record.completeness or 0.0) >= 0.9)
    }


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_run(str(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def written(run_path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[bytes]]:
    folder = tmp_path_factory.mktemp("pages")
    for mode in ForgetImages:
        done = call("report", run_path, "--forget-images", mode, "--out", folder / f"{mode}.html")
        assert done.returncode == 0, done.stderr
    return {str(mode): pictures(folder / f"{mode}.html") for mode in ForgetImages}


def test_shown_holds_all(written):
    assert stored("forget", kinds=("input", "truth", "output")) <= written["shown"]


def test_veiled_holds_no_input_no_truth_and_no_picture_of_a_model_that_shows_it(written):
    seen = stored("forget", kinds=("input", "truth")) | stored("forget", hidden=False)
    # A model that destroys all paints the very pixels of one that hides all.
    assert not (seen - stored("forget", hidden=True)) & written["veiled"]
    assert stored("forget", kinds=("input", "truth")).isdisjoint(written["veiled"])
    assert stored("forget", hidden=True) <= written["veiled"]
    assert stored("retain", kinds=("input", "truth", "output")) <= written["veiled"]


def test_none_holds_no_forget_picture_nor_a_mosaic_of_one(written):
    retain = stored("retain", kinds=("input", "truth", "output"))
    assert written["none"] == retain


def test_a_mosaic_has_the_size_of_the_picture_and_one_colour_a_tile():
    (original,) = (synthetic_result(plan) for plan in planned_trials() if plan.phase is Phase.ORIGINAL)
    image = next(row.image for row in original.samples if row.kind == "truth")
    before, after = (
        np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in (image, make_mosaic(image))
    )
    assert after.shape == before.shape
    side = before.shape[0] // TILES
    tiles = after.reshape(TILES, side, TILES, side, 3)
    assert np.all(tiles == tiles[:, :1, :, :1])
    means = before.reshape(TILES, side, TILES, side, 3).mean(axis=(1, 3))
    assert np.abs(tiles[:, 0, :, 0] - means).max() <= 1.0  # rounding


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (SWEEP_FILE, "shown"),
        ("data: {dataset: generated}", "shown"),
        ("data: {dataset: folder}", "veiled"),
        ("data: {dataset: imagenet}\nreport: {forget_images: null}", "veiled"),
        ("data: {dataset: folder}\nreport: {forget_images: shown}", "shown"),
        ("data: {dataset: digits}\nreport: {forget_images: none}", "none"),
        ("report: 3\ndata: []", "veiled"),
        ("", "veiled"),
        ("no mapping", "veiled"),
        ("a: [", "veiled"),
    ],
)
def test_the_images_decide_where_the_sweep_file_does_not(text, mode):
    assert forget_images_of(text) == mode


def test_the_key_of_the_sweep_file_lasts(tmp_path):
    path = write_run(str(tmp_path), sweep_file=SWEEP_FILE + "report: {forget_images: none}\n")
    assert call("report", path).returncode == 0
    assert "This page holds no picture of a forget image" in Path(path, "report.html").read_text()


def test_a_page_without_forget_pictures_does_not_get_them_back_from_others_that_write_it(run_path):
    page = Path(run_path, "report.html")
    for mode, kept in (("none", "none"), ("veiled", "veiled"), ("shown", "shown")):
        assert call("report", run_path, "--forget-images", mode).returncode == 0
        asked = pictures(page)
        assert call("report", run_path).returncode == 0
        assert pictures(page) == asked
        assert f'<meta name="forget-images" content="{kept}">' in page.read_text()


def test_an_unknown_mode_is_refused(run_path):
    done = call("report", run_path, "--forget-images", "blurred")
    assert (done.returncode, "shown, veiled, none" in done.stderr) == (2, True)
