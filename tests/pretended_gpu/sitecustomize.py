"""Gives trials on a GPU a CPU instead, in every Python that starts with this folder in its search path.

Ray counts and hands out the GPUs that it is told of. Each trial that got one writes its number, a line of
the file that ``PRETENDED_GPU`` names, and waits for those beside it.
"""

import importlib.util
import os
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path

CHANGED = "pareto_unlearn.trial.loading"
TOGETHER_SECONDS = 8.0
"""For processes that start side by side to get as far, also where they share a core."""


class Pretence(MetaPathFinder):
    """Changes the module that chooses a trial's device, once it is imported."""

    def find_spec(self, name, path, target=None):
        """Return the module's own spec, with a change behind its import."""
        if name != CHANGED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            pretend(module)

        spec.loader.exec_module = execute_and_change
        return spec


def pretend(module):
    """Let torch find a GPU, and a trial that got one compute on the CPU."""
    import torch

    torch.cuda.device_count = lambda: 1

    def choose(config, ranks):
        with Path(os.environ["PRETENDED_GPU"]).open("a") as file:
            file.write(f"{time.time_ns()} {os.environ['CUDA_VISIBLE_DEVICES']}\n")
        time.sleep(TOGETHER_SECONDS)
        return torch.device("cpu")

    module._device_of = choose


if "PRETENDED_GPU" in os.environ:
    sys.meta_path.insert(0, Pretence())
