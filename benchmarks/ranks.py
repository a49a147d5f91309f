"""How far a trial that several ranks solve is from that of one process: f1, f2 and weights after 50 steps.

    uv run python benchmarks/ranks.py
    uv run python benchmarks/ranks.py --family mae

The ranks are threads that meet as processes would (tests/test_ranks.py), on every family at its tiny size. No
batch of five images is split evenly.

Writes a section of docs/clusters.md; with --family it only prints.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from machine import machine_facts
from page_section import replace_section
from torch import Tensor

from pareto_unlearn.trial import Trial
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.problem import trained_parameters

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))
from test_ranks import EQUAL, difference, half_way, solved  # noqa: E402 - a folder of scripts, no package
from tiny_families import FAMILIES, load_on_generated  # noqa: E402 - as above

COMMAND = "uv run python benchmarks/ranks.py"
STEPS = 50
RANKS = (2, 3)
NOTE = (
    "Biases of keys change no output. The tiny `palette` has more such weights: its norms have a group for "
    "each channel, so biases of convolutions before them do nothing either; that these are the 384 was not "
    "looked at."
)


class Row(NamedTuple):
    """The largest differences of a family, and how many weights differ by more than ``EQUAL``.

    ``rest`` is the largest difference of a weight that is no bias of attention's keys, ``off_rest`` the
    number of those that differ by more.
    """

    family: str
    ranks: int
    f1: float
    f2: float
    weights: float
    rest: float
    off: int
    off_rest: int
    count: int


def key_biases(family: str, folder: Path) -> Tensor:
    """Return which of the trained weights, as one vector, are biases of attention's keys."""
    config, material = load_on_generated(family, folder, "solver.batch=5")
    trial = Trial(config, half_way(material), material)
    names = {id(one): name for name, one in material.model.named_parameters()}
    pieces = []
    for parameter in trained_parameters(trial, build_problem(trial)):
        piece = torch.zeros(parameter.numel(), dtype=torch.bool)
        if names[id(parameter)].endswith(".qkv.bias"):
            attention = material.model.get_submodule(names[id(parameter)].removesuffix(".qkv.bias"))
            # Queries, keys, values: of each head with palette, else of all heads together.
            groups = attention.heads if isinstance(attention.qkv, torch.nn.Conv1d) else 1
            piece.view(groups, 3, -1)[:, 1] = True
        pieces.append(piece)
    return torch.cat(pieces)


def measure(family: str) -> list[Row]:
    """Return a row for each number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        is_key = key_biases(family, place)
        alone, *others = (solved(family, place / str(size), size, STEPS) for size in (1, *RANKS))
    rows = []
    for ranks, found in zip(RANKS, others, strict=True):
        gaps = (alone[2] - found[2]).abs()
        off, rest = gaps > EQUAL, gaps[~is_key]
        counts = int(off.sum()), int((off & ~is_key).sum()), len(gaps)
        rows.append(Row(family, ranks, *difference(alone, found), float(rest.max()), *counts))
    return rows


def render(rows: list[Row]) -> str:
    """Return the section: what was measured where, and the table."""
    facts = machine_facts()
    lines = [
        f"`{COMMAND}`: the largest differences from one process after {STEPS} steps of tiny families, five "
        f"images a batch. {facts['cpu']}, torch {facts['torch']}, {facts['date']}.",
        "",
        "| family | ranks | f1 | f2 | weights | weights without biases of keys | of the weights, more than "
        f"{EQUAL:g} off | of these no biases of keys |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        numbers = " | ".join(f"{value:.1e}" for value in (row.f1, row.f2, row.weights, row.rest))
        lines.append(
            f"| `{row.family}` | {row.ranks} | {numbers} | {row.off} of {row.count:,} | {row.off_rest} |"
        )
    return "\n".join([*lines, "", NOTE])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, action="append", help="all unless given")
    options = parser.parse_args()
    text = render([row for family in options.family or FAMILIES for row in measure(family)])
    sys.stdout.write(f"{text}\n")
    if not options.family:
        replace_section(ROOT / "docs" / "clusters.md", "ranks", text)


if __name__ == "__main__":
    main()
