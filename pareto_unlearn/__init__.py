"""A menu of unlearned image-to-image models along the trade-off between forgetting and retained quality.

A name is loaded when it is first used, so that importing the package (and ``--help``) stays fast.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pareto_unlearn.config import load_config
    from pareto_unlearn.finished.notebook import load_run
    from pareto_unlearn.scripting import run_sweep
    from pareto_unlearn.solver import (
        BoundaryControl,
        EpsilonSolver,
        FixedMultiplier,
        LevelControl,
        UpdateSettings,
        direction,
        solve,
    )

__version__ = version("pareto-unlearn")

_HOMES = {
    "BoundaryControl": "solver",
    "EpsilonSolver": "solver",
    "FixedMultiplier": "solver",
    "LevelControl": "solver",
    "UpdateSettings": "solver",
    "direction": "solver",
    "load_config": "config",
    "load_run": "finished.notebook",
    "run_sweep": "scripting",
    "solve": "solver",
}

__all__ = [
    "BoundaryControl",
    "EpsilonSolver",
    "FixedMultiplier",
    "LevelControl",
    "UpdateSettings",
    "__version__",
    "direction",
    "load_config",
    "load_run",
    "run_sweep",
    "solve",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
