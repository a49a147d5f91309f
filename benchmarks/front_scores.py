"""Scores of the models of one run, in units that no run decides: see ``pareto_unlearn.analysis.scores``.

On both splits e is that of the training images, which are the ones to forget; the loss is that of the split's
retain images. Only the hit error looks at e of held-out images.

Works on the table of models that ``fronts.py`` writes, and knows no torch, no problem and no method. The only
model it knows is the original, (e, FVU) = (1, 0), which belongs to every front.
"""

import numpy as np
import pandas as pd

from pareto_unlearn.analysis.scores import BOXES, LEVELS, score

ASKED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.275, 0.35, 0.5, 0.7, 0.9)
"""The levels of e at which every run delivers a model, beside its most complete one."""
SCAN_SEED = 1000
RUN_KEYS = ["problem", "method", "budget", "seed", "split"]


def worth(models: pd.DataFrame) -> float:
    """Return what a scan compares: the sum of the two areas that a run's models dominate on one split."""
    return sum(score(_costs(models)).areas)


def score_runs(models: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run and split with all scores; the rows of a run have one order on every split."""
    models = models.assign(place=models.groupby([*RUN_KEYS, "factor"], sort=False).cumcount())
    train = models[models.split == "train"]
    keys = [*(key for key in RUN_KEYS if key != "split"), "factor", "place"]
    models = models.merge(train[[*keys, "e"]].rename(columns={"e": "e_train"}), on=keys, how="left")
    rows = []
    for key, run in models.groupby(RUN_KEYS, sort=False):
        rows.append(dict(zip(RUN_KEYS, key, strict=True)) | _score(run))
    return pd.DataFrame(rows)


def _score(run: pd.DataFrame) -> dict[str, float]:
    found, first, asked = score(_costs(run)), run.iloc[0], run.dropna(subset="target")
    areas = {f"area_{box:g}": area for box, area in zip(BOXES, found.areas, strict=True)}
    losses = {
        f"loss_{level:g}": np.nan if loss is None else loss
        for level, loss in zip(LEVELS, found.losses, strict=True)
    }
    known = [loss for loss in losses.values() if np.isfinite(loss) and loss > 0]
    return {
        **areas,
        **losses,
        "loss_mean": float(np.exp(np.mean(np.log(known)))) if len(known) == len(LEVELS) else np.nan,
        "hit_error": float((asked.e - asked.target).abs().mean()) if len(asked) else np.nan,
        "missed": len(ASKED) - len(asked),
        "pairs": float(first.pairs),
        "measuring": float(first.measuring),
        "rate": float(first.rate),
        "seconds": float(first.seconds),
    }


def _costs(run: pd.DataFrame) -> np.ndarray:
    e = "e_train" if "e_train" in run else "e"
    return np.vstack([run[[e, "fvu"]].to_numpy(float), [[1.0, 0.0]]])
