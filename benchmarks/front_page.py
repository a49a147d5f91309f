"""Writes the section "Fronts at an equal budget" of docs/benchmarks.md from the files that fronts.py wrote.

    uv run python benchmarks/front_page.py benchmarks/results/fronts.parquet docs/benchmarks.md

Only the part between the two markers of the section is replaced. Every sentence about a winner is computed
from the numbers.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from front_methods import METHODS, OURS
from front_scores import ASKED, SCAN_SEED
from page_section import replace_section

MAIN = OURS[0]

PROBLEM_NOTES = {
    "digits_random": "the embedded masked autoencoder of 16-pixel digits (62,608 parameters, centre removed) "
    "forgets a random half of its training images and keeps the other half: no class structure",
    "identities": "a masked autoencoder of 32-pixel colour pictures (trained here) forgets ten people and "
    "keeps ten others; the people are a GAN's, sixty pictures each",
    "emoji": "the same network, trained on 894 coloured emoji, forgets faces, food, sport and transport and "
    "keeps five other kinds",
    "digits_classes": "the masked autoencoder of digits forgets digits 0 to 4 and keeps 5 to 9",
    "digits_encoder": "as `digits_classes`, with encoder outputs compared and the decoder frozen",
    "conv_autoencoder": "a convolutional autoencoder of whole images (18,137 parameters, bottleneck of "
    "16), trained by the benchmark, forgets digits 0 to 4",
    "closed_form": "two random ellipsoids (20 dimensions, condition 30) with noisy gradients; there are no "
    "held-out images",
}
"""The headline problems first: without classes, or of natural colours."""
REMARKS = {
    "digits_random": "Why MUNBa is ahead of the path below e = .35 on training images: on seed 0 it holds e "
    "near .4, at a loss near 28 %, for most of its run, and then both fall together while the network learns "
    "which images are which. The path asks for e = .015 after 13 % of its steps; the loss is then beyond "
    "that of a constant output, and it comes down from there more slowly. Descents over 45 and 70 % of the "
    "steps end with the same losses. On held-out images the two are close at e = .2, and the path is ahead "
    "above.",
}
"""What was found out about a result."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a problem's table: its source, factor and format, and which value is best."""

    title: str
    source: str
    form: Callable[[float], str]
    best: Callable[[pd.Series], float] | None
    factor: float = 1.0


def _percent(value: float) -> str:
    return f"{value:.3g}" if value < 100.0 else f"{value:.0f}"


LOSSES = tuple(f"loss_{level:g}" for level in (0.05, 0.1, 0.2, 0.35, 0.5))
COLUMNS = (
    *(
        Column(f"e {name.removeprefix('loss_')}", name, _percent, pd.Series.min, 100.0)
        for name in (*LOSSES, "loss_mean")
    ),
    Column("area 5 %", "area_0.05", "{:.3f}".format, pd.Series.max),
    Column("area 100 %", "area_1", "{:.3f}".format, pd.Series.max),
    Column("hit error", "hit_error", "{:.3f}".format, pd.Series.min),
)
TITLES = {"e mean": "mean"}
MAIN_SCORE = "loss_mean"
"""The geometric mean of the losses at the five levels: what the sentences about winners compare."""


def main() -> None:
    """Read models and scores, and replace the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    models = pd.read_parquet(options.models)
    scores = pd.read_parquet(options.models.with_name(f"{options.models.stem}_scores.parquet"))
    replace_section(options.page, "fronts", render(models, scores))


def render(models: pd.DataFrame, scores: pd.DataFrame) -> str:
    """Return the section as Markdown."""
    known = [name for name in PROBLEM_NOTES if name in set(scores.problem)]
    parts = [_header(scores), _summary(scores, known), *_missing(scores, known)]
    for name in known:
        parts += [f"### {name}", _problem(models, scores[scores.problem == name], name)]
    parts += ["### Methods", _methods(scores)]
    return "\n\n".join(parts)


def _header(scores: pd.DataFrame) -> str:
    facts = scores.attrs
    levels = ", ".join(f"{level:g}" for level in ASKED)
    return f"""## Fronts at an equal budget

`{facts["command"]}`, then
`uv run python benchmarks/front_page.py benchmarks/results/fronts.parquet docs/benchmarks.md`.
{facts["cpu"]}, {facts["cores"]} cores of which one is used, torch {facts["torch"]}, Python {facts["python"]},
{facts["date"]}.

