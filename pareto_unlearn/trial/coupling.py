"""Whether a model's answer for an image depends on the others of its batch: then no batch can be split."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import SplitData
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.bank import spread_rows
from pareto_unlearn.trial.inputs import SETS, generators_of

PROBED = 4
"""Images that are looked at as one batch and as two."""
TOLERANCE = 1e-3
"""Of the largest feature. Another order of sums is far below it."""


def check_splitting(config: SweepConfig, model: ImageToImage, split: SplitData) -> None:
    """Refuse to split the batches of a model that sees an image by the company it is in.

    Layers of batch statistics are refused by their kind, all else by what the model answers.

    Raises:
        ConfigError: names the layers that are known to do so.
    """
    if config.run.ranks == 1:
        return
    norms = [
        name
        for name, module in (model.named_modules() if isinstance(model, nn.Module) else ())
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
    if not norms and not _sees_others(config, model, split):
        return
    found = f" (batch statistics: {', '.join(norms[:3])})" if norms else ""
    raise ConfigError(
        f"run: expected one process for a trial, found {config.run.ranks} ranks, which split each batch: the "
        f"model's answer for an image depends on the others of its batch{found}. Set run.gpus_per_trial to 1 "
        "or less and leave run.ranks_per_trial out, or give the model layers without batch statistics"
    )


def _sees_others(config: SweepConfig, model: ImageToImage, split: SplitData) -> bool:
    """Return whether images get other features as one batch than in parts.

    Weights that were never trained may answer all images nearly alike, which hides it.
    """
    images = split.retain_train.images
    rows = spread_rows(len(images), PROBED)
    if len(rows) < 2:
        return False
    generators = generators_of(config.seed, Stream.INPUTS, rows, SETS["retain", "train"])
    features = feature_function(model, config.objective.space)
    with torch.no_grad():
        inputs = model.prepare(images[rows], generators)
        whole, parts = features(inputs), torch.cat([features(inputs[:1]), features(inputs[1:])])
    return not bool(((whole - parts).abs() <= TOLERANCE * whole.abs().max()).all())
