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
from front_problems import build_closed_form
from front_scores import SCAN_SEED, TARGETS, front_hypervolume
from page_section import replace_section

MAIN = OURS[0]

PROBLEM_NOTES = {
    "digits_classes": "the embedded masked autoencoder of 16-pixel digits (62,608 parameters, centre "
    "removed) forgets digits 0 to 4 and keeps 5 to 9",
    "digits_random": "the same model forgets a random half of its training images and keeps the other "
    "half: no class structure",
    "digits_encoder": "as `digits_classes`, with encoder outputs compared and the decoder frozen",
    "conv_autoencoder": "a convolutional autoencoder of whole images (18,137 parameters, bottleneck of "
    "16), trained by the benchmark, forgets digits 0 to 4",
    "closed_form": "two random ellipsoids (20 dimensions, condition 30) with noisy gradients; the exact "
    "front is known, IGD+ is measured against it, and there are no held-out images",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a problem's table: its source, its format, and which value is best (None: no value)."""

    title: str
    source: str
    split: str
    form: str
    best: Callable[[pd.Series], float] | None


COLUMNS = (
    Column("HV train", "hypervolume", "train", "{:.3f}", pd.Series.max),
    Column("HV held-out", "hypervolume", "heldout", "{:.3f}", pd.Series.max),
    Column("IGD+ train", "igd_plus", "train", "{:.3f}", pd.Series.min),
    Column("IGD+ held-out", "igd_plus", "heldout", "{:.3f}", pd.Series.min),
    Column("epsilon-hit error", "hit_error", "train", "{:.3f}", pd.Series.min),
    Column("held-out", "hit_error", "heldout", "{:.3f}", pd.Series.min),
    Column("tau", "tau", "train", "{:.2f}", pd.Series.max),
    Column("not dominated", "non_dominated", "train", "{:.1f}", pd.Series.max),
    Column("lr", "rate", "train", "{:g}", None),
    Column("pairs", "pairs", "train", "{:.0f}", None),
)
SPREAD = ("hypervolume",)
"""Scores that are written with their standard deviation over seeds."""
RACES = (COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[4])
"""The columns that the sentences about winners compare."""


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
    budget = int(scores.attrs["budget"])
    known = [name for name in PROBLEM_NOTES if name in set(scores.problem)]
    parts = [_header(scores, budget), _summary(scores, budget, known)]
    for name in known:
        parts += [f"### {name}", _problem(models, scores[scores.problem == name], name, budget)]
    parts += ["### Budgets", _budgets(scores, budget, known), "### Methods", _methods()]
    return "\n\n".join(parts)


def _header(scores: pd.DataFrame, budget: int) -> str:
    facts = scores.attrs
    seeds = ", ".join(map(str, sorted(scores.seed.unique())))
    candidates = int(facts["candidates"])
    levels = f"{TARGETS[0]:g}, {TARGETS[1]:g}, ..., {TARGETS[-1]:g}"
    return f"""## Fronts at an equal budget

`{facts["command"]}`, then
`uv run python benchmarks/front_page.py benchmarks/results/fronts.parquet docs/benchmarks.md`.
{facts["cpu"]}, {facts["cores"]} cores of which one is used, torch {facts["torch"]}, Python {facts["python"]},
{facts["date"]}, seeds {seeds}.

Every method gets {budget:,} gradient pairs (one gradient of the forget and one of the retain loss, 16 + 16
images) and may end with 11 models, all from the original. e = (f1 - floor) / (f1(original) - floor); FVU = f2
/ variance of the original's outputs on the retain images. Both are measured over whole sets, training and
held-out images apart. The box was frozen before any run: e from 0 to 1, FVU from 0 to the FVU of a highest
boundary solved in 240 steps with seed {SCAN_SEED} (at most 1, the FVU of a constant output); the original,
(1, 0), belongs to every front. The learning rate of **every** method is the best of {candidates} by training
hypervolume on seed {SCAN_SEED}, which is not reported: {candidates * budget:,} pairs of scan for each method;
a star marks a rate at an end of the scan.

- HV: share of the box that a method's models dominate, mean +- standard deviation over seeds. IGD+: mean
  distance from the union front of all methods and seeds at this budget, in units of the box; smaller is
  better. Not dominated: number of different models that no other model of the same run dominates.
- Epsilon-hit error: mean of |e - level| over the levels {levels}. A method that takes an epsilon is judged by
  the model that it made for the level (`path+dial` by the mixture that the dial finds on training images);
  all others, generously, by the closest of their models.
- tau: Kendall's correlation between the knob and e; 1 = the knob is in order, a dash = there is no knob.
- Our methods with a path measure its checkpoints, and the dial its mixtures, over the whole training set;
  these passes are without gradients and are not counted. A mixture mixes the weights of two checkpoints; of
  the rivals only `soup` and `pamal`, which are mixtures, get any."""


def _problem(models: pd.DataFrame, scores: pd.DataFrame, name: str, budget: int) -> str:
    own = models[models.problem == name]
    heights = own.groupby("split", sort=False).fvu_max.first()
    box = ", ".join(f"{height:.4g} ({_plain(str(split))})" for split, height in heights.items())
    lines = [f"{PROBLEM_NOTES[name][0].upper()}{PROBLEM_NOTES[name][1:]}. FVU of the box: {box}.", ""]
    full = scores[scores.budget == budget]
    lines += [_sentences(full), "", _table(full, scan_ends(own, budget))]
    if name == "closed_form":
        missing = ", ".join(f"`{method}`" for method in METHODS if METHODS[method].kind != "scaled")
        lines += ["", f"Without a meaning here, and left out: {missing}. {_exact_sentence(own)}"]
    return "\n".join(lines)


def _plain(split: str) -> str:
    return {"train": "training", "heldout": "held-out"}[split]


def _columns(scores: pd.DataFrame) -> list[Column]:
    return [column for column in COLUMNS if column.split in set(scores.split)]


def _means(scores: pd.DataFrame, column: Column) -> pd.Series:
    """Return the mean of a score over seeds, by method."""
    rows = scores[scores.split == column.split]
    return rows.groupby("method")[column.source].mean()


def scan_ends(models: pd.DataFrame, budget: int) -> set[tuple[str, float]]:
    """Return the (method, rate) at both ends of the scan of each method of a problem."""
    scan = models[(models.seed == SCAN_SEED) & (models.budget == budget)]
    ends = scan.groupby("method").rate.agg(["min", "max"])
    return {(str(method), float(rate)) for method, row in ends.iterrows() for rate in row}


def _table(scores: pd.DataFrame, ends: set[tuple[str, float]]) -> str:
    """Return the table of a problem; ``ends`` are the (method, rate) that get a star."""
    columns = _columns(scores)
    means = {column.title: _means(scores, column) for column in columns}
    order = means[COLUMNS[0].title].sort_values(ascending=False).index
    lines = [
        "| method | " + " | ".join(column.title for column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for method in order:
        cells = [_cell(scores, column, means[column.title], method) for column in columns]
        starred = (method, float(means["lr"][method])) in ends
        cells[-2] += "*" if starred else ""
        lines.append(f"| {_label(method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _label(method: str) -> str:
    return f"{method} (ours)" if method in OURS else method


def _cell(scores: pd.DataFrame, column: Column, means: pd.Series, method: str) -> str:
    value = means[method]
    if not math.isfinite(value):
        return "-"
    text = column.form.format(value)
    best = column.best is not None and text == column.form.format(column.best(means))
    if column.source in SPREAD:
        rows = scores[(scores.split == column.split) & (scores.method == method)][column.source]
        text += f" +- {rows.std(ddof=1):.3f}" if len(rows) > 1 else ""
    return f"**{text}**" if best else text


def _sentences(scores: pd.DataFrame) -> str:
    """Return in words who wins each race, and every rival that is ahead of our main method."""
    texts = []
    for column in RACES:
        if column not in _columns(scores):
            continue
        means = _means(scores, column).dropna()
        ranked = means.sort_values(ascending=column.best is pd.Series.min)
        first, second = ranked.index[0], ranked.index[1]
        name = column.title if "HV" in column.title or "IGD" in column.title else f"{column.title} (train)"
        texts.append(
            f"{name}: **{_label(first)}** {ranked.iloc[0]:.3f}, then {_label(second)} "
            f"{ranked.iloc[1]:.3f}{_ahead(ranked)}."
        )
    return " ".join(texts)


def _ahead(ranked: pd.Series) -> str:
    """Return in words the rivals ranked above our main method, or that there are none."""
    if MAIN not in ranked.index:
        return ""
    rivals = [name for name in ranked.index[: ranked.index.get_loc(MAIN)] if name not in OURS]
    if not rivals:
        return f"; no rival is ahead of {MAIN}"
    return f"; ahead of {MAIN} ({ranked[MAIN]:.3f}): {', '.join(rivals)}"


def _summary(scores: pd.DataFrame, budget: int, known: list[str]) -> str:
    """Return a table with one line per race: on how many problems a method of ours is first."""
    lines = ["| score | a method of ours is first | first on each problem |", "|---|---|---|"]
    for column in RACES:
        firsts = {}
        for name in known:
            rows = scores[
                (scores.problem == name) & (scores.budget == budget) & (scores.split == column.split)
            ]
            if len(rows):
                means = _means(rows, column).dropna()
                firsts[name] = means.idxmin() if column.best is pd.Series.min else means.idxmax()
        count = sum(method in OURS for method in firsts.values())
        each = ", ".join(f"{name}: {method}" for name, method in firsts.items())
        lines.append(f"| {column.title} | {count} of {len(firsts)} problems | {each} |")
    return "\n".join(lines)


def _exact_sentence(models: pd.DataFrame) -> str:
    """Return in words the hypervolume of the exact front, computed from its points."""
    front = np.array(build_closed_form(Path()).front())
    share = front_hypervolume(front, float(models.fvu_max.iloc[0]))
    return f"The exact front has a hypervolume of {share:.3f} in this box."


def _budgets(scores: pd.DataFrame, budget: int, known: list[str]) -> str:
    rows = [
        (MAIN, 0.25), ("independent", 1.0), (MAIN, 1.0), ("independent", 4.0), (MAIN, 4.0)
    ]  # fmt: skip
    titles = [f"{method}, {round(share * budget):,}" for method, share in rows]
    lines = [
        "Hypervolume, training / held-out images, at a quarter of the budget, the full one and four times "
        f"it (the learning rate is that chosen at {budget:,} pairs; the largest budget has one seed). The "
        f"box does not change. {_quarter_sentence(scores, budget, known)}",
        "",
        "| problem | " + " | ".join(titles) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for name in known:
        cells = [_both_splits(scores, name, method, round(share * budget)) for method, share in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_hypervolume(scores: pd.DataFrame, problem: str, method: str, budget: int, split: str) -> float:
    rows = scores[
        (scores.problem == problem)
        & (scores.method == method)
        & (scores.budget == budget)
        & (scores.split == split)
    ]
    return float(rows.hypervolume.mean())


def _both_splits(scores: pd.DataFrame, problem: str, method: str, budget: int) -> str:
    found = [_mean_hypervolume(scores, problem, method, budget, split) for split in ("train", "heldout")]
    return " / ".join(f"{value:.3f}" if math.isfinite(value) else "-" for value in found)


def _quarter_sentence(scores: pd.DataFrame, budget: int, known: list[str]) -> str:
    """Return in words where our main method at a quarter of the budget beats full independent solves."""
    ahead = [
        name
        for name in known
        if _mean_hypervolume(scores, name, MAIN, round(budget / 4), "train")
        > _mean_hypervolume(scores, name, "independent", budget, "train")
    ]
    behind = [name for name in known if name not in ahead]
    but = f", not on {', '.join(behind)}" if behind else ""
    return (
        f"On training images {MAIN} at a quarter of the budget is ahead of independent solves at the full "
        f"one on {', '.join(ahead) or 'no problem'}{but}."
    )


def _methods() -> str:
    lines = [f"- `{name}`: {method.note}." for name, method in METHODS.items()]
    intro = (
        "Unless it says otherwise: Adam (.9, .99) on the direction of the rule, coefficients from averages "
        "(.9), half a cosine to 2 % of the learning rate, an eleventh of the budget for each model, losses "
        "in e and FVU with the mean of 2,048 noise outputs as target. One run with 11 checkpoints takes "
        "them evenly spaced. Paths use half of the learning rate in the table, along a course of their own."
    )
    return "\n".join([intro, "", *lines])


if __name__ == "__main__":
    main()