Every method gets {int(facts["budget"]):,} gradient pairs (one gradient of the forget and one of the retain
loss, 16 + 16 images) from the original, the same scan of its learning rate (on seed {SCAN_SEED}, which is not
reported: a half, one and two times a base rate, and up to two beyond an edge), and all that we have: methods
that can be one run are one run with 30 checkpoints of averaged weights, and the pool of every method is mixed
with the original at the levels {levels}
of e by the same dial. The path alone has a limit of its steps, a pull towards the original, and four mixtures
with it among its checkpoints. What is scored are a method's models at those levels, and its most complete
one.

e = (f1 - floor) / (f1(original) - floor), the mean over the images to forget; the loss f2 is in % of the
variance of the original's outputs on the retain images. Both are measured over whole sets. The loss on
held-out retain images, which no method has seen, comes first. In both tables e is that of the training
images: they are the ones to forget.

- e .05 to .5: least loss among the models with e of at most that level; mean: their geometric mean.
- area: share of the box from e 0 to 1 and loss 0 to 5 % or 100 % that the models dominate. Neither box
  depends on a run.
- hit error: mean of |e - level| over the levels, with e of the held-out forget images in the held-out table.
- pairs: gradient pairs, and in brackets those that measuring whole training sets amounts to (a pass without
  gradient is a third of one with)."""


def _summary(scores: pd.DataFrame, known: list[str]) -> str:
    """Return a table with one line per problem: who is first, and the best rival's ratio to our default.

    By the geometric mean over all five levels; a method that misses one of them has none.
    """
    lines = [
        "By the mean over all five levels; a method whose models do not reach e = .05 has none:",
        "",
        "| problem | split | first | best rival | its loss / that of `path` | beyond the seeds' spread |",
        "|---|---|---|---|---|---|",
    ]
    for name in known:
        for split in ("heldout", "train"):
            rows = scores[(scores.problem == name) & (scores.split == split)]
            if len(rows):
                lines.append(f"| {name} | {_plain(split)} | {_race(rows)} |")
    return "\n".join(lines)


def _missing(scores: pd.DataFrame, known: list[str]) -> list[str]:
    """Return what was not run, in sentences: problems, and methods that were run on some problems alone."""
    others = [name for name in PROBLEM_NOTES if name not in known]
    lines = [f"Not run yet: {', '.join(others)}."] if others else []
    run_on = scores.groupby("method").problem.unique().map(set)
    for place in sorted({tuple(sorted(names)) for names in run_on if len(names) < len(known)}):
        methods = ", ".join(f"`{name}`" for name in run_on.index if run_on[name] == set(place))
        lines.append(f"On {', '.join(place)} alone: {methods}.")
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _ahead(rows: pd.DataFrame) -> str:
    """Return in words which rivals are ahead of our default, and where."""
    means = {
        column.title: rows.groupby("method")[column.source].apply(_mean_of(column.source))
        for column in COLUMNS
    }
    found: dict[str, list[str]] = {}
    for column in COLUMNS:
        ours = means[column.title].get(MAIN, math.nan)
        for method, value in means[column.title].items():
            better = value < ours if column.best is pd.Series.min else value > ours
            if better and not _is_ours(str(method)):
                found.setdefault(str(method), []).append(TITLES.get(column.title, column.title))
    if not found:
        return f"No rival is ahead of `{MAIN}` anywhere."
    return (
        f"Ahead of `{MAIN}`: "
        + "; ".join(f"{name} ({', '.join(where)})" for name, where in found.items())
        + "."
    )


def _race(rows: pd.DataFrame) -> str:
    """Return the cells of a problem and split in the summary."""
    means = _geometric(rows).dropna().sort_values()
    rivals = [method for method in means.index if not _is_ours(method)]
    if MAIN not in means.index or not rivals:
        return f"{means.index[0]} | - | - | -"
    ratio = means[rivals[0]] / means[MAIN]
    spread = _spread(rows, MAIN) * _spread(rows, rivals[0])
    verdict = "yes" if max(ratio, 1 / ratio) > spread else "no"
    return f"{means.index[0]} | {rivals[0]} | {ratio:.2f} | {verdict} (factor {spread:.2f}) |".rstrip(" |")


def _is_ours(method: str) -> bool:
    return method in OURS or method.startswith("path")


def _geometric(rows: pd.DataFrame) -> pd.Series:
    """Return the geometric mean of the main score over seeds, by method; NaN where a seed has none."""
    logs = np.log(rows[MAIN_SCORE])
    return np.exp(
        logs.groupby(rows.method).mean(numeric_only=True).where(~logs.isna().groupby(rows.method).any())
    )


def _spread(rows: pd.DataFrame, method: str) -> float:
    """Return the factor of one standard deviation of the main score over seeds."""
    logs = np.log(rows[rows.method == method][MAIN_SCORE])
    return float(np.exp(logs.std(ddof=1))) if len(logs) > 1 else math.inf


def _problem(models: pd.DataFrame, scores: pd.DataFrame, name: str) -> str:
    seeds = ", ".join(map(str, sorted(scores.seed.unique())))
    note = PROBLEM_NOTES[name]
    lines = [f"{note[0].upper()}{note[1:]}. Seeds {seeds}.", ""]
    ends = scan_ends(models[models.problem == name])
    for split in ("heldout", "train"):
        rows = scores[scores.split == split]
        if len(rows):
            title = f"**{_plain(split)[0].upper()}{_plain(split)[1:]} images.** {_ahead(rows)}"
            lines += [title, "", _table(rows, ends), ""]
    lines += [REMARKS[name]] if name in REMARKS else []
    return "\n".join(lines).rstrip()


def _plain(split: str) -> str:
    return {"train": "training", "heldout": "held-out"}[split]


def scan_ends(models: pd.DataFrame) -> set[tuple[str, float]]:
    """Return the (method, rate) at both ends of the scan of each method of a problem."""
    ends = models[models.seed == SCAN_SEED].groupby("method").rate.agg(["min", "max"])
    return {(str(method), float(rate)) for method, row in ends.iterrows() for rate in row}


def _table(rows: pd.DataFrame, ends: set[tuple[str, float]]) -> str:
    """Return the table of a problem and split; ``ends`` are the (method, rate) that get a star."""
    by_method = rows.groupby("method")
    means = {column.source: by_method[column.source].apply(_mean_of(column.source)) for column in COLUMNS}
    order = means[MAIN_SCORE].sort_values(na_position="last").index
    titles = [TITLES.get(column.title, column.title) for column in COLUMNS]
    lines = [
        "| method | " + " | ".join(titles) + " | lr | pairs |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for method in order:
        cells = [_cell(column, means[column.source], method) for column in COLUMNS]
        spread = _spread(rows, method)
        cells[len(LOSSES)] += f" x/ {spread:.2f}" if math.isfinite(spread) else ""
        own = rows[rows.method == method]
        rate = float(own.rate.iloc[0])
        star = "*" if (method, rate) in ends else ""
        pairs = f"{own.pairs.mean():.0f} (+{own.measuring.mean():.0f})"
        lines.append(f"| {_label(method)} | " + " | ".join(cells) + f" | {rate:g}{star} | {pairs} |")
    return "\n".join(lines)


def _mean_of(source: str) -> Callable[[pd.Series], float]:
    """Return the mean over seeds: geometric for losses, NaN where a seed has none."""
    if source.startswith("loss"):
        return lambda values: float(np.exp(np.log(values).mean(skipna=False)))
    return lambda values: float(values.mean())


def _cell(column: Column, means: pd.Series, method: str) -> str:
    value = means[method]
    if not math.isfinite(value):
        return "-"
    text = column.form(column.factor * value)
    best = column.best is not None and text == column.form(column.factor * column.best(means.dropna()))
    return f"**{text}**" if best else text


def _label(method: str) -> str:
    return f"{method} (ours)" if _is_ours(method) else method


def _methods(scores: pd.DataFrame) -> str:
    run = set(scores.method)
    lines = [f"- `{name}`: {method.note}." for name, method in METHODS.items() if name in run]
    intro = (
        "Unless it says otherwise: Adam (.9, .99) on the direction of the rule, coefficients from averages "
        "(.9), half a cosine to 2 % of the learning rate, an eleventh of the budget for each model where "
        "each has a run of its own, losses in e and share of variance with the mean of 2,048 noise outputs "
        "as target. Paths and courses use half of the learning rate in the table; a star marks a rate at an "
        "end of its scan. Where a method weighs losses, f2 counts in units of the loss of a highest boundary "
        "solved in 240 steps."
    )
    return "\n".join([intro, "", *lines])


if __name__ == "__main__":
    main()
