"""Writes what the shipped sheets cost into their heads, as `sweep --dry-run --card h100` computes it.

uv run python docs/make_costs.py
"""

from pathlib import Path

from pareto_unlearn.config import load_config
from pareto_unlearn.sweep.card_costs import cost_table, predict_on_card

SWEEPS = Path(__file__).parent.parent / "sweeps"
SHEETS = tuple(
    folder / f"{name}.yaml"
    for folder in (SWEEPS, SWEEPS / "quick")
    for name in ("imagenet_mae", "imagenet_vqgan", "places_diffusion")
)
START, END = "# cost\n", "# end of cost\n"


def main() -> None:
    """Write the table of every sheet."""
    for path in SHEETS:
        path.write_text(with_costs(path))


def with_costs(path: Path) -> str:
    """Return the text of a sheet with its table as it must be."""
    text = path.read_text()
    before, rest = text.split(START, 1)
    _, after = rest.split(END, 1)
    name = path.relative_to(SWEEPS.parent)
    lines = [
        f"`pareto-unlearn sweep {name} --dry-run --card h100`: GPU-hours on one H100, computed, not "
        "measured;",
        "reading the image files for the first time is not in it",
        "",
        *cost_table(predict_on_card(load_config(path), "h100")),
    ]
    table = "".join(f"#   {line}".rstrip() + "\n" for line in lines)
    return f"{before}{START}{table}{END}{after}"


if __name__ == "__main__":
    main()
