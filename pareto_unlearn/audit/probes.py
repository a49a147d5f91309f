"""What the features of a model's encoder still hold of the forgotten images.

A probe proves nothing alone: features of a model that never saw a class tell it apart too. Its figure stands
beside that of the control.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.audit.statistics import Figure, mean_figure, share_figure
from pareto_unlearn.audit.subject import Photos, Subject, errors_in_hole
from pareto_unlearn.models import ImageToImage

Layer = Callable[[Tensor], Tensor]
"""From inputs to features, the images first."""
RIDGE = 1e-2
"""Of both probes, as a share of the mean square of a feature."""


def swapped_decoder(subject: Subject, original: ImageToImage) -> Figure:
    """Return the error in the hole with the original's decoder behind the model's encoder."""
    mixed = copy.deepcopy(original)
    encoder = {name: value for name, value in subject.model.state_dict().items() if name in subject.encoder}
    mixed.load_state_dict({**original.state_dict(), **encoder})
    return mean_figure(errors_in_hole(mixed, subject.photos["forget", "heldout"]))


def class_probe(subject: Subject) -> Figure:
    """Return how many held-out forget images a linear probe of the features gives their class."""
    train, heldout = (subject.photos["forget", split] for split in ("train", "heldout"))
    classes = int(train.class_ids.max()) + 1
    wanted = torch.nn.functional.one_hot(train.class_ids, classes).double()
    weights = _fit(_features(subject.model, train, subject.model.encode), wanted)
    found = (_features(subject.model, heldout, subject.model.encode) @ weights).argmax(dim=1)
    return share_figure(int((found == heldout.class_ids.to(found.device)).sum()), len(heldout))


def ridge_decoder(subject: Subject) -> Figure:
    """Return the error in the hole of a linear decoder of the features, fitted on retain images alone."""
    return _refit(subject, subject.model.encode)


def refitted_outputs(subject: Subject) -> Figure:
    """Return the error in the hole of a linear map of the outputs, fitted on retain images alone.

    It undoes what was done to the last layer, however large, which no attack of small steps does.
    """
    return _refit(subject, subject.model)


def _refit(subject: Subject, layer: Layer) -> Figure:
    hole, model = subject.hole, subject.model
    retain, heldout = subject.photos["retain", "train"], subject.photos["forget", "heldout"]
    weights = _fit(_features(model, retain, layer), retain.pixels[:, :, hole].flatten(1).double())
    guess = _features(model, heldout, layer) @ weights
    errors = (guess - heldout.pixels[:, :, hole].flatten(1).double()).square().mean(dim=1)
    return mean_figure(errors.cpu().numpy())


def _features(model: ImageToImage, photos: Photos, layer: Layer) -> Float[Tensor, "n d"]:
    """Return what a layer gives for the inputs, and a constant, in float64."""
    parts = torch.split(torch.arange(len(photos)), model.evaluation_batch)
    with torch.no_grad():
        found = torch.cat([layer(photos.inputs[part]).flatten(1) for part in parts]).double()
    return torch.cat([found, torch.ones_like(found[:, :1])], dim=1)


def _fit(features: Float[Tensor, "n d"], wanted: Float[Tensor, "n k"]) -> Float[Tensor, "d k"]:
    """Return the ridge regression, solved in the smaller of both sides."""
    wanted = wanted.to(features.device)
    penalty = RIDGE * len(features) * features.square().mean()
    rows, width = features.shape
    if width <= rows:
        gram = features.T @ features + penalty * torch.eye(width).to(features)
        weights: Tensor = torch.linalg.solve(gram, features.T @ wanted)
        return weights
    gram = features @ features.T + penalty * torch.eye(rows).to(features)
    dual: Tensor = torch.linalg.solve(gram, wanted)
    return features.T @ dual
