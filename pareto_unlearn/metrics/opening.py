"""Opening verified files of weights as tensors, and only as tensors."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics.weights import FoundWeights


def path_of(weights: FoundWeights) -> Path:
    """Return where a file lies.

    Raises:
        WeightsError: it was not found.
    """
    if weights.path is None:
        raise WeightsError(f"{weights.file.name} was not found: {weights.problem}")
    return weights.path


def read_state(weights: FoundWeights) -> dict[str, Any]:
    """Return the content of a file, its tensors on the CPU.

    Raises:
        WeightsError: it was not found, or is no file of tensors.
    """
    path = path_of(weights)
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise WeightsError(
            f"{path}: expected {weights.file.holds}, found a file that does not load: {error}"
        ) from error
    return content


def load_state(
    network: nn.Module, state: dict[str, Any], weights: FoundWeights, *, assign: bool = False
) -> None:
    """Give a network the tensors of a file; ``assign`` puts them in place of its own, which may then be on device meta.

    Raises:
        WeightsError: they are not those of the network.
    """
    try:
        network.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise WeightsError(
            f"{weights.path}: expected the tensors of {weights.file.holds}: {error}"
        ) from error
