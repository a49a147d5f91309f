"""The facts that stages pass to one another: what a trial is, how it ended, what it measured.

Lowest layer: plain frozen data without torch, Ray or pyarrow. ``trial`` fills these, ``store``
writes and reads them, ``schedule``, ``sweep`` and ``report`` decide and draw from them. A new column of a
table is a new field here, annotated ``| None`` and None by default; ``store.schemas`` has the whole rule.

Units: ``f1`` and ``f2`` are raw objective values (mean squared error per value, or mean L2 norm per
image). ``e`` is (f1 - floor) / (f1(original) - floor), without unit; completeness is 1 - e as a ratio;
retained quality is 1 - f2 / variance of the original model's outputs on the retain set.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Literal, Protocol, Self, TypeVar

from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, WITHOUT_WEIGHT

SCHEMA_VERSION = 1
WEIGHTS_VARIABLE = "PARETO_UNLEARN_WEIGHTS"
"""The environment variable with the folder of the metrics' networks, for sweep files that name no folder."""


class Phase(StrEnum):
    """What a trial is for."""

    ORIGINAL = "original"
    BOUNDARY = "boundary"
    EPSILON = "epsilon"
    BASELINE = "baseline"
    CONTROL = "control"
    CHECK = "check"
    HARDENED = "hardened"


class Role(StrEnum):
    """The end of the front that a boundary trial solves."""

    HIGHEST = "highest"
    LOWEST = "lowest"


def phase_solved(phase: Phase, role: Role | None) -> Phase:
    """Return the phase whose problem a trial solves.

    A check solves the problem of a boundary trial (it has a role) or of an epsilon trial a second time.
    """
    if phase is not Phase.CHECK:
        return phase
    return Phase.EPSILON if role is None else Phase.BOUNDARY


