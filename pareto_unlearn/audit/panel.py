"""Which evaluations an audit has, and the rows that they leave."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.audit.closeness import distance_to_controls
from pareto_unlearn.audit.holes import errors_in_other_holes
from pareto_unlearn.audit.leaks import membership, retrieval, roughness
from pareto_unlearn.audit.perturbation import can_perturb, errors_on_changed_input
from pareto_unlearn.audit.probes import class_probe, refitted_outputs, ridge_decoder, swapped_decoder
from pareto_unlearn.audit.relearning import OTHERS, PANEL, QUICK, Attack, lowest, run_all
from pareto_unlearn.audit.statistics import (
    Figure,
    area_under_curve,
    hits_at_false_positives,
    mean_figure,
)
from pareto_unlearn.audit.subject import Photos, Subject, errors_in_hole, errors_of
from pareto_unlearn.catalogue.audits import (
    AUDIT,
    BYSTANDERS,
    CHANGED_INPUT,
    REFITTED_OUTPUTS,
    RHO,
    at_step,
    error_of_image,
    lowest_error,
)
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.records import MetricRow


def audit_quick(subject: Subject) -> list[MetricRow]:
    """Return the cheap part: one short attack, and all that needs no training."""
    return [*_leak_rows(subject), *_relearning_rows(subject, QUICK)]


def audit_full(subject: Subject, original: ImageToImage) -> list[MetricRow]:
    """Return all that ``audit_quick`` leaves out: the attacks of the relearning gap, others, and probes."""
    rows = [*_relearning_rows(subject, (*PANEL, *OTHERS))]
    if can_perturb(subject):
        rows.append(_row(lowest_error(CHANGED_INPUT), mean_figure(errors_on_changed_input(subject))))
    rows += [_row(lowest_error(name), mean_figure(errors)) for name, errors in errors_in_other_holes(subject)]
    if not subject.model.is_redrawn:
        rows += [
            _row("class_probe", class_probe(subject)),
            _row("ridge_decoder", ridge_decoder(subject)),
            _row(lowest_error(REFITTED_OUTPUTS), refitted_outputs(subject)),
        ]
    if subject.encoder:
        rows.append(_row("swapped_decoder", swapped_decoder(subject, original)))
    return rows


def audit_closeness(
    subject: Subject, original: ImageToImage, controls: Sequence[ImageToImage]
) -> list[MetricRow]:
    """Return how near the model is to models that never saw the forget images; it needs some of them."""
    return [_row(RHO, distance_to_controls(subject, original, controls))]


def _relearning_rows(subject: Subject, attacks: Sequence[Attack]) -> Iterator[MetricRow]:
    """Yield, for each attack, its lowest error and one row for every mark of its curve."""
    for attack, marks in run_all(subject, attacks):
        yield _row(lowest_error(attack.name), mean_figure(lowest(marks).errors))
        for mark in marks:
            yield _row(at_step(attack.name, mark.step), mean_figure(mark.errors))


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A model's pictures of some images, how rough they are in the hole, and each image's error."""

    pictures: Float[Tensor, "n c h w"]
    rough: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]


def _look(subject: Subject, photos: Photos) -> _Seen:
    pictures, hole = photos.pictures(subject.model), subject.hole
    drawn = subject.model.is_redrawn
    errors = errors_in_hole(subject.model, photos) if drawn else errors_of(pictures, photos.pixels, hole)
    return _Seen(pictures, roughness(pictures, hole), errors)


def _leak_rows(subject: Subject) -> Iterator[MetricRow]:
    """Yield membership of both sets, what pictures give away, and retrieval."""
    seen = {key: _look(subject, photos) for key, photos in subject.photos.items()}
    for name in ("forget", "retain"):
        members, strangers = seen[name, "train"].errors, seen[name, "heldout"].errors
        yield _row("membership", membership(members, strangers), image_set=name)
        yield _row("membership_hits", hits_at_false_positives(-members, -strangers), image_set=name)
        yield _row("membership_hits_reversed", hits_at_false_positives(members, strangers), image_set=name)
    heldout, truth = seen["forget", "heldout"], subject.photos["forget", "heldout"].pixels
    rough = heldout.rough
    yield _row("give_away_retain", area_under_curve(rough, seen["retain", "heldout"].rough))
    yield _row("give_away_strangers", area_under_curve(seen["forget", "train"].rough, rough))
    if BYSTANDERS in seen:
        others = seen[BYSTANDERS]
        yield _row("give_away_bystanders", area_under_curve(rough, others.rough))
        yield _row("error_in_hole", mean_figure(others.errors), image_set=BYSTANDERS[0])
    yield _row("retrieval", retrieval(heldout.pictures, truth, subject.hole))
    yield _row("error_in_hole", mean_figure(heldout.errors))
    for image_id, error in zip(
        subject.photos["forget", "train"].ids, seen["forget", "train"].errors, strict=True
    ):
        yield _row(error_of_image(image_id), Figure(float(error), None, None, 1), split="train")


def _row(metric: str, figure: Figure, image_set: str = "forget", split: str = "heldout") -> MetricRow:
    return MetricRow(
        set=image_set,
        split=split,
        metric=metric,
        protocol=AUDIT,
        value=figure.value,
        n=figure.n,
        low=figure.low,
        high=figure.high,
    )
