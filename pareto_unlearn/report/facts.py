"""What the report draws: frozen facts between the store and the figures. Plain data, no pandas, no Plotly.

Shares (completeness, retained quality, quality loss) are ratios in ``Measured`` and percent in everything that
has axes, because the axes are in percent. ``None`` means that there is nothing to draw.
"""

from dataclasses import dataclass
from enum import StrEnum

from pareto_unlearn.analysis.likeness import Likeness
from pareto_unlearn.analysis.robustness import EndSpread, StepGain
from pareto_unlearn.records import HAS_MODEL, EmbeddedPicture, TrialState


class Split(StrEnum):
    """The images that a number was measured on."""

    TRAIN = "train"
    HELDOUT = "heldout"

    @property
    def words(self) -> str:
        """The words that the page uses for the split."""
        return {"train": "training images", "heldout": "held-out images"}[self]


class Kind(StrEnum):
    """The part a trial plays in the picture; it decides marker and place. Checks are in no figure but the curves."""

    ORIGINAL = "original"
    BOUNDARY = "boundary"
    EPSILON = "epsilon"
    BASELINE = "baseline"
    CHECK = "check"
    CONTROL = "control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The objectives of one model on one split and the units for people derived from them.

    ``requested`` is the completeness that the constraint f1 <= epsilon asks for; it exists on the training split only.
    """

    f1: float | None
    f2: float | None
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
    """One trial that ended, in its newest attempt."""

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

    @property
    def has_model(self) -> bool:
        """Whether the trial left weights behind."""
        return self.state in HAS_MODEL

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
    """One model in the front: ``key`` is its index in ``Report.solutions``.

    ``x`` is completeness and ``y`` quality loss in percent; ``drawn`` is where the marker goes (the edge of the box for a point
    outside it), ``requested`` the completeness in percent that epsilon asks for.
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
class FrontView:
    """The front as seen on one split, with a linear or logarithmic axis of quality loss."""

    split: Split
    logarithmic: bool
    points: tuple[FrontPoint, ...]
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """One fixed image: ``cells`` follow ``ImageGrid.columns`` and are data URLs."""

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
    """The same images for every model: ``columns`` are indices of solutions; ``left_out`` counts images dropped for size."""

    columns: tuple[int, ...]
    rows: tuple[GridRow, ...]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """Completeness of every forget class (ratio): ``values[i][j]`` is class ``classes[i]`` in model ``columns[j]``."""

    split: Split
    columns: tuple[int, ...]
    classes: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    def worst(self, column: int) -> tuple[str, float] | None:
        """Return the class that one column's model forgets least, with its completeness."""
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
    """One model in a metric panel; ``drawn`` as in ``FrontPoint``."""

    key: int
    x: float
    value: float
    low: float | None
    high: float | None
    drawn: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSeries:
    """One metric on one image set; ``reference`` is the original model's value, ``n`` the images counted."""

    set: str
    points: tuple[MetricPoint, ...]
    reference: float | None
    n: tuple[int, ...]
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPanel:
    """One metric with its protocol and split, for both sets."""

    metric: str
    protocol: str
    split: str
    series: tuple[MetricSeries, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The solver's mini-batch objectives of one trial, thinned for the page; NaN never appears (None instead)."""

    key: int
    step: tuple[int, ...]
    f1: tuple[float | None, ...]
    f2: tuple[float | None, ...]
    epsilon: tuple[float | None, ...]
    recorded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Pictures of held-out images before and after one trial, in the plane."""

    key: int
    points: tuple[EmbeddedPicture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsilonRange:
    """The valid range of one seed: raw, normalised (e, ratio), and why its upper end is what it is."""

    seed: int
    raw: tuple[float, float]
    normalised: tuple[float, float] | None
    upper_source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypervolume:
    """The share of the reference box that one method dominates, and the gradient pairs that it cost, one value each a seed."""

    method: str
    values: tuple[tuple[int, float], ...]
    gradient_pairs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the page shows. ``slider`` are the indices that the slider runs over, ``start`` the first selection.

    ``spread_of_ends`` is of the lower and the upper end of the valid range; None where only one seed has a range.
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
    gains: tuple[StepGain, ...]
    likeness: tuple[Likeness, ...]
    solutions: tuple[Solution, ...]
    slider: tuple[int, ...]
    start: int | None
    fronts: tuple[FrontView, ...]
    grid: ImageGrid
    class_tables: tuple[ClassTable, ...]
    panels: tuple[MetricPanel, ...]
    curves: tuple[Curve, ...]
    embeddings: tuple[Embedding, ...]
    trial_columns: tuple[str, ...]
    trial_rows: tuple[tuple[str | float | int | None, ...], ...]
    sweep_file: str
