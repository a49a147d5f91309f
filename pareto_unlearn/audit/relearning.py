"""Relearning attacks: training on a few images, and how fast the model is good at others of their kind again.

Each attack starts from the model as it is, and its error is that on held-out forget images. It says nothing
alone: a model that never saw the images learns them from the same steps too, so the figure of such a control
stands beside it (concept resurgence, arXiv:2410.08074).
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pareto_unlearn.audit.subject import Photos, Subject, errors_in_hole, spread_over_classes
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.solver import FlatAdam, FlatParameters

MARKS = (0, 1, 2, 5, 10, 20, 50, 100, 200)
"""Steps after which an attack is measured."""
RETAIN_IMAGES = 32
"""Retain images of a step of a mixed attack."""
BENIGN_STEPS = 20
NOISE = 0.1
"""Standard deviation of noise added to each tensor, as a share of its root mean square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A way to bring images back.

    Args:
        name: of its rows in the store; it never changes its meaning.
        images: forget images that it trains on; 0 for retain images alone (benign).
        rate: step size.
        steps: of training.
        mixed: every step also takes retain images.
        kind: of its steps: ``adam`` (betas .9, .99), ``plain``, or ``relative``, which is Adam in units of
            each weight's own scale, so that ``rate`` is a share of it.
        part: the parameters that it trains: all, encoder or decoder.
        first: what is done before: nothing, noise on the weights, or benign steps.
        strangers: it trains on held-out forget images, which nobody trained on, and is measured on others.
    """

    name: str
    images: int
    rate: float = 1e-3
    steps: int = 100
    mixed: bool = False
    kind: str = "adam"
    part: str = "all"
    first: str = ""
    strangers: bool = False


QUICK = (
    Attack(name="10 images, 20 steps", images=10, steps=20),
    Attack(name="10 images, 20 relative steps", images=10, rate=0.01, steps=20, kind="relative"),
)
"""Of every model of a sweep: a fraction of a second on the digits."""
PANEL = (
    Attack(name="10 images", images=10, steps=200),
    Attack(name="10 images, rate 3e-4", images=10, rate=3e-4, steps=200),
    Attack(name="10 images, rate 3e-3", images=10, rate=3e-3, steps=200),
    Attack(name="10 images, with retain", images=10, steps=200, mixed=True),
    Attack(name="10 images, with retain, rate 3e-4", images=10, rate=3e-4, steps=200, mixed=True),
    Attack(name="10 images, with retain, rate 3e-3", images=10, rate=3e-3, steps=200, mixed=True),
)
"""The fixed attacks of the relearning gap."""
OTHERS = (
    Attack(name="1 image", images=1, steps=50),
    Attack(name="50 images", images=50),
    Attack(name="200 images", images=200),
    Attack(name="10 strangers", images=10, strangers=True),
    Attack(name="10 retain images", images=0),
    Attack(name="10 images, rate 1e-4", images=10, rate=1e-4, steps=200),
    Attack(name="10 images, plain steps", images=10, rate=0.05, kind="plain"),
    Attack(name="10 images, relative steps", images=10, rate=0.01, kind="relative"),
    Attack(name="10 images, with retain, relative steps", images=10, rate=0.01, mixed=True, kind="relative"),
    Attack(name="10 images, encoder", images=10, part="encoder"),
    Attack(name="10 images, decoder", images=10, part="decoder"),
    Attack(name="noise, then 10 images", images=10, first="noise"),
    Attack(name="retain images, then 10 images", images=10, first="benign"),
)
"""Attacks that a solve is never trained against, so that a trap for the panel alone shows."""


class Mark(NamedTuple):
    """The errors of held-out images after some steps."""

    step: int
    errors: Float[np.ndarray, " n"]


def relearn(subject: Subject, attack: Attack) -> list[Mark]:
    """Run an attack on a copy of the model and return how well it does at each mark."""
    model = copy.deepcopy(subject.model)
    trained, measured = _divide(subject, attack)
    if attack.first == "noise":
        _add_noise(list(model.parameters()))
    if attack.first == "benign":
        steps = _steps_on(subject.photos["retain", "train"], RETAIN_IMAGES)
        _train(model, list(model.parameters()), attack, (steps,), BENIGN_STEPS, lambda _: None)
    marks: list[Mark] = []

    def look(step: int) -> None:
        if step in MARKS:
            marks.append(Mark(step, errors_in_hole(model, measured)))

    look(0)
    streams: list[_Inputs] = [_all_of(trained)]
    if attack.mixed:
        streams.append(_steps_on(subject.photos["retain", "train"], RETAIN_IMAGES))
    _train(model, _part_of(model, subject, attack.part), attack, streams, attack.steps, look)
    return marks


def can_run(subject: Subject, attack: Attack) -> bool:
    """Tell whether there are enough images, and parameters, for an attack to mean what its name says."""
    counts = {key: len(photos) for key, photos in subject.photos.items()}
    if attack.strangers:
        return counts["forget", "heldout"] >= 2 * attack.images
    enough = counts["forget", "train"] >= attack.images
    return enough and (attack.part == "all" or bool(subject.encoder))


def _divide(subject: Subject, attack: Attack) -> tuple[Photos, Photos]:
    """Return the images to train on, and the held-out forget images to measure on."""
    heldout = subject.photos["forget", "heldout"]
    if attack.images == 0:
        retain = subject.photos["retain", "train"]
        return retain.choose(spread_over_classes(retain.class_ids, 10)), heldout
    if attack.strangers:
        rows = spread_over_classes(heldout.class_ids, attack.images)
        left = sorted(set(range(len(heldout))) - set(rows.tolist()))
        return heldout.choose(rows), heldout.choose(torch.tensor(left))
    train = subject.photos["forget", "train"]
    return train.choose(spread_over_classes(train.class_ids, attack.images)), heldout


_Inputs = Callable[[int], Tensor]
"""From a step to the inputs it trains on."""


def _all_of(photos: Photos) -> _Inputs:
    return lambda step: photos.redraw(torch.arange(len(photos)), step)


def _steps_on(photos: Photos, count: int) -> _Inputs:
    """Return images drawn anew at every step."""

    def inputs(step: int) -> Tensor:
        generator = seeded_generator(Stream.AUDIT_BATCHES, step)
        rows = torch.randint(len(photos), (min(count, len(photos)),), generator=generator)
        return photos.redraw(rows, step)

    return inputs


def _train(
    model: ImageToImage,
    parameters: Sequence[nn.Parameter],
    attack: Attack,
    streams: Sequence[_Inputs],
    steps: int,
    look: Callable[[int], None],
) -> None:
    """Train on the sum of the losses of all streams; ``look`` sees the model after every step."""

    def loss(step: int) -> Float[Tensor, ""]:
        return torch.stack([model.training_loss(inputs(step)) for inputs in streams]).sum()

    move = _Mover(parameters, attack)
    for step in range(steps):
        move(partial(loss, step))
        look(step + 1)


class _Mover:
    """Moves parameters by steps of the attack's kind.

    Where two layers can be scaled against each other without changing any output, as the values and the
    projection of attention can, a model can be made so that Adam's steps are far too long for the one and too
    short for the other: it fails every attack of one step size and has forgotten nothing. So the scale of
    each weight is the unit of its step where the kind is ``relative``.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], attack: Attack) -> None:
        scales = [_scale_of(one).flatten() for one in parameters] if attack.kind == "relative" else []
        self._flat, self._attack = FlatParameters(parameters), attack
        self._adam = FlatAdam(self._flat, torch.cat(scales) if scales else None)

    def __call__(self, loss: Callable[[], Tensor]) -> None:
        self._flat.compute_gradient(loss)
        if self._attack.kind == "plain":
            self._flat.values.sub_(self._flat.gradient, alpha=self._attack.rate)
        else:
            self._adam.step(self._attack.rate)


