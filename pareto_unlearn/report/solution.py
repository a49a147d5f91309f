"""One trial as the page sees it: what it is, and what was measured on which images."""

from dataclasses import dataclass
from enum import StrEnum

from pareto_unlearn.records import HAS_MODEL, TrialState


class Split(StrEnum):
    """The images that a number was measured on."""

    TRAIN = "train"
    HELDOUT = "heldout"

    @property
    def words(self) -> str:
        """The name of the split on the page."""
        return {"train": "training images", "heldout": "held-out images"}[self]


class Kind(StrEnum):
    """The role of a trial in the figures; it decides marker and place. ``UNDRAWN`` appear in curves only."""

    ORIGINAL = "original"
    BOUNDARY = "boundary"
    EPSILON = "epsilon"
    BASELINE = "baseline"
    CHECK = "check"
    CONTROL = "control"
    HARDENED = "hardened"


UNDRAWN = (Kind.CHECK, Kind.HARDENED)
"""Models that are no points of a front: solved with twice the steps, or under a further constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The objectives of one model on one split, and the readable quantities derived from them.

    ``level`` is f1 of what epsilon bounds: the mean, or the worst class. ``requested`` is the completeness at
    which f1 equals epsilon; only the training split has it, and only where epsilon bounds the mean. The
    errors are standard errors of f1 and f2, None or 0 where all images were measured.
    """

    f1: float | None
    f2: float | None
    level: float | None
    completeness: float | None
    worst_class: float | None
    worst_5pct: float | None
    retained_quality: float | None
    requested: float | None = None
    f1_error: float | None = None
    f2_error: float | None = None

    @property
    def quality_loss(self) -> float | None:
        """The fraction of the retained variance that is lost (FVU)."""
        return None if self.retained_quality is None else 1.0 - self.retained_quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The newest attempt of one trial that ended.

    ``weights`` is the digest of its model's file, None without one: trials that share it left one model.
    """

    trial_id: str
    attempt: int
    label: str
    kind: Kind
    method: str
    seed: int
    state: TrialState
    reason: str
    epsilon: float | None
    epsilon_fraction: float | None
    train: Measured
    heldout: Measured
    violation: float | None
    multiplier: float | None
    residual_multiplier: float | None
    residual_norm_f1: float | None
    residual_norm_f2: float | None
    residual_cosine: float | None
    steps: int
    seconds: float | None
    start: str
    weights: str | None
    export: str
    """The command that writes the model to a file; empty without a file of its own."""

    @property
    def mixed_from(self) -> str:
        """What the weights at the start were mixed from, in words; empty if they were those of one model."""
        if self.start.startswith("path:"):
            return "the path's checkpoints"
        return "other models" if self.start == "interpolated" else ""

    @property
    def has_model(self) -> bool:
        """Whether the trial left weights behind."""
        return self.state in HAS_MODEL

    def gap_to_epsilon(self, split: Split) -> float | None:
        """Return how far f1 of what epsilon bounds lies above epsilon; None without either."""
        level = self.on(split).level
        return None if self.epsilon is None or level is None else level - self.epsilon

    def on(self, split: Split) -> Measured:
        """Return what was measured on a split."""
        return self.train if split is Split.TRAIN else self.heldout
