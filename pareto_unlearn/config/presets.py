"""Presets: one key of a sweep file that stands for many, each of which the file may still set otherwise."""

from collections.abc import Mapping
from typing import Any

from pareto_unlearn.config.yaml_source import Document

PAPER: Mapping[str, Mapping[str, Any]] = {
    "objective": {"distance": "l2", "noise_target": "draws"},
    "solver": {
        "update": "paper",
        "start": "original",
        "completeness": "mean",
        "clip": None,
        "learning_rate": 0.003,
        "control": {"delta": 1, "scaled": False, "squared": True, "ramp": 0.0},
        "lowest": {"kind": "paper"},
        "convergence": {"tolerance": 0.0},
    },
    "epsilon": {"schedule": "grid", "points": 3, "spacing": "linear"},
}
"""Algorithm 1 of arXiv:2408.01689 as in its experiments.

L2 distance to fresh draws of the original's outputs on noise; plain descent without a clip; psi = alpha
|g1|^delta for both boundaries, with the roles of f1 and f2 swapped for the lowest (section 4.3); psi = beta
(f1 - epsilon)^delta |g1|^2 in Phase II (section 5.4); every trial from the original, for all its steps;
epsilons at 25, 50 and 75 % of the valid range. The paper names no step size; without a clip, that of plain
steps elsewhere, 0.2, diverges on the digits, and 0.003 and 0.0003 solve them.
"""
PRESETS = {"paper": PAPER}


def fill_preset(document: Document) -> None:
    """Put the keys of the preset that a document names into it, but for those that it sets itself."""
    preset = PRESETS.get(str(document.data.get("preset")))
    if preset is None:
        return
    for name, section in preset.items():
        own = document.data.setdefault(name, {})
        if isinstance(own, dict) and not (name == "epsilon" and own):
            _fill(own, section)


def _fill(own: dict[Any, Any], defaults: Mapping[str, Any]) -> None:
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            section = own.setdefault(key, {})
            if isinstance(section, dict):
                _fill(section, value)
        else:
            own.setdefault(key, value)
