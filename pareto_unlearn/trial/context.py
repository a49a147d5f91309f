"""What the parts of a trial share: the sweep, the planned trial, and everything loaded for it."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import SplitData
from pareto_unlearn.metrics import DigitClassifier, Scoring
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.objectives import Features, Targets, feature_function
from pareto_unlearn.records import Scales, TrialSpec
from pareto_unlearn.trial.inputs import Rows
from pareto_unlearn.trial.ranks import ALONE, Ranks
from pareto_unlearn.trial.subset import Chosen
from pareto_unlearn.trial.targets import ComputedAnswers, ForgetTarget, ModelTarget

SHARE_OF_FORWARD = 1 / 3
"""What a forward pass costs, as a share of a forward and a backward pass."""


@dataclass(slots=True)
class MeasuredImages:
    """Counts the images that a model was run on to measure f1 or f2, without gradients.

    ``images`` is None once the number is unknown: a state of an older release that a trial was resumed from
    did not count them.
    """

    images: int | None = 0

    def add(self, images: int) -> None:
        """Count these images."""
        if self.images is not None:
            self.images += images

    def pairs(self, batch: int) -> float | None:
        """Return their cost in gradient pairs of ``batch`` forget and ``batch`` retain images."""
        return None if self.images is None else SHARE_OF_FORWARD * self.images / (2 * batch)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Material:
    """What every trial of a sweep starts from, on its device.

    ``model`` holds the original weights until a solver moves them. f1 and f2 are its distances from
    ``forget_target`` and ``retain_target``, in the features of ``space``; ``shared`` says that training the
    encoder includes parameters that the decoder uses too. ``classifier`` belongs to the embedded digits, None
    for all other images. ``scoring`` measures the published metrics, None where the sweep names none.
    ``seed`` is the sweep's. ``measured`` counts every image that f1 or f2 is measured on. ``ranks`` are the
    processes that solve the trial together. ``evaluated`` are the rows on which f1 and f2 of a finished model
    are measured, of sets that are not measured whole.
    """

    model: ImageToImage
    split: SplitData
    inputs: Mapping[tuple[str, str], Rows]
    targets: Targets
    forget_target: ForgetTarget
    retain_target: ModelTarget
    classifier: DigitClassifier | None
    scoring: Scoring | None
    device: torch.device
    space: str
    shared: bool
    seed: int
    measured: MeasuredImages = field(default_factory=MeasuredImages)
    ranks: Ranks = ALONE
    evaluated: Chosen = field(default_factory=dict)

    @property
    def scales(self) -> Scales:
        """The constants that turn raw f1 and f2 into units for people."""
        return self.targets.scales

    def features(self) -> Features:
        """Return the function from model inputs to the features of the model that f1 and f2 compare."""
        return feature_function(self.model, self.space)

    def trainable(self, space: str = "") -> list[nn.Parameter]:
        """Return the parameters that may change: all, or the encoder's; by default in ``self.space``."""
        return self.model.trainable(space or self.space, shared=self.shared)

    def original(self) -> ImageToImage:
        """Return the original model, to run beside ``model``; to be called before ``model`` is trained."""
        answers = self.retain_target.answers
        return answers.model if isinstance(answers, ComputedAnswers) else copy.deepcopy(self.model)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One planned trial with all it needs: the sweep's settings for it, its plan, and what is loaded."""

    config: SweepConfig
    spec: TrialSpec
    material: Material

    @property
    def scales(self) -> Scales:
        """The constants that turn raw f1 and f2 into units for people."""
        return self.material.scales

    @property
    def steps(self) -> int:
        """The number of steps that the sweep gives this trial."""
        return self.config.steps_of(self.spec)

    @property
    def leaves_bank(self) -> bool:
        """Whether the trial leaves checkpoints from which epsilons are mixed."""
        spec = self.spec
        return spec.parents is None and self.config.solver.leaves_bank(spec.role, spec.method)

    @property
    def measuring_pairs(self) -> float | None:
        """What all measuring so far cost, in gradient pairs of the trial; None if unknown."""
        return self.material.measured.pairs(self.config.solver.batch)

    def alone(self) -> "Trial":
        """Return the same trial as one process sees it, to do by itself what is not shared out."""
        return replace(self, material=replace(self.material, ranks=ALONE))

    def training_inputs(self, name: str) -> Rows:
        """Return the inputs of a training set: ``forget`` or ``retain``."""
        return self.material.inputs[name, "train"]

    def original_gap(self) -> Tensor:
        """Return f1 of the original above the floor, for every forget image of the training set."""
        return self.material.targets.forget_f1("train") - self.scales.f1_floor
