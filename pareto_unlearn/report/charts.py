"""The data of the page's figures and of its tables of models: frozen classes, no pandas, no Plotly.

Completeness, retained quality and quality loss are in percent in every class that has axes, because the axes
are in percent. ``None`` means that there is nothing to draw.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from pareto_unlearn.analysis.audit import ModelAudit
from pareto_unlearn.records import EmbeddedPicture
from pareto_unlearn.report.solution import Split

CURVE_COLUMNS = ("f1", "f2", "epsilon", "multiplier", "gradient_norm_f1", "gradient_norm_f2", "cosine")
"""Columns of the table of curves that the page draws against the step."""


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

    def only(self, columns: Collection[int]) -> "ClassTable":
        """Return the table with these columns alone."""
        places = [place for place, key in enumerate(self.columns) if key in columns]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in places),
            values=tuple(tuple(row[place] for place in places) for row in self.values),
        )

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
    """The solver on its mini-batches in one trial, some of its rows.

    ``columns`` holds what ``CURVE_COLUMNS`` names, by name; None stands for NaN and for nothing.
    """

    key: int
    step: tuple[int, ...]
    columns: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Pictures of held-out images before and after one trial, in the plane."""

    key: int
    points: tuple[EmbeddedPicture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelearningCurve:
    """The mean error of held-out forget images after some steps of an attack."""

    attack: str
    steps: tuple[int, ...]
    errors: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFacts:
    """What the audit found, with the index of each trial's solution and the curve of each solution.

    ``line`` is the command that runs all attacks.
    """

    models: tuple[ModelAudit, ...]
    keys: Mapping[str, int]
    curves: Mapping[int, RelearningCurve]
    control: RelearningCurve | None
    original: RelearningCurve | None
    line: str

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
