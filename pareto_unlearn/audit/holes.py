"""The attack by another question: the same images with another part removed than unlearning removed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from pareto_unlearn.audit.subject import Subject, errors_in_hole
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.random_streams import Stream


def errors_in_other_holes(subject: Subject) -> Iterator[tuple[str, Float[np.ndarray, " n"]]]:
    """Yield the name of each other hole with the error in it of each held-out forget image."""
    photos = subject.photos["forget", "heldout"]
    draws = [seeded_generator(Stream.AUDIT_NOISE, number) for number in range(len(photos))]
    for name, model in subject.other_holes():
        asked = replace(photos, inputs=model.prepare(photos.pixels, draws)) if model.is_redrawn else photos
        yield name, errors_in_hole(model, asked)
