"""``check-family``: every family of the package passes, and a model that breaks a promise fails."""

from pathlib import Path

import pytest
from command_line import call

from pareto_unlearn.catalogue.families import FAMILIES
from pareto_unlearn.catalogue.family_lookup import find_family
from pareto_unlearn.conformance import check_family

EXAMPLE = Path(__file__).parent.parent / "examples" / "autoencoder" / "family.py"


MARKS = {"mae": pytest.mark.slow, "mage": pytest.mark.nightly, "palette": pytest.mark.nightly}
"""Seconds on one core; mage half a minute, palette a whole one."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(row.name, marks=MARKS.get(row.name, ())) for row in FAMILIES],
)
def test_every_family_of_the_package_keeps_its_promises(name):
    checks = list(check_family(name))
    assert [one for one in checks if not one.passed] == []
    text = "\n".join(one.expected for one in checks)
    for part in ("in any batch", "no influence", "no other", "loads again", "retain_label", "space encoder"):
        assert part in text
    assert ("perfect_output has the shape of the outputs" in text) == find_family(name).paints_pixels


BROKEN = """
class Leaky(Autoencoder):
    def hide(self, inputs):
        return inputs

    def generate(self, images, generators):
        return 2.0 * super().generate(images, generators)


def build(setting):
    return Leaky(8, build_hole(setting.task, SIDE, 8, setting.seed))


PIXELS = PixelFormat(side=SIDE, channels=3)
FAMILY = plain_family(replace(ROW, spaces=("output",), baselines=()), build, PIXELS)
"""


def test_a_broken_promise_is_named_and_ends_with_code_1(tmp_path):
    path = tmp_path / "leaky.py"
    path.write_text(EXAMPLE.read_text() + "from dataclasses import replace\n" + BROKEN)
    done = call("check-family", f"{path}:FAMILY", "--allow-import")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert failed[0].startswith(
        "FAIL  generate returns (3, 3, 32, 32) torch.float32 in [0, 1]: (3, 3, 32, 32)"
    )
    assert failed[1].startswith(
        "FAIL  pixels in the hole have no influence on the picture: largest difference"
    )


def test_an_unknown_family_is_no_bug():
    done = call("check-family", "nothing")
    assert done.returncode == 3
    assert "expected one of `digits_mae`, `mae`, `mage`, `palette`, found the text `nothing`" in done.stderr
