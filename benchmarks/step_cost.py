"""What a step of the solver costs against a composite-loss step, a naive two-gradient step and two libraries.

    uv run --group benchmarks python benchmarks/step_cost.py

The libraries are torchjd and cooper. All ways run on the embedded masked autoencoder with the same images,
one thread, one process; on a GPU where there is one. They take turns in short rounds, so that a machine whose
speed drifts slows all of them alike; the table gives medians over rounds of the ratio to the composite step.
On a CPU the clock is the time of the process, on a GPU the wall clock around synchronised rounds.

Each way is checked. If its first step leaves the direction in the parameters' gradients, this direction must
be the stated combination of autograd's two gradients. After the last round f1 and f2 must be finite.

Writes one row per round to benchmarks/results/step_cost.parquet (rows of another kind of device stay), and
from all rows benchmarks/step_cost.md and the section of docs/benchmarks.md.
"""

import argparse
import importlib.util
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from machine import machine_facts
from page_section import replace_section
from step_ways import WAYS, Step, both_losses
from torch import Tensor

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.trial import Material, load_material
from pareto_unlearn.trial.measuring import measure_costs

ROUNDS, WARM_UP_ROUNDS, STEPS, BATCHES = 15, 2, 5, (32, 128)
BASELINE = "composite"
ROOT = Path(__file__).parent.parent
SWEEP = ROOT / "sweeps" / "quickstart.yaml"
COMMAND = "uv run --group benchmarks python benchmarks/step_cost.py"
PEER_MODULES = ("torchjd", "quadprog", "qpsolvers", "cooper")
NUDGE, TOLERANCE = 0.05, 1e-3
"""Size of the nudge of the weights before the first step; allowed relative error of its direction."""

Row = dict[str, str | int | float | None]


@dataclass(slots=True)
class Runner:
    """A way at work; ``own_bytes`` is the GPU memory it holds between steps."""

    step: Step
    config: SweepConfig
    material: Material
    own_bytes: int
    taken: int = 1

    def run_round(self) -> tuple[float, int | None]:
        """Take some steps; return seconds per step, and on a GPU the peak bytes that this way alone took."""
        before = _allocated()
        if before is not None:
            torch.cuda.reset_peak_memory_stats()
        started = _now()
        for _ in range(STEPS):
            self.step(self.taken)
            self.taken += 1
        seconds = (_now() - started) / STEPS
        return (
            seconds,
            None if before is None else self.own_bytes + torch.cuda.max_memory_allocated() - before,
        )

    def check_losses(self, name: str) -> None:
        """Stop the program if f1 or f2 over whole training sets is not finite."""
        costs = measure_costs(self.material, limit=2048)
        if not all(map(math.isfinite, costs)):
            raise SystemExit(f"{name}: f1 and f2 are {costs} after the rounds: its times mean nothing")


def main() -> None:
    """Time every way at every batch size, and write results, table and section."""
    options = _parse()
    require_peers()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        for batch in BATCHES:
            rows += measure(batch, Path(cache), options.rounds)
    facts = machine_facts()
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name()}
    table = pd.DataFrame(rows).astype({"peak_bytes": "Int64"}).assign(device=_device(), **facts)
    write(options, _with_other_devices(options.results, table))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "step_cost.parquet")
    parser.add_argument("--table", type=Path, default=ROOT / "benchmarks" / "step_cost.md")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    return parser.parse_args()


def require_peers() -> None:
    """Stop the program if a library to compare with is not installed."""
    missing = [name for name in PEER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"step_cost: not installed: {', '.join(missing)}; run `{COMMAND}`, which installs them"
        )


def measure(batch: int, cache: Path, rounds: int) -> list[Row]:
    """Return one row per way and round, without the warm-up rounds."""
    runners = {name: start(name, batch, cache) for name in WAYS}
    rows: list[Row] = []
    for number in range(-WARM_UP_ROUNDS, rounds):
        for name, runner in runners.items():
            seconds, peak = runner.run_round()
            if number >= 0:
                rows.append(
                    {"batch": batch, "way": name, "round": number, "seconds": seconds, "peak_bytes": peak}
                )
        print(f"batch {batch}+{batch}: round {number + 1} of {rounds}", file=sys.stderr)
    for name, runner in runners.items():
        runner.check_losses(name)
    return rows


def start(name: str, batch: int, cache: Path) -> Runner:
    """Load a fresh model, take the first step of a way and check where it went."""
    way, before = WAYS[name], _allocated()
    fixed = ["solver.completeness=mean", f"solver.batch={batch}", "solver.steps=100000"]
    gpus = f"run.gpus_per_trial={int(torch.cuda.is_available())}"
    config = load_config(SWEEP, [*fixed, gpus, *way.overrides])
    material = load_material(config, cache, "step-cost")
    _nudge(material)
    expected = None
    if way.coefficients is not None:
        f1, g1, g2 = autograd_gradients(config, material)
        c1, c2 = way.coefficients(material, f1, g1, g2)
        expected = c1 * g1 + c2 * g2
    step = way.build(config, material)
    step(0)
    if expected is not None:
        _check_direction(name, expected, material)
    return Runner(step, config, material, 0 if before is None else (_allocated() or 0) - before)


