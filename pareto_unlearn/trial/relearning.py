"""Attacks that bring forgotten images back, and how much of them a solve that resists lets come back.

An attack trains a copy of the model for a few steps on some of the forgotten images, as somebody would who
has the weights. The solve is charged for what the copy has then learnt of *other* forgotten images.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pareto_unlearn.config import RelearningSection
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.solver import FlatAdam, FlatParameters
from pareto_unlearn.trial.context import Material, Trial
from pareto_unlearn.trial.distances import FORGET, RETAIN
from pareto_unlearn.trial.forward import run_in_precision
from pareto_unlearn.trial.inputs import draw_inputs, generators_of

ATTACK_STEPS = (5, 20, 50)
"""A few long attacks: the short ones are resisted soon, and what resists 50 steps resists 5."""
LEAST_RATE, LARGEST_RATE = 3e-4, 3e-3
"""Of an attack's Adam. A rate of 1e-4 brings little back in 20 steps; one of .01 destroys the digits."""
ATTACK_IMAGES = (1, 10, 50)
LEAST_RETAIN = 10
"""Retain images in a mixed attack at least; else as many as forget images."""
JUDGED_IMAGES = 32


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Draw:
    """One attack: ``steps`` steps of size ``rate`` on images ``forget`` and ``retain``, then judged.

    Images are rows of the training sets; no judged image is attacked with. ``retain`` may be empty.
    """

    steps: int
    rate: float
    forget: Int[Tensor, " n"]
    retain: Int[Tensor, " m"]
    judged: Int[Tensor, " j"]

    def count_passes(self, batch: int) -> int:
        """Return its backward passes, each of at most ``batch`` images."""
        images = len(self.forget) + len(self.retain)
        return self.steps * _ceil(images, batch) + _ceil(len(self.judged), batch)


