"""Pictures of held-out images in two dimensions, before and after: t-SNE of the metrics network's features.

Both are embedded together, since two t-SNEs have no axis in common. Distances within a cluster mean
something, those between clusters and the axes do not.
"""

import json
from dataclasses import asdict, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.records import EmbeddedPicture
from pareto_unlearn.trial.bank import spread_rows
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.loading import load_original
from pareto_unlearn.trial.measuring import reconstruct

MOST_IMAGES = 125
"""Of each set, so that both of them, before and after, are 500 points."""
ITERATIONS, PERPLEXITY = 500, 30.0


def embed_pictures(config: SweepConfig, material: Material) -> bytes:
    """Return what the original and the model make of the same held-out images, in two dimensions, as JSON.

    The same pictures and the same seed of the sweep give the same bytes.

    Raises:
        ValueError: there is no feature network for these images.
    """
    if material.classifier is None:
        raise ValueError("expected the feature network of protocol builtin, found none for these images")
    models = {"original": load_original(config, material.device), "unlearned": material.model}
    points, features = [], []
    for name, split, images in material.split.items():
        if split != "heldout":
            continue
        rows = spread_rows(len(images), MOST_IMAGES)
        for version, model in models.items():
            pictures = reconstruct(replace(material, model=model), name, rows)
            with torch.no_grad():
                features.append(material.classifier.features(pictures))
            points += [
                EmbeddedPicture(set=name, image_id=images.image_ids[row], version=version, x=0.0, y=0.0)
                for row in rows.tolist()
            ]
    placed = _to_plane(torch.cat(features).cpu(), config.seed).tolist()
    found = [replace(point, x=x, y=y) for point, (x, y) in zip(points, placed, strict=True)]
    return json.dumps([asdict(point) for point in found]).encode()


def _to_plane(features: Float[Tensor, "n d"], seed: int) -> Float[Tensor, "n 2"]:
    from sklearn.manifold import TSNE  # a second, wanted by few sweeps
    from threadpoolctl import threadpool_limits

    method = TSNE(
        perplexity=min(PERPLEXITY, (len(features) - 1) / 3),
        max_iter=ITERATIONS,
        init="pca",
        random_state=seed,
    )
    # Several threads add up in an order that changes from run to run.
    with threadpool_limits(limits=1):
        return torch.from_numpy(method.fit_transform(features.numpy()))