def _nudge(material: Material) -> None:
    """Move every weight a little: at the original f2 and its gradient are zero, which checks nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in material.model.parameters():
            parameter *= 1.0 + NUDGE * torch.randn(parameter.shape, generator=generator).to(parameter.device)


def autograd_gradients(config: SweepConfig, material: Material) -> tuple[Tensor, Tensor, Tensor]:
    """Return f1 of the first batch and the flat gradients of f1 and f2."""
    parameters = list(material.model.parameters())
    losses = both_losses(config, material, 0)
    g1, g2 = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses)
    return losses[0].detach(), torch.cat([g.flatten() for g in g1]), torch.cat([g.flatten() for g in g2])


def _check_direction(name: str, expected: Tensor, material: Material) -> None:
    found = torch.cat([p.grad.flatten() for p in material.model.parameters() if p.grad is not None])
    error = float((found - expected).norm() / expected.norm()) if len(found) == len(expected) else math.inf
    print(f"{name}: its direction is autograd's within {error:.1e}", file=sys.stderr)
    if not error < TOLERANCE:
        raise SystemExit(
            f"{name}: the direction of its first step is off by {error:.2g}, allowed {TOLERANCE:g}"
        )


def write(options: argparse.Namespace, table: pd.DataFrame) -> None:
    """Write the rows, the table and the section of the page."""
    options.results.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(options.results, index=False)
    text = render(table)
    options.table.write_text(f"# Cost of a step\n\n{text}\n")
    replace_section(options.page, "step-cost", f"## Cost of a step\n\n{text}")


def _with_other_devices(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, with the rows of another kind of device that the file holds already."""
    if not path.is_file():
        return table
    before = pd.read_parquet(path)
    kept = before[~before.device.isin(table.device.unique())]
    return pd.concat([kept, table], ignore_index=True) if len(kept) else table


def render(table: pd.DataFrame) -> str:
    """Return the whole text but for its heading."""
    parts = [
        f"`{COMMAND}`: the embedded masked autoencoder (62,608 parameters), one thread, all ways in one "
        f"process in turns of {STEPS} steps. Milliseconds are medians over rounds; the ratio is to the "
        "composite step of the same round, median and quartiles."
    ]
    parts += [_device_part(rows) for _, rows in table.groupby("device", sort=True)]
    parts.append("\n".join(f"- `{name}`: {way.note}." for name, way in WAYS.items()))
    parts.append(
        "A step of all ways sees the same number of images. `composite` and `cooper` take one gradient, of "
        "a weighted sum; all others take that of f1 and that of f2, which is what a direction with a "
        "guarantee for the constraint needs. All but ours run both batches through the model as one."
    )
    return "\n\n".join(parts)


def _device_part(rows: pd.DataFrame) -> str:
    """Return machine and table of one kind of device."""
    first, on_gpu = rows.iloc[0], bool((rows.device == "cuda").all())
    hardware = str(first["gpu"]) if on_gpu else f"{first['cpu']}, time of the process"
    rounds = int(rows["round"].max()) + 1
    batches = sorted(rows.batch.unique())
    columns = ["ms", "ratio", *(["peak MiB"] if on_gpu else [])]
    header = [f"{column}, {batch}+{batch}" for batch in batches for column in columns]
    lines = [
        f"{hardware}, torch {first['torch']}, Python {first['python']}, {first['date']}, {rounds} rounds.",
        "",
        "| way | " + " | ".join(header) + " |",
        "|---" * (len(header) + 1) + "|",
    ]
    for name in (name for name in WAYS if name in set(rows.way)):
        cells = [cell for batch in batches for cell in _cells(rows[rows.batch == batch], name, on_gpu=on_gpu)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(rows: pd.DataFrame, name: str, *, on_gpu: bool) -> list[str]:
    """Return milliseconds, ratio and, of a GPU, memory of a way at one batch size."""
    own = rows[rows.way == name].set_index("round")
    ratio = own.seconds / rows[rows.way == BASELINE].set_index("round").seconds
    low, middle, high = ratio.quantile([0.25, 0.5, 0.75])
    memory = [f"{own.peak_bytes.median() / 2**20:.1f}"] if on_gpu else []
    return [f"{1e3 * own.seconds.median():.2f}", f"{middle:.2f} ({low:.2f} to {high:.2f})", *memory]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _allocated() -> int | None:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else None


def _now() -> float:
    """Return seconds: of the process on a CPU, of the wall clock on a GPU after all its work is done."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
