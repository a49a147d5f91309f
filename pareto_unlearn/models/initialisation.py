"""Untrained weights from a generator, for networks whose published code trained them long ago."""

import math

import torch
from torch import nn

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm1d, nn.InstanceNorm2d)


def fill_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Fill all parameters: matrices and kernels N(0, 1 / inputs), gains of norms 1, biases and the rest 0.

    Embeddings and codebooks count as matrices with one input, so that their rows are N(0, 1).
    """
    gains = {id(module.weight) for module in model.modules() if isinstance(module, _NORMS)}
    rows = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parameter in model.parameters():
        if id(parameter) in gains:
            nn.init.ones_(parameter)
        elif parameter.ndim < 2:
            nn.init.zeros_(parameter)
        else:
            inputs = 1 if id(parameter) in rows else parameter[0].numel()
            # Drawn in the plain layout, then copied: in another one the same draws would land elsewhere.
            drawn = torch.empty(parameter.shape).normal_(std=1 / math.sqrt(inputs), generator=generator)
            parameter.data.copy_(drawn)