class TrialState(StrEnum):
    """The state of a trial; the last six are endings and are committed with a reason."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    INFEASIBLE = "INFEASIBLE"
    UNCONVERGED = "UNCONVERGED"
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"
    STALE = "STALE"


HAS_MODEL = frozenset({TrialState.DONE, TrialState.INFEASIBLE, TrialState.UNCONVERGED})
"""Endings with finite weights, so with a checkpoint and metrics."""

BROKEN = frozenset({TrialState.DIVERGED, TrialState.FAILED})
MACHINE_FAULT = "fault of the machine: "
"""How the reason of a FAILED row begins that is no result: the same sweep command runs the trial again."""
"""States that make a sweep partial (exit code 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """One planned trial: with the sweep file, everything that decides its result.

    ``epsilon`` is raw f1; ``epsilon_fraction`` is its place in the valid range (0 to 1), and ``range_width``
    is the width of that range. ``weight`` is the knob of a baseline, which ``catalogue.methods`` names; 1 for
    methods that have none. ``parents`` is the trial from whose bank, or for ``hardened`` from whose weights,
    the solve starts; None for a start from the original model. ``checks`` is the trial that a check solves
    again with twice the steps. ``attempt`` counts from 1.
    """

    trial_id: str
    phase: Phase
    method: str
    seed: int
    role: Role | None = None
    epsilon: float | None = None
    epsilon_fraction: float | None = None
    range_width: float | None = None
    weight: float | None = None
    parents: str | None = None
    checks: str | None = None
    attempt: int = 1

    @property
    def phase_solved(self) -> Phase:
        """The phase whose problem the trial solves; see ``phase_solved``."""
        return phase_solved(self.phase, self.role)

    @property
    def label(self) -> str:
        """A short name of the trial for people."""
        return f"check {self._name.removeprefix('epsilon ')}" if self.phase is Phase.CHECK else self._name

    @property
    def _name(self) -> str:
        if self.phase is Phase.HARDENED:
            return str(self.phase)
        if self.role is not None:
            return str(self.role)
        parts = [self.method]
        if self.weight is not None and self.method not in WITHOUT_WEIGHT:
            parts.append(f"{self.weight:g}")
        if self.epsilon_fraction is not None:
            parts[0] = "epsilon" if self.method == EPSILON_CONSTRAINT else self.method
            parts.append(f"{self.epsilon_fraction:.1%}")
        return " ".join(parts)


_PLANNED = tuple(field.name for field in fields(TrialSpec))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One row of the ``trials`` table: a trial that ended, with its evidence.

    None means not measured (or not applicable), NaN means measured and not a number. ``f1``, ``f2`` and
    everything derived from them belong to the training set, columns with ``heldout`` to the held-out set.

    - ``start``: what the trial began with: ``original``, ``scratch``, ``highest``, or ``path:LOWER+UPPER``,
      the steps of two checkpoints of the trial in ``parents`` (``original`` for the original model).
    - ``parents``: of an epsilon mixed from a bank, the trial that left the bank. Of an interpolated row, its
      two parents, lower f1 first (trial ids, or ``<trial_id>@<step>`` for a checkpoint).
    - ``interpolation``: the share of the upper of both in the weights.
    - ``checks``: of a check, the trial that it solved again with twice the steps.
    - ``f1_error``, ``f2_error`` and the same of the held-out sets: standard errors, where a sweep caps the
      images that are measured (``evaluate.images``) below those of the set; None where all were measured.
    - ``level``: raw f1 of what epsilon bounds: of the mean, or with ``per_class`` of the worst class.
    - ``share_above_epsilon``: the share of the forget images whose own e exceeds the e of epsilon;
      ``..._high`` is the upper end of its one-sided 95 % Clopper-Pearson interval, a bound for images of the
      same kind that were not measured.
    - ``learning_rate``: the largest of the solve. ``gradient_pairs``: its steps, those of its scan, and half
      of the further backward passes of its steps, each of ``solver.batch`` images at most.
    - ``measuring_pairs``: what measuring cost while the trial was solved, in gradient pairs: its images over
      those of a pair (``solver.batch`` of each set), and a third of that, because a pass without gradients
      takes a third of a pass with them. The measuring of the finished model is not in it.
    - ``device``: what computed, by its name.
    - ``multiplier``: the last of the solver. ``residual_*``: from gradients over the whole training sets at
      the end (a first-order residual, no proof of optimality).
    """

    trial_id: str
    attempt: int
    phase: Phase
    role: Role | None
    method: str
    seed: int
    start: str
    state: TrialState
    reason: str
    epsilon: float | None = None
    epsilon_fraction: float | None = None
    range_width: float | None = None
    weight: float | None = None
    parents: str | None = None
    checks: str | None = None
    interpolation: float | None = None
    f1: float | None = None
    f2: float | None = None
    f1_heldout: float | None = None
    f2_heldout: float | None = None
    level: float | None = None
    level_heldout: float | None = None
    e: float | None = None
    e_heldout: float | None = None
    completeness: float | None = None
    completeness_worst_class: float | None = None
    completeness_worst_5pct: float | None = None
    completeness_heldout: float | None = None
    completeness_worst_class_heldout: float | None = None
    completeness_worst_5pct_heldout: float | None = None
    share_above_epsilon: float | None = None
    share_above_epsilon_high: float | None = None
    share_above_epsilon_heldout: float | None = None
    share_above_epsilon_heldout_high: float | None = None
    retained_quality: float | None = None
    retained_quality_heldout: float | None = None
    violation: float | None = None
    learning_rate: float | None = None
    multiplier: float | None = None
    residual_multiplier: float | None = None
    residual_norm_f1: float | None = None
    residual_norm_f2: float | None = None
    residual_cosine: float | None = None
    f1_image_std: float | None = None
    f1_error: float | None = None
    f1_error_heldout: float | None = None
    f2_error: float | None = None
    f2_error_heldout: float | None = None
    steps: int = 0
    gradient_pairs: int = 0
    measuring_pairs: float | None = None
    skipped_steps: int = 0
    seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    num_parameters: int | None = None
    device: str | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    code_version: str = ""

    @property
    def reached(self) -> float | None:
        """What epsilon bounds, in raw f1: ``level``, or ``f1`` in rows older than that column."""
        return self.f1 if self.level is None else self.level

    @property
    def label(self) -> str:
        """The label of the spec this record belongs to."""
        return self.spec.label

    @property
    def is_fault_of_machine(self) -> bool:
        """Whether the trial ended for what surrounds it, so that the same command runs it again."""
        return self.state is TrialState.FAILED and self.reason.startswith(MACHINE_FAULT)

    @property
    def spec(self) -> TrialSpec:
        """The part of the record that was planned."""
        return TrialSpec(**{name: getattr(self, name) for name in _PLANNED})


@dataclass(frozen=True, slots=True, kw_only=True)
class BankEntry:
    """One checkpoint of a path or of a rival's course: its step, its raw costs, and its file.

    ``epsilon`` is the raw epsilon at that step, None for methods without one.

    f1, f2 and ``level`` (see ``TrialRecord``) are measured with the averaged weights on images of the
    training sets, at most ``solver.bank.images`` of each. ``learning_rate`` is that of the solve. ``sha256``
    belongs to the file with these weights.
    """

    step: int
    epsilon: float | None
    f1: float
    f2: float
    level: float = math.nan
    learning_rate: float
    sha256: str

    def __post_init__(self) -> None:
        if math.isnan(self.level):  # in lists older than the field
            object.__setattr__(self, "level", self.f1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRow:
    """The result of a short path at one step size, one of several in a scan.

    ``hypervolume`` is the share that it dominates of the box from the floor to the original's f1, and from 0
    to the variance of its outputs.
    """

    learning_rate: float
    steps: int
    hypervolume: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanProgress:
    """How far the scan of a path's step size is, while its trial runs.

    The short path under way is number ``place``, counted from 1, of ``count``, and has taken ``step`` of
    ``steps``. ``count`` grows while the best step size lies at an edge. ``rows`` is empty until the last has
    ended; it then has every step size tried, ``learning_rate`` is the chosen one, and ``is_at_edge`` tells
    that it is the smallest or the largest.
    """

    place: int
    count: int
    learning_rate: float
    step: int
    steps: int
    rows: tuple[ScanRow, ...] = ()
    is_at_edge: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRow:
    """One row of ``curves``: the solver at one step, on its mini-batch (not on the whole set).

    ``f1``, ``f2`` and ``epsilon`` are raw. ``max_loss`` has losses of its own: there f1 and f2 are its
    training losses on forget and retain images. Multiplier, control and gradient norms are in
    the solver's units.
    """

    step: int
    f1: float
    f2: float
    multiplier: float
    control: float
    gradient_norm_f1: float
    gradient_norm_f2: float
    cosine: float
    learning_rate: float
    epsilon: float | None
    images_per_second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One row of ``metrics``: a number with the protocol that defines it.

    ``set`` is forget or retain, ``split`` is train or heldout. ``low`` and ``high`` bound an interval, None
    if no interval was computed. ``class_name`` is None for the whole set.
    """

    set: str
    split: str
    metric: str
    protocol: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    class_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One row of ``samples``: one fixed held-out image as this trial reconstructs it.

    ``kind`` is ``output`` for every trial; the original model's trial also holds ``input`` and ``truth``.
    ``image`` is an encoded lossless WebP file.
    """

    set: str
    image_id: str
    class_name: str
    kind: str
    image: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPicture:
    """One held-out image as a model reconstructs it, placed in the plane by its features.

    ``version`` is the model that made it: original or unlearned.
    """

    set: str
    image_id: str
    version: str
    x: float
    y: float


MODEL_FILE = "model.safetensors"
"""In a checkpoint: all weights of the model by name."""
BANK_FILE = "bank.json"
"""In the checkpoint of a trial that leaves a bank: every ``BankEntry``, as JSON objects by rising f1."""
EMBEDDING_FILE = "embedding.json"
"""In a checkpoint: every ``EmbeddedPicture``, as a list of JSON objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """All that one trial leaves behind. ``files`` maps a file name to its bytes (model.safetensors)."""

    record: TrialRecord
    curves: tuple[CurveRow, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    samples: tuple[SampleRow, ...] = ()
    files: Mapping[str, bytes]


class Scalable(Protocol):
    """A number, or an array of them, that a unit can be changed of."""

    def __sub__(self, other: float, /) -> Self:
        """Return the difference."""
        ...

    def __truediv__(self, other: float, /) -> Self:
        """Return the quotient."""
        ...


Value = TypeVar("Value", bound=Scalable)


@dataclass(frozen=True, slots=True)
class Unit:
    """An affine unit of a loss: value in the unit = (raw - offset) / scale."""

    offset: float = 0.0
    scale: float = 1.0

    def of(self, raw: Value) -> Value:
        """Return a raw value, or an array of them, in this unit."""
        return (raw - self.offset) / self.scale

    def raw(self, value: float) -> float:
        """Return the raw value of a value in this unit."""
        return value * self.scale + self.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Constants of a run that turn raw objectives into units for people.

    ``f1_floor`` is the smallest f1 any model can reach (the variance of the noise target for the mean
    squared error); ``f1_original`` is the original model's f1 and ``variance_retain`` the variance
    of its outputs, both on the training split; the ``_heldout`` twins belong to the held-out split.
    """

    f1_floor: float
    f1_original: float
    variance_retain: float
    f1_floor_heldout: float
    f1_original_heldout: float
    variance_retain_heldout: float

    @property
    def f1_range(self) -> float:
        """f1(original) - floor, the unit of e."""
        return self.f1_original - self.f1_floor

    @property
    def f1_unit(self) -> Unit:
        """e: 0 at the floor, 1 at the original's f1."""
        return Unit(self.f1_floor, self.f1_range)

    @property
    def f2_unit(self) -> Unit:
        """The variance of the original's outputs on retain images."""
        return Unit(0.0, self.variance_retain)

    def normalised_f1(self, f1: float) -> float:
        """Return e of a raw training f1."""
        return self.f1_unit.of(f1)

    def f1_at(self, e: float, split: str = "train") -> float:
        """Return the raw f1 at a value of e."""
        if split == "train":
            return self.f1_unit.raw(e)
        return self.f1_floor_heldout + e * (self.f1_original_heldout - self.f1_floor_heldout)

    def floor(self, split: str) -> float:
        """Return the smallest f1 that any model can reach on a split."""
        return self.f1_floor if split == "train" else self.f1_floor_heldout


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidRange:
    """The open interval of raw epsilons that are valid for one seed, as Phase I found it.

    ``upper_source`` is what gave the upper end: ``lowest``, ``path`` or ``original``. ``reason`` explains
    why it is not the lowest boundary, and is empty if it is.
    """

    seed: int
    lower: float
    upper: float
    upper_source: str
    reason: str = ""

    def epsilon_at(self, fraction: float) -> float:
        """Return the raw epsilon at a fraction of the range (0 = lower end)."""
        return self.lower + fraction * (self.upper - self.lower)

    def fraction_of(self, epsilon: float) -> float:
        """Return where a raw epsilon lies in the range (0 = lower end, 1 = upper end)."""
        return (epsilon - self.lower) / (self.upper - self.lower)


def name_bounded(bounded: str | None) -> str:
    """Return the f1 that epsilon bounds in words; ``bounded`` is ``solver.completeness``, None if unknown."""
    return "f1 of the worst class" if bounded == "per_class" else "f1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """The content of ``run.json``. ``reference_point`` is (f1, f2) raw, fixed once after Phase I.

    ``smoke`` is True for a run that only tried the sweep out: its numbers mean nothing. ``bounded`` is what
    epsilon bounds (``solver.completeness``); None in runs of older releases.

    ``started`` (ISO 8601, UTC), ``versions`` (of Python and the packages that compute, on the driver) and
    ``weights_sha256`` (of what decides the original's outputs) say where the numbers came from; no result
    depends on them. Of a continued run they are those of its first driver; None in runs of older releases.
    """

    name: str
    schema_version: int
    code_version: str
    config_hash: str
    objective: str
    classes_forget: tuple[str, ...]
    classes_retain: tuple[str, ...]
    scales: Scales | None = None
    ranges: tuple[ValidRange, ...] = ()
    reference_point: tuple[float, float] | None = None
    smoke: bool = False
    bounded: str | None = None
    started: str | None = None
    versions: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """The images that a model family reads: ``side`` x ``side`` pixels of ``channels`` channels.

    ``fit`` is how an image gets that size. ``squash`` resizes straight to side x side and does not keep the
    aspect (MAE's demo, Palette). ``crop`` brings the shorter side to ``side`` and cuts out the centre (MAGE).
    ``exact`` requires images that have the size already. ``resample`` is the filter of a resize, with
    antialiasing.
    """

    side: int
    channels: int
    fit: Literal["exact", "squash", "crop"] = "exact"
    resample: Literal["bilinear", "bicubic"] = "bicubic"