def draw_attack(seed: int, step: int, num_forget: int, num_retain: int) -> Draw:
    """Return the attack of a step, a function of these four numbers alone.

    Half of the attacks see forget images alone, the others retain images too. In a small set, at least half
    of the forget images are judged on, or ``JUDGED_IMAGES`` of them.

    Raises:
        ValueError: there are fewer than two forget images, so none is left to judge by.
    """
    if num_forget < 2:
        raise ValueError(f"solver.relearning: expected at least 2 forget training images, found {num_forget}")
    generator = seeded_generator(seed, Stream.RELEARNING, step)
    share, side = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    steps, wanted = (
        choices[int(torch.randint(len(choices), (1,), generator=generator))]
        for choices in (ATTACK_STEPS, ATTACK_IMAGES)
    )
    seen = min(wanted, max(num_forget - JUDGED_IMAGES, num_forget // 2))
    forget = torch.randperm(num_forget, generator=generator)
    retain = torch.randperm(num_retain, generator=generator)[: max(seen, LEAST_RETAIN)]
    return Draw(
        steps=steps,
        rate=LEAST_RATE * (LARGEST_RATE / LEAST_RATE) ** share,
        forget=forget[:seen],
        retain=retain if side < 0.5 else retain[:0],
        judged=forget[seen : seen + JUDGED_IMAGES],
    )


class Attacker:
    """A copy of the model that is put at the model's weights and trained from there.

    The model itself is only read. The copy shares what training never changes, and the weights, their
    gradient and both moments of Adam need four times the memory of the parameters that training changes.

    Args:
        model: to attack; its parameters may move to other storage later.
        space: of the parameters that are attacked; see ``ImageToImage.trainable``.
        shared: see there.
    """

    def __init__(self, model: ImageToImage, space: str = "output", *, shared: bool = False) -> None:
        self._sources = model.trainable(space, shared=shared)
        trained = {id(parameter) for parameter in self._sources}
        self.model: ImageToImage = copy.deepcopy(
            model, {id(one): one for one in model.parameters() if id(one) not in trained}
        )
        self._twins = self.model.trainable(space, shared=shared)
        self.flat = FlatParameters(self._twins)
        self._adam = FlatAdam(self.flat)

    def start(self) -> None:
        """Take the model's weights, and forget the past of the optimiser."""
        with torch.no_grad():
            for twin, source in zip(self._twins, self._sources, strict=True):
                twin.copy_(source)
        self._adam.restart()

    def step(
        self, loss: Callable[[Tensor], Float[Tensor, ""]], parts: tuple[Tensor, ...], rate: float
    ) -> None:
        """Take a step of Adam on the mean loss over the images of all parts, one backward pass for each."""
        self.differentiate(loss, parts)
        self._adam.step(rate)

    def differentiate(
        self, loss: Callable[[Tensor], Float[Tensor, ""]], parts: tuple[Tensor, ...]
    ) -> Float[Tensor, ""]:
        """Return the mean loss over the images of all parts; its gradient is in ``flat.gradient`` then."""
        count = sum(len(part) for part in parts)
        total = torch.zeros((), device=self.flat.values.device)
        self.flat.gradient.zero_()
        for part in parts:
            value = loss(part) * (len(part) / count)
            value.backward()  # type: ignore[no-untyped-call]
            total += value.detach()
        return total

    def gradient_of(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Return the gradients at the twins of some of the model's parameters."""
        twins = {id(source): twin for source, twin in zip(self._sources, self._twins, strict=True)}
        gradients = (twins[id(parameter)].grad for parameter in parameters)
        return [gradient for gradient in gradients if gradient is not None]


class Resistance:
    """What attacks bring back, g(theta) = [1 - R(theta') / (level R_start)]_+, one attack at a time.

    theta' are the weights after an attack on theta, R the loss in the hole on forget images that the attack
    did not see, R_start that of the model at the start on all forget images. What is visible is no secret,
    and a model that may not learn to copy it keeps less of everything. g is 0 for a model of which an
    attack leaves at least ``level`` of that loss, and 1 for a perfect memory. Its gradient is of first order:
    that at theta', taken as the gradient at theta.

    Args:
        trial: its model holds the weights of the start.
        section: of the sweep file.
    """

    def __init__(self, trial: Trial, section: RelearningSection) -> None:
        material = trial.material
        self._trial, self._section = trial, section
        self._attacker = Attacker(material.model, shared=material.shared)
        self._loss = run_in_precision(trial.config, self._attacker.model.training_loss)
        self._judge = run_in_precision(trial.config, self._attacker.model.hole_loss)
        self._trained = material.trainable()
        self._allowed = section.level * measure_hole_loss(material)

    def draw_at(self, step: int) -> Draw | None:
        """Return the attack of a step; None between attacks."""
        if step % self._section.every:
            return None
        counts = (len(self._trial.training_inputs(name)) for name in ("forget", "retain"))
        return draw_attack(self._trial.spec.seed, step, *counts)

    def count_passes(self, steps: int) -> int:
        """Return the backward passes of all attacks of the first steps."""
        batch = self._trial.config.solver.batch
        draws = (self.draw_at(step) for step in range(steps))
        return sum(draw.count_passes(batch) for draw in draws if draw is not None)

    def __call__(self, step: int) -> Float[Tensor, ""] | None:
        """Return g after the attack of a step, with its gradient; None between attacks.

        Every rank runs the whole attack.
        """
        draw = self.draw_at(step)
        if draw is None:
            return None
        reached = self._attack(draw, step)
        value = (1.0 - reached / self._allowed).clamp(min=0.0)
        slope = torch.where(value > 0.0, -1.0 / self._allowed, 0.0)
        gradients = self._attacker.gradient_of(self._trained)
        # A sum whose gradient is that of g, and whose value is taken off again: it does not matter.
        linear = (
            torch.stack([(p * g).sum() for p, g in zip(self._trained, gradients, strict=True)]).sum() * slope
        )
        return self._trial.material.ranks.alike(value + linear - linear.detach())

    def _attack(self, draw: Draw, step: int) -> Float[Tensor, ""]:
        """Return the loss on the judged images after the attack; its gradient is left with the attacker."""
        self._attacker.start()
        for inner in range(draw.steps):
            parts = self._parts(draw.forget, draw.retain, step, inner)
            self._attacker.step(self._loss, parts, draw.rate)
        parts = self._parts(draw.judged, draw.retain[:0], step, draw.steps)
        return self._attacker.differentiate(self._judge, parts)

    def _parts(
        self, forget: Int[Tensor, " n"], retain: Int[Tensor, " m"], step: int, inner: int
    ) -> tuple[Tensor, ...]:
        """Return the inputs of some images in parts of at most ``solver.batch``: as much memory as a step."""
        sets = (("forget", FORGET, forget), ("retain", RETAIN, retain))
        inputs = [self._inputs(name, place, rows, step, inner) for name, place, rows in sets if len(rows)]
        return torch.split(torch.cat(inputs), self._trial.config.solver.batch)

    def _inputs(self, name: str, place: int, rows: Int[Tensor, " n"], step: int, inner: int) -> Tensor:
        model, inputs = self._trial.material.model, self._trial.training_inputs(name)
        if not model.is_redrawn:
            return inputs[rows]
        seed, stream = self._trial.spec.seed, Stream.RELEARNING_INPUTS
        draws = generators_of(seed, stream, range(len(rows)), place, step, inner)
        return draw_inputs(model, inputs, rows, draws)


def measure_hole_loss(material: Material) -> float:
    """Return the loss in the hole over the forget training set, without gradients."""
    inputs, model = material.inputs["forget", "train"], material.model
    total = 0.0
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(inputs)), model.evaluation_batch):
            total += len(rows) * float(model.hole_loss(inputs[rows]))
    material.measured.add(len(inputs))
    return total / len(inputs)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
