"""How steps run the model forward: in which precision, and compiled or not.

Only what a step differentiates passes through here. Parameters, gradients, the solver's flat vectors and
their inner products stay float32, and so does everything that is measured.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.targets import ForgetTarget, ModelTarget

Forward = Callable[..., Tensor]


def step_features(config: SweepConfig, material: Material) -> Forward:
    """Return the function from model inputs to the float32 features whose losses a step differentiates."""
    return run_in_steps(config, material.features())


def step_targets(config: SweepConfig, material: Material) -> tuple[ForgetTarget, ModelTarget]:
    """Return the forget and the retain target that steps compare with.

    Models that run beside the trained one do so in ``objective.original_precision``.
    """
    if config.objective.original_precision == "float32":
        return material.forget_target, material.retain_target
    return material.forget_target.run_by(_in_bfloat16), material.retain_target.run_by(_in_bfloat16)


def run_in_steps(config: SweepConfig, function: Forward) -> Forward:
    """Return a function as ``solver.compile`` and ``solver.precision`` ask for it; its output is float32.

    Args:
        config: the sweep.
        function: of tensors, model inputs first.

    Raises:
        ConfigError: this machine lacks what they need.
    """
    check_forward(config)
    if config.solver.compile:
        # An error where the compiler gives up: its silent way back to eager code would change the last bits.
        function = torch.compile(function, fullgraph=True, dynamic=False)
    return run_in_precision(config, function)


def run_in_precision(config: SweepConfig, function: Forward) -> Forward:
    """Return a function as ``solver.precision`` asks for it, for batches of any size; its output is float32.

    It is not compiled: every other size would be compiled anew.
    """
    return _in_bfloat16(function) if config.solver.precision == "bfloat16" else function


def check_forward(config: SweepConfig) -> None:
    """Refuse trials on a GPU, and a compiled or narrow forward pass, where this machine lacks what they need.

    Raises:
        ConfigError: names what is missing.
    """
    on_gpu = config.run.gpus_per_trial > 0
    if on_gpu and config.run.executor == "local" and not torch.cuda.is_available():
        raise ConfigError(
            f"run.gpus_per_trial: expected 0, since run.executor local runs trials on this machine and torch "
            f"{torch.__version__} finds no GPU here; found {config.run.gpus_per_trial:g}. Set "
            "run.gpus_per_trial: 0, or start the sweep where a GPU is"
        )
    if config.run.executor == "local" and config.run.gpus_per_trial > max(torch.cuda.device_count(), 1):
        raise ConfigError(
            f"run.gpus_per_trial: expected at most the {torch.cuda.device_count()} of this machine with "
            f"run.executor local, found {config.run.gpus_per_trial:g}: all GPUs of a trial are in one machine"
        )
    if config.solver.compile:
        _check_compiler(on_gpu=on_gpu)
    if config.solver.precision == "bfloat16" and on_gpu:
        _check_bfloat16()


def _check_compiler(*, on_gpu: bool) -> None:
    """Refuse a machine without a compiler, as torch looks for it, or without Python's headers."""
    variable, names = ("CC", ("gcc", "clang")) if on_gpu else ("CXX", (_cpp_compiler(),))
    names = (os.environ[variable],) if variable in os.environ else names
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = [] if any(map(shutil.which, names)) else [f"a compiler ({' or '.join(names)})"]
    missing += [] if header.is_file() else [f"Python's headers ({header})"]
    if missing:
        raise ConfigError(
            f"solver.compile: torch.compile needs {' and '.join(missing)}, and this machine has none; "
            f"install it (Debian: apt install g++ python3-dev), name a compiler in {variable}, or set "
            "solver.compile: false"
        )


def _check_bfloat16() -> None:
    # Without a GPU here, the driver cannot know; the trials ask again.
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"solver.precision: {torch.cuda.get_device_name()} does not compute in bfloat16; use float32, or "
            "a GPU of compute capability 8.0 or higher"
        )


def _cpp_compiler() -> str:
    return "clang++" if sys.platform == "darwin" else "g++"


def _in_bfloat16(function: Forward) -> Forward:
    def narrow(inputs: Tensor, *others: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = function(inputs, *others)
        return outputs.float()

    return narrow