def _scale_of(parameter: Tensor) -> Tensor:
    """Return the size of each weight, as the product of those of its row and its column; never quite 0."""
    squares = parameter.detach().square()
    mean = squares.mean().clamp(min=1e-12)
    if parameter.ndim < 2:
        return squares.sqrt() + 0.01 * mean.sqrt()
    flat = squares.flatten(1)
    rows, columns = flat.mean(dim=1, keepdim=True), flat.mean(dim=0, keepdim=True)
    return (rows * columns / mean).sqrt().view_as(parameter) + 1e-3 * mean.sqrt()


def _part_of(model: ImageToImage, subject: Subject, part: str) -> list[nn.Parameter]:
    encoder = set(subject.encoder)
    return [
        parameter
        for name, parameter in model.named_parameters()
        if part == "all" or (name in encoder) == (part == "encoder")
    ]


def _add_noise(parameters: Sequence[nn.Parameter]) -> None:
    generator = seeded_generator(Stream.AUDIT_NOISE)
    with torch.no_grad():
        for parameter in parameters:
            draws = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(draws * (NOISE * parameter.square().mean().sqrt()))


def lowest(marks: Sequence[Mark]) -> Mark:
    """Return the mark with the lowest mean error, step 0 left out: that is before the attack."""
    after = [mark for mark in marks if mark.step > 0 and math.isfinite(mark.errors.mean())]
    return min(after or marks, key=lambda mark: float(mark.errors.mean()))


def run_all(subject: Subject, attacks: Sequence[Attack]) -> Iterator[tuple[Attack, list[Mark]]]:
    """Yield every attack that can be run, with its marks."""
    for attack in attacks:
        if can_run(subject, attack):
            yield attack, relearn(subject, attack)
