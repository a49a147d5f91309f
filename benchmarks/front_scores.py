"""Scores of a front: hypervolume in a frozen box, IGD+, how well an epsilon is hit, order along the knob.

Works on the table of models that ``fronts.py`` writes, and knows no torch, no problem and no method. The only
model it knows is the original, (e, FVU) = (1, 0), which belongs to every front.
"""

import math

import moocore
import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from pareto_unlearn.analysis.front import hypervolume, is_non_dominated

TARGETS = tuple(round(0.05 + 0.1 * index, 2) for index in range(10))
"""The ten levels of e that a method is to reach."""
MODELS = 11
SCAN_SEED = 1000
RUN_KEYS = ["problem", "method", "budget", "seed", "split"]


def front_hypervolume(costs: np.ndarray, fvu_max: float) -> float:
    """Return the share of the box e in [0, 1], FVU in [0, fvu_max] that rows of (e, FVU) dominate."""
    return hypervolume(costs, (0.0, 0.0), (1.0, fvu_max))


def choose_best(costs: np.ndarray, fvu_max: float, count: int = MODELS) -> list[int]:
    """Return at most ``count`` rows whose joint hypervolume is largest, by rising e.

    With two objectives this is exact: a model adds the rectangle up to the e of the next one chosen, so the
    best choice that begins with a model follows from those that begin further right (a shortest path over the
    non-dominated models).
    """
    inside = np.all(np.isfinite(costs), axis=1) & (costs[:, 0] < 1.0) & (costs[:, 1] < fvu_max)
    rows = np.flatnonzero(inside)
    rows = rows[is_non_dominated(costs[rows])] if len(rows) else rows
    rows = rows[np.argsort(costs[rows, 0], kind="stable")]
    e, height = costs[rows, 0], fvu_max - costs[rows, 1]
    ahead = np.maximum(np.append(e, 1.0)[None, :] - e[:, None], 0.0) * height[:, None]
    later = np.append(e, 1.0)[None, :] > e[:, None]
    best, choices = np.append(np.full(len(rows), -np.inf), 0.0), []
    for _ in range(min(count, len(rows))):
        values = np.where(later, ahead + best[None, :], -np.inf)
        choices.append(np.argmax(values, axis=1))
        best = np.append(values.max(axis=1), 0.0)
    return [int(rows[index]) for index in _follow(choices, best[:-1])]


def _follow(choices: list[np.ndarray], values: np.ndarray) -> list[int]:
    """Return the chain of models from the best first model; index ``end`` stands for the end of the front."""
    end, row, chain = len(values), int(np.argmax(values)) if len(values) else 0, []
    for successors in reversed(choices):
        if row == end:
            break
        chain.append(row)
        row = int(successors[row])
    return chain


def score_runs(models: pd.DataFrame, exact: dict[str, np.ndarray], budget: int) -> pd.DataFrame:
    """Return one row per run and split with all scores.

    Args:
        models: rows of ``fronts.py``, those of the learning-rate scan left out.
        exact: known fronts in (e, FVU), by problem, where there are any.
        budget: the runs whose models make the union front that IGD+ is measured against.
    """
    references = {
        (problem, split): exact.get(str(problem), _union_front(rows[rows.budget == budget]))
        for (problem, split), rows in models.groupby(["problem", "split"])
    }
    scores = []
    for key, run in models.groupby(RUN_KEYS, sort=False):
        names = dict(zip(RUN_KEYS, key, strict=True))
        scores.append(names | _score(run, references[names["problem"], names["split"]]))
    return pd.DataFrame(scores)


def _score(run: pd.DataFrame, reference: np.ndarray) -> dict[str, float]:
    kept, first = run[run.kept], run.iloc[0]
    costs = kept[["e", "fvu"]].to_numpy(float)
    with_original = np.vstack([costs[np.all(np.isfinite(costs), axis=1)], [[1.0, 0.0]]])
    unit = np.array([1.0, first.fvu_max])
    return {
        "hypervolume": front_hypervolume(costs, first.fvu_max),
        "igd_plus": float(
            moocore.igd_plus(with_original / unit, ref=_inside(reference, first.fvu_max) / unit)
        ),
        "hit_error": _hit_error(run),
        "tau": _tau(run),
        "non_dominated": len(np.unique(costs[is_non_dominated(costs)], axis=0)),
        "models": len(costs),
        "pairs": int(first.pairs),
        "rate": float(first.rate),
        "seconds": float(first.seconds),
    }


def _hit_error(run: pd.DataFrame) -> float:
    """Return the mean |e - target| over the models made for a target, else over the closest models."""
    asked = run.dropna(subset="target")
    if len(asked):
        return float((asked.e - asked.target).abs().mean())
    reached = run.e[np.isfinite(run.e)].to_numpy()
    return float(np.mean([np.abs(reached - target).min() for target in TARGETS]))


def _tau(run: pd.DataFrame) -> float:
    """Return Kendall's tau between knob (its sign such that e should rise with it) and e; NaN without one."""
    turned = run.dropna(subset=["knob", "e"])
    return float(kendalltau(turned.knob, turned.e).statistic) if len(turned) > 1 else math.nan


def _union_front(rows: pd.DataFrame) -> np.ndarray:
    """Return the models of all runs, and the original, that no other dominates."""
    costs = np.vstack([rows[rows.kept][["e", "fvu"]].to_numpy(float), [[1.0, 0.0]]])
    return costs[is_non_dominated(costs)]


def _inside(costs: np.ndarray, fvu_max: float) -> np.ndarray:
    return costs[(costs[:, 0] <= 1.0) & (costs[:, 1] <= fvu_max)]
