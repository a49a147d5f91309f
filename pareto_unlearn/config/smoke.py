"""Trying a sweep out: the same code from file to report, in a minute, without weights, data or GPUs.

Everything that makes a sweep big or needs files is replaced; what says how it is solved (task, objective,
solver, schedule, baselines) stays as the file has it. So what fails here would have failed after hours.
"""

from typing import Any

from pareto_unlearn.config.model_section import RANDOM
from pareto_unlearn.config.schema import SweepConfig

SMOKE = "SMOKE"
SMOKE_NOTICE = (
    f"{SMOKE} run: tiny widths, random weights, generated images, a few steps; no number of it says anything "
    "about a model"
)

STEPS, BATCH, POINTS, CLASSES, CHECKPOINTS = 24, 4, 2, 3, 6


def as_smoke(config: SweepConfig) -> SweepConfig:
    """Return the sweep at its smallest, under a name of its own: ``<name>-smoke``.

    A family whose row names no size to try out keeps its own weights and images, as the embedded model does.
    """
    content, row = config.model_dump(mode="json"), config.model.row
    content |= {"name": f"{config.name[:58]}-smoke", "smoke": True, "seeds": content["seeds"][:1]}
    if row.smoke_variant is not None:
        # A variant that is small already is tried out as it is.
        variant = config.model.variant if config.model.variant in row.sized else row.smoke_variant
        side = config.model.side if variant in row.sized else None
        content["model"] |= {"variant": variant, "side": side, "checkpoint": RANDOM, "tokenizer": None}
        content["objective"]["reference"] = None if config.objective.reference is None else RANDOM
        content["data"] = {
            "dataset": "generated",
            "forget_classes": CLASSES,
            "retain_classes": CLASSES,
            "proxy_retain": config.data.proxy_retain is not None,
        }
    content["data"] |= {"train_per_class": 2 * BATCH, "heldout_per_class": BATCH}
    content["objective"]["noise_images"] = 16
    content["solver"] = _small_solver(content["solver"], row.smoke_learning_rate)
    content["epsilon"] = _few_points(content["epsilon"])
    content["baselines"] = [{**one, "weights": one["weights"][:1]} for one in content["baselines"]]
    content["controls"] = [one | {"steps": STEPS} for one in content["controls"]]
    content["evaluate"] |= {"samples_per_class": 1, "max_samples": CLASSES}
    if config.evaluate.protocol != "builtin":
        # The networks of the papers are what trying a sweep out must not need.
        content["evaluate"] |= {"protocol": "builtin", "metrics": None}
    sampling = content["evaluate"]["sampling"]
    sampling["steps"] = min(sampling["steps"] or BATCH, BATCH)
    content["run"] |= {
        "cpus_per_trial": 1,
        "gpus_per_trial": 0.0,
        "ranks_per_trial": None,
        "reuse_workers": True,
        "memory_bytes": None,
    }
    return SweepConfig.model_validate(content)


def _small_solver(solver: dict[str, Any], learning_rate: float) -> dict[str, Any]:
    path = solver["path"] | {"steps": 2 * STEPS, "learning_rate": learning_rate, "scan": [1.0]}
    hold = solver["hold"] | {"steps": STEPS // 2, "learning_rate": learning_rate}
    lowest = solver["lowest"] | {"learning_rate": learning_rate}
    relearning = solver["relearning"] and solver["relearning"] | {"steps": STEPS // 2}
    bank = solver["bank"] | {"checkpoints": CHECKPOINTS}
    return solver | {
        "bank": bank,
        "steps": STEPS,
        "batch": BATCH,
        "learning_rate": learning_rate,
        "path": path,
        "hold": hold,
        "lowest": lowest,
        "relearning": relearning,
    }


def _few_points(epsilon: dict[str, Any]) -> dict[str, Any]:
    match epsilon["schedule"]:
        case "list" if epsilon["absolute"]:
            # A raw f1 of the real model means nothing for another one.
            return {"schedule": "grid", "points": POINTS}
        case "list":
            return epsilon | {"values": epsilon["values"][:POINTS]}
        case "adaptive":
            return epsilon | {"points": 3}
        case _:
            return epsilon | {"points": min(epsilon["points"], POINTS)}
