"""What the published models cost: work of one image, sizes, and the GPUs on which both are turned into hours.

Counted on the models themselves (a test counts again); the shares of a GPU's peak are assumptions, chosen
below what such networks are known to reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pareto_unlearn.errors import ConfigError

MEASURING_SHARE = 0.6
"""Of a GPU's float32 peak, in all that is measured."""
FLAT_PASSES = 63
"""Reads and writes of the vector of trained weights in a step."""
FLAT_VECTORS = 10
"""Vectors of that length on the GPU: weights, gradients, Adam's moments, averages, and room to add them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What f1 and f2 compare in one space: operations of a pass forward, values, and what is trained.

    ``saved`` are the bytes that a pass forward keeps for the gradient of one image, in float32.
    """

    flops: float
    values: int
    trained: int
    saved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantCost:
    """What a size of a family costs, with a central hole of 8 x 8 patches; operations are those of one image.

    ``prepare`` turns pixels into inputs, of ``input_bytes``, which are stored; ``picture`` is what a picture
    takes once, and ``rounds`` of ``space_output`` besides. ``step_share`` is the share of a GPU's bfloat16
    peak that steps are taken to reach.
    """

    side: int
    parameters: int
    encoder: Space
    output: Space
    prepare: float
    picture: float
    rounds: int
    input_bytes: int
    step_share: float

    def space(self, name: str) -> Space:
        """Return the costs in ``objective.space``."""
        return self.encoder if name == "encoder" else self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU: operations and bytes a second, and bytes of memory, as its maker states them."""

    title: str
    bfloat16: float
    float32: float
    bandwidth: float
    memory: float


CARDS: Mapping[str, Card] = {
    "a100": Card(title="A100 80 GB", bfloat16=312e12, float32=19.5e12, bandwidth=2.04e12, memory=80e9),
    "h100": Card(title="H100", bfloat16=989e12, float32=67e12, bandwidth=3.35e12, memory=80e9),
    "h200": Card(title="H200", bfloat16=989e12, float32=67e12, bandwidth=4.8e12, memory=141e9),
}

COSTS: Mapping[tuple[str, str], VariantCost] = {
    ("mae", "vit_base"): VariantCost(
        side=224,
        parameters=111_907_840,
        encoder=Space(flops=23.48e9, values=102_144, trained=85_647_360, saved=100_900_000),
        output=Space(flops=34.29e9, values=150_528, trained=111_655_680, saved=181_300_000),
        prepare=0.0,
        picture=0.0,
        rounds=1,
        input_bytes=0,
        step_share=0.2,
    ),
    ("mae", "vit_large"): VariantCost(
        side=224,
        parameters=329_541_888,
        encoder=Space(flops=82.38e9, values=136_192, trained=303_099_904, saved=265_600_000),
        output=Space(flops=93.22e9, values=150_528, trained=329_239_296, saved=346_100_000),
        prepare=0.0,
        picture=0.0,
        rounds=1,
        input_bytes=0,
        step_share=0.2,
    ),
    ("mage", "vit_base"): VariantCost(
        side=256,
        parameters=200_990_061,
        encoder=Space(flops=46.09e9, values=197_376, trained=85_254_912, saved=210_200_000),
        output=Space(flops=77.83e9, values=262_144, trained=144_896_745, saved=361_700_000),
        prepare=257.5e9,
        picture=315.3e9,
        rounds=6,
        input_bytes=2 * 256 * 8,
        step_share=0.2,
    ),
    ("palette", "places2"): VariantCost(
        side=256,
        parameters=62_653_347,
        encoder=Space(flops=102.2e9, values=22_282_240, trained=24_961_984, saved=658_000_000),
        output=Space(flops=413.3e9, values=196_608, trained=62_641_347, saved=2_041_100_000),
        prepare=0.0,
        picture=0.0,
        rounds=2000,
        input_bytes=0,
        step_share=0.1,
    ),
}


def card_of(name: str) -> Card:
    """Return a GPU by its name.

    Raises:
        ConfigError: it is none of those that are known.
    """
    if name not in CARDS:
        raise ConfigError(f"--card: expected one of {', '.join(CARDS)}, found {name}")
    return CARDS[name]


def cost_of(family: str, variant: str) -> VariantCost:
    """Return what a size of a family costs.

    Raises:
        ConfigError: it was never counted.
    """
    if (family, variant) not in COSTS:
        known = ", ".join(" ".join(key) for key in COSTS)
        raise ConfigError(
            f"--card: expected a model whose costs are known ({known}), found {family} {variant}; leave "
            "--card out to measure a few steps on this machine"
        )
    return COSTS[family, variant]
