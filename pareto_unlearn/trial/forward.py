"""In which precision steps run the model forward.

Only what a step differentiates passes through here. Parameters, gradients, the solver's flat vectors and their inner
products stay float32, and so does everything that is measured.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.records import ConfigError
from pareto_unlearn.trial.material import Material

Forward = Callable[[Tensor], Tensor]


def step_features(config: SweepConfig, material: Material) -> Forward:
    """Return the function from model inputs to the flat float32 features whose losses a step differentiates."""
    return run_in_steps(config, feature_function(material.model, config.objective.space))


def run_in_steps(config: SweepConfig, function: Forward) -> Forward:
    """Return a function of model inputs in the precision ``solver.precision`` names; its output is float32.

    Raises:
        ConfigError: this machine lacks what it needs.
    """
    check_forward(config)
    return _in_bfloat16(function) if config.solver.precision == "bfloat16" else function


def check_forward(config: SweepConfig) -> None:
    """Refuse a narrow forward pass where this machine lacks what it needs.

    Raises:
        ConfigError: names what is missing.
    """
    if config.solver.precision == "bfloat16" and config.run.gpus_per_trial > 0:
        _check_bfloat16()


def _check_bfloat16() -> None:
    # Without a GPU here, the driver cannot know; the trials ask again.
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"solver.precision: {torch.cuda.get_device_name()} does not compute in bfloat16; use float32, or a GPU of "
            "compute capability 8.0 or higher"
        )


def _in_bfloat16(function: Forward) -> Forward:
    def narrow(inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = function(inputs)
        return outputs.float()

    return narrow
