"""The data of the report, between the store and the figures: the facts of a run, and all of the page.

Frozen classes, no pandas, no Plotly. ``None`` means that there is nothing to show.
"""

from dataclasses import dataclass

from pareto_unlearn.analysis.likeness import Likeness
from pareto_unlearn.analysis.robustness import EndSpread, StepGain
from pareto_unlearn.analysis.scores import Scores
from pareto_unlearn.config import ForgetImages
from pareto_unlearn.records import TrialState
from pareto_unlearn.report.charts import (
    AuditFacts,
    ClassTable,
    Curve,
    Embedding,
    FrontView,
    ImageGrid,
    MetricPanel,
    Progress,
)
from pareto_unlearn.report.solution import Solution


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

    ``shown`` holds the indices of the models with pictures and columns in the tables, and ``left_out`` those
    without in a large run; ``pictures_line`` and the name of a model make a command that shows it.
    ``slider`` holds the indices of the solutions that the slider selects, ``seed_sliders`` those of each seed
    where there are three or more, ``start`` the solution selected first, which is the picked or recommended
    one if there is any. ``spread_of_ends`` belongs to the lower and the upper end of the valid range; None if
    only one seed has a range.
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
    shown: tuple[int, ...]
    left_out: tuple[int, ...]
    pictures_line: str
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
