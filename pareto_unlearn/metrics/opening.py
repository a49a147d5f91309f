"""Opens verified weights files as tensors; no code in them is ever run."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics.weights import FoundWeights


def path_of(weights: FoundWeights) -> Path:
    """Return the path of a weights file.

    Raises:
        WeightsError: the file was not found.
    """
    if weights.path is None:
        raise WeightsError(f"{weights.file.name} was not found: {weights.problem}")
    return weights.path


def read_state(weights: FoundWeights) -> dict[str, Any]:
    """Return the content of a weights file, its tensors on the CPU.

    Raises:
        WeightsError: the file was not found, or does not hold tensors only.
    """
    path = path_of(weights)
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may make the reader raise anything
        raise WeightsError(
            f"{path}: expected {weights.file.holds}, found a file that does not load: {error}"
        ) from error
    return content


def load_state(
    network: nn.Module, state: dict[str, Any], weights: FoundWeights, *, assign: bool = False
) -> None:
    """Load the tensors of a file into a network.

    Args:
        network: the network.
        state: the tensors by name.
        weights: the file, for messages.
        assign: replace the network's tensors, which may be on device meta, instead of copying into them.

    Raises:
        WeightsError: names or shapes of the tensors are not those of the network.
    """
    try:
        network.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.path}: expected the tensors of {weights.file.holds}: {error}"
        ) from error
