"""The data of the report, between the store and the figures: frozen classes, no pandas, no Plotly.

Completeness, retained quality and quality loss are ratios in ``Measured``, and percent in every class that
has axes, because the axes are in percent. ``None`` means that there is nothing to draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pareto_unlearn.analysis.audit import ModelAudit
from pareto_unlearn.analysis.likeness import Likeness
from pareto_unlearn.analysis.robustness import EndSpread, StepGain
from pareto_unlearn.analysis.scores import Scores
from pareto_unlearn.config import ForgetImages
from pareto_unlearn.records import HAS_MODEL, EmbeddedPicture, TrialState


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


CURVE_COLUMNS = ("f1", "f2", "epsilon", "multiplier", "gradient_norm_f1", "gradient_norm_f2", "cosine")
"""Columns of the table of curves that the page draws against the step."""
UNDRAWN = (Kind.CHECK, Kind.HARDENED)
"""Models that are no points of a front: solved with twice the steps, or under a further constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The objectives of one model on one split, and the readable quantities derived from them.

    ``level`` is f1 of what epsilon bounds: the mean, or the worst class. ``requested`` is the completeness at
    which f1 equals epsilon; only the training split has it, and only where epsilon bounds the mean.
    """

    f1: float | None
    f2: float | None
    level: float | None
    completeness: float | None
    worst_class: float | None
    worst_5pct: float | None
    retained_quality: float | None
    requested: float | None = None

    @property
    def quality_loss(self) -> float | None:
        """The fraction of the retained variance that is lost (FVU)."""
        return None if self.retained_quality is None else 1.0 - self.retained_quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The newest attempt of one trial that ended."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The part of the plane that a figure shows, in axis units (percent or metric values)."""

    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One model in the figure of the front; ``key`` is its index in ``Report.solutions``.

    ``x`` is completeness and ``y`` quality loss, in percent. ``drawn`` is the place of the marker: the point
    itself, or the edge of the box for a point outside it. ``requested`` is the completeness at which f1
    equals epsilon, in percent.
    """

    key: int
    x: float
    y: float
    drawn: tuple[float, float]
    dominated: bool
    requested: float | None

    @property
    def off_scale(self) -> bool:
        """Whether the marker sits on the edge of the box because the point lies outside."""
        return self.drawn != (self.x, self.y)


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The edges of what the fronts of several seeds attain, as (completeness, quality loss) in percent.

    ``best`` is attained by at least one seed, ``median`` by half of them, ``worst`` by all.
    """

    seeds: int
    best: tuple[tuple[float, float], ...]
    median: tuple[tuple[float, float], ...]
    worst: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontView:
    """The front as seen on one split, with a linear or logarithmic axis of quality loss."""

    split: Split
    logarithmic: bool
    points: tuple[FrontPoint, ...]
    box: Box
    band: Band | None = None

    @property
    def keys(self) -> tuple[int, ...]:
        """The indices of the models in the view."""
        return tuple(point.key for point in self.points)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """One fixed image; ``cells`` are data URLs in the order of ``ImageGrid.columns``."""

    set: str
    image_id: str
    class_name: str
    width: int
    height: int
    input: str | None
    truth: str | None
    cells: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGrid:
    """The same images for every model.

    ``columns`` are indices of solutions; ``left_out`` counts the images dropped to keep the page small.
    """

    columns: tuple[int, ...]
    rows: tuple[GridRow, ...]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """Completeness (ratio) of forget classes: ``values[i][j]`` of ``classes[i]`` in model ``columns[j]``."""

    split: Split
    columns: tuple[int, ...]
    classes: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    def worst(self, column: int) -> tuple[str, float] | None:
        """Return the class that a column's model forgets least, with its completeness; None if unmeasured."""
        known = [
            (row[column], name)
            for name, row in zip(self.classes, self.values, strict=True)
            if row[column] is not None
        ]
        if not known:
            return None
        value, name = min(known, key=lambda pair: (pair[0] or 0.0, pair[1]))
        return name, value or 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPoint:
    """One model in a metric panel; the script decides how far the axes reach."""

    key: int
    x: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSeries:
    """One metric on one image set.

    ``reference`` is the original model's value, ``n`` the different numbers of images behind the values.
    """

    set: str
    points: tuple[MetricPoint, ...]
    reference: float | None
    n: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPanel:
    """One metric with its protocol and split, for both sets."""

    metric: str
    protocol: str
    split: str
    series: tuple[MetricSeries, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The solver on its mini-batches in one trial, some of ``recorded`` rows.

    ``columns`` holds what ``CURVE_COLUMNS`` names, by name; None stands for NaN and for nothing.
    """

    key: int
    step: tuple[int, ...]
    columns: Mapping[str, tuple[float | None, ...]]
    recorded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Pictures of held-out images before and after one trial, in the plane."""

    key: int
    points: tuple[EmbeddedPicture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsilonRange:
    """The valid range of epsilon of one seed.

    ``raw`` is in units of f1, ``normalised`` in e (ratio), both of what epsilon bounds; ``bounded`` names
    that f1. ``upper_source`` and ``reason`` tell where the upper end comes from.
    """

    seed: int
    raw: tuple[float, float]
    normalised: tuple[float, float] | None
    upper_source: str
    reason: str
    bounded: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervolume:
    """One method's share of the reference box, as (seed, share), and its cost in gradient pairs per seed.

    ``measuring_pairs`` is the cost of measuring, empty if a release without that column stored some of it.
    """

    method: str
    values: tuple[tuple[int, float], ...]
    gradient_pairs: tuple[int, ...]
    measuring_pairs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScores:
    """One method's scores in fixed units, the median over seeds, and its cost in gradient pairs per seed.

    ``measuring_pairs`` is the cost of measuring, empty if a release without that column stored some of it.
    """

    method: str
    heldout: Scores
    train: Scores
    gradient_pairs: tuple[int, ...]
    measuring_pairs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelearningCurve:
    """The mean error of held-out forget images after some steps of an attack."""

    attack: str
    steps: tuple[int, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFacts:
    """What the audit found, with the index of each trial's solution and the curve of each solution."""

    models: tuple[ModelAudit, ...]
    keys: Mapping[str, int]
    curves: Mapping[int, RelearningCurve]
    control: RelearningCurve | None
    original: RelearningCurve | None

    def of(self, key: int) -> ModelAudit | None:
        """Return the audit of the solution with an index; None if it was not audited."""
        return next((one for one in self.models if self.keys[one.trial_id] == key), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one method's areas grew to with its trials of one seed.

    ``areas`` holds, for each split and box (see ``analysis.scores.BOXES``), the share that is dominated
    after each entry of ``trials`` and ``pairs``: the models so far, and the gradient pairs with measuring.
    """

    method: str
    seed: int
    trials: tuple[int, ...]
    pairs: tuple[float, ...]
    areas: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """What the trials of one phase took; ``measuring_pairs`` is None if a release before it stored some."""

    phase: str
    trials: int
    gradient_pairs: int
    measuring_pairs: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the numbers came from; None or empty for what a run of an older release did not store."""

    started: str | None
    versions: str | None
    devices: tuple[str, ...]
    weights_sha256: str | None
    manifest_sha256: str | None
    images: tuple[tuple[str, int], ...]
    spent: tuple[PhaseCost, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The index of the solution to take, the reason, and its name on the page.

    The name is ``picked`` if a user chose it, and ``recommended`` if nothing is known of what they need.
    """

    key: int
    why: str
    name: str = "recommended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All data of the page.

    ``slider`` holds the indices of the solutions that the slider selects, ``seed_sliders`` those of each seed
    where there are three or more, ``start`` the solution selected
    first, which is the picked or recommended one if there is any. ``spread_of_ends`` belongs to the lower
    and the upper end of the valid range; None if only one seed has a range.
    """

    name: str
    smoke: bool
    verdict: str
    objective: str
    code_version: str
    config_hash: str
    schema_version: int
    reference_point: tuple[float, float] | None
    seeds: tuple[int, ...]
    states: tuple[tuple[TrialState, int], ...]
    steps: tuple[int, ...]
    protocols: tuple[str, ...]
    classes_forget: tuple[str, ...]
    classes_retain: tuple[str, ...]
    ranges: tuple[EpsilonRange, ...]
    spread_of_ends: tuple[EndSpread, EndSpread] | None
    hypervolumes: tuple[Hypervolume, ...]
    scores: tuple[MethodScores, ...]
    gains: tuple[StepGain, ...]
    likeness: tuple[Likeness, ...]
    solutions: tuple[Solution, ...]
    slider: tuple[int, ...]
    seed_sliders: tuple[tuple[int, tuple[int, ...]], ...]
    start: int | None
    recommended: Recommendation | None
    origin: Origin
    progress: tuple[Progress, ...]
    fronts: tuple[FrontView, ...]
    grid: ImageGrid
    class_tables: tuple[ClassTable, ...]
    panels: tuple[MetricPanel, ...]
    audit: AuditFacts
    curves: tuple[Curve, ...]
    embeddings: tuple[Embedding, ...]
    trial_columns: tuple[str, ...]
    trial_rows: tuple[tuple[str | float | int | None, ...], ...]
    sweep_file: str
    forget_images: ForgetImages
