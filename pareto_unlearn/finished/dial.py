"""The dial: the model at any epsilon between two solved epsilons, interpolated and verified without training.

A knot is a model whose weights can be mixed. Along the straight line between the weights of two knots f1 runs
from below epsilon to above it, so a bracketing secant finds the point where f1 meets epsilon. Two pairs of
knots are tried, and the mixture with the lower f2 is kept:

- the neighbours of epsilon among the non-dominated trials of the seed. The original model, which ends the
  range from above, counts as a trial here.
- the ends of that edge of a lower convex hull which lies at epsilon. The hull is that of these trials and of
  the checkpoints of the seed's path. A mixture of two models far apart averages the noise of their gradients
  away, so a longer edge often gives a lower f2; where it does not, the first pair wins.

Every candidate is measured over the whole forget set, so f1 <= epsilon + tolerance holds by measurement, not
by assumption. The f1 and f2 that a path's bank lists for its checkpoints may come from a sample
(``solver.bank.images``); they only choose the edge. A checkpoint at an end of the edge is then measured over
all images, and the edge is left out if epsilon lies outside it by these values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pareto_unlearn.analysis.front import is_non_dominated, is_on_lower_hull
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, ORIGINAL
from pareto_unlearn.config import SweepConfig, parse_config, trial_id
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.records import (
    HAS_MODEL,
    MODEL_FILE,
    BankEntry,
    Phase,
    Role,
    TrialRecord,
    TrialSpec,
    TrialState,
    ValidRange,
)
from pareto_unlearn.solver import FlatParameters
from pareto_unlearn.store import RunStore, StoredRun, open_run
from pareto_unlearn.trial import (
    Material,
    Trial,
    load_material,
    load_original,
    measure_trial,
    plan_record,
    weights_digest,
)
from pareto_unlearn.trial.measuring import measure_completeness, measure_retain_loss

__all__ = [
    "INTERPOLATED",
    "TOLERANCE",
    "Crossing",
    "Knot",
    "Mixer",
    "Mixture",
    "bracket",
    "dial",
    "find_crossing",
    "gather_knots",
    "load_trial_model",
]

INTERPOLATED = "interpolated"
TOLERANCE = 0.002
"""How far f1 may end above epsilon, as a share of f1's own range."""
MAX_EVALUATIONS = 30


@dataclass(frozen=True, slots=True)
class Crossing:
    """The point where f1 meets epsilon: share of the upper end, measured f1, number of evaluations."""

    share: float
    f1: float
    evaluations: int


@dataclass(frozen=True, slots=True)
class Knot:
    """A model that can be mixed: a trial's, the original, or with ``entry`` a checkpoint of a path."""

    record: TrialRecord
    entry: BankEntry | None = None

    @property
    def name(self) -> str:
        """The name in a row's ``parents``: the trial's id, or ``<trial_id>@<step>`` for a checkpoint."""
        return self.record.trial_id if self.entry is None else f"{self.record.trial_id}@{self.entry.step}"

    @property
    def costs(self) -> tuple[float, float]:
        """f1 and f2; NaN if not measured. Those of a checkpoint may come from a sample of the images."""
        measured = self.record if self.entry is None else self.entry
        f1 = float("nan") if measured.f1 is None else measured.f1
        f2 = float("nan") if measured.f2 is None else measured.f2
        return f1, f2

    @property
    def f1(self) -> float:
        """The first of ``costs``."""
        return self.costs[0]


Pair = tuple[Knot, Knot]
"""The knots below and above epsilon."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The point between two knots whose f1 meets epsilon, with its f2 and its flat weights."""

    pair: Pair
    crossing: Crossing
    f2: float
    values: Float[Tensor, " p"]


def dial(
    run_path: str,
    epsilon: float,
    *,
    absolute: bool = False,
    seed: int | None = None,
    allow_import: bool = False,
) -> TrialRecord:
    """Make, measure and commit the model at one epsilon of a finished run, without training; return its row.

    The row has the columns of any trial, with method ``interpolated`` and the names of its two knots as
    parents. A second call with the same arguments returns the committed row.

    Args:
        run_path: the run directory.
        epsilon: a fraction of the valid range in (0, 1), or raw f1.
        absolute: epsilon is raw f1.
        seed: the seed whose solutions are mixed; None for the run's first seed.
        allow_import: run the code of the file that the run's family may be.

    Raises:
        ConfigError: epsilon lies outside what the solutions span, or the run has no range.
        RunLockedError: a sweep is writing to the run.
        StoreError: the checkpoint of a knot is damaged.
    """
    run = open_run(run_path)
    valid = _range_of(run, seed)
    target = epsilon if absolute else _epsilon_at(valid, epsilon)
    pairs = _choose_pairs(run, valid, target)
    with run.store.lock():
        config = parse_config(run.store.read_text("sweep.yaml"), "sweep.yaml", allow_import=allow_import)
        spec = _spec(config, valid, target, pairs)
        known = run.store.records().get(spec.trial_id)
        return known or _interpolate(config, spec, run, pairs)


def load_trial_model(store: RunStore, record: TrialRecord, *, allow_import: bool = False) -> ImageToImage:
    """Return the model of a trial on the CPU, in evaluation mode, its weights verified.

    Raises:
        StoreError: the trial left no checkpoint, or it is damaged.
        WeightsError: the original model's weights, which describe the network, are missing.
    """
    config = parse_config(store.read_text("sweep.yaml"), "sweep.yaml", allow_import=allow_import)
    weights = store.read_checkpoint(record)[MODEL_FILE]
    model = load_original(config)
    model.load_state_dict(load_safetensors(weights))
    return model


def find_crossing(
    measure: Callable[[float], float], target: float, tolerance: float, ends: tuple[float, float]
) -> Crossing:
    """Return the share of the upper end at which f1 meets ``target``, by the Illinois method.

    Args:
        measure: returns f1 at a share in [0, 1].
        target: the epsilon.
        tolerance: in units of f1.
        ends: known f1 at shares 0 and 1; the first is at most ``target``, the second at least ``target``.

    Returns:
        The best share after at most ``MAX_EVALUATIONS``: its f1 lies within ``tolerance`` of ``target``, or
        below.
    """
    low, high = (0.0, ends[0] - target), (1.0, ends[1] - target)
    best, weights = Crossing(0.0, ends[0], 0), [low[1], high[1]]
    for evaluations in range(1, MAX_EVALUATIONS + 1):
        if abs(best.f1 - target) <= tolerance or high[0] - low[0] < 1e-9:
            return best
        share = (low[0] * weights[1] - high[0] * weights[0]) / (weights[1] - weights[0])
        if not low[0] < share < high[0]:
            share = (low[0] + high[0]) / 2
        f1 = measure(share)
        if f1 - target <= tolerance:
            best = Crossing(share, f1, evaluations)
        best = replace(best, evaluations=evaluations)
        if f1 <= target:
            low, weights = (share, f1 - target), [f1 - target, weights[1] / 2]
        else:
            high, weights = (share, f1 - target), [weights[0] / 2, f1 - target]
    return best


class Mixer:
    """Mixes the weights of two knots and measures the mixture, in the material's own model.

    Args:
        material: freshly loaded, so that its model is the original.
        store: holds the weights of the knots.
    """

    def __init__(self, material: Material, store: RunStore) -> None:
        self.flat = FlatParameters(material.trainable())
        self._original = self.flat.values.clone()
        self._material, self._store = material, store

    def mix(self, pair: Pair, epsilon: float) -> Mixture | None:
        """Return the mixture of two knots whose f1 over the training split meets epsilon.

        Returns:
            None if epsilon does not lie between the f1 of the knots, both measured over the whole split.

        Raises:
            StoreError: the checkpoint of a knot is damaged.
        """
        lower, upper = pair
        first, second = self._values_of(lower), self._values_of(upper)
        ends = self._exact_f1(lower, first), self._exact_f1(upper, second)
        if not ends[0] <= epsilon < ends[1]:
            return None
        tolerance = TOLERANCE * self._material.scales.f1_range
        crossing = find_crossing(
            lambda share: self._measure_f1(first.lerp(second, share)), epsilon, tolerance, ends
        )
        values = first.lerp(second, crossing.share)
        self.flat.load(values)
        return Mixture(pair, crossing, measure_retain_loss(self._material, "train"), values)

    def _measure_f1(self, values: Float[Tensor, " p"]) -> float:
        self.flat.load(values)
        return measure_completeness(self._material, "train").f1

    def _exact_f1(self, knot: Knot, values: Float[Tensor, " p"]) -> float:
        return knot.f1 if knot.entry is None else self._measure_f1(values)

    def _values_of(self, knot: Knot) -> Float[Tensor, " p"]:
        if knot.entry is not None:
            state = load_safetensors(self._store.read_bank_state(knot.record.trial_id, knot.entry))
            return state["values"].to(self.flat.values.device)
        if knot.record.phase is Phase.ORIGINAL:
            return self._original
        weights = self._store.read_checkpoint(knot.record)[MODEL_FILE]
        self._material.model.load_state_dict(load_safetensors(weights))
        return self.flat.values.clone()


def gather_knots(run: StoredRun, seed: int) -> tuple[list[Knot], list[Knot]]:
    """Return a seed's knots: epsilon-constrained trials and the original, then checkpoints of its path."""
    own = [
        record
        for record in run.records
        if record.seed == seed and record.state in HAS_MODEL and record.phase is not Phase.CHECK
    ]
    trials = [Knot(record) for record in own if record.method in (EPSILON_CONSTRAINT, ORIGINAL)]
    paths = [record for record in own if record.role is Role.HIGHEST]
    return trials, [Knot(path, entry) for path in paths for entry in run.store.read_bank(path.trial_id)]


def bracket(
    knots: Sequence[Knot],
    target: float,
    keep: Callable[[Float[np.ndarray, "n 2"]], Bool[np.ndarray, " n"]],
) -> Pair | None:
    """Return the two knots next to a raw epsilon, below and above it; None if epsilon lies outside the knots.

    Args:
        knots: models to choose from.
        target: the raw epsilon.
        keep: marks, from rows of (f1, f2), the knots that may be chosen.
    """
    costs = np.array([knot.costs for knot in knots], dtype=float).reshape(-1, 2)
    kept = [knot for knot, chosen in zip(knots, keep(costs), strict=True) if chosen]
    below = [knot for knot in kept if knot.f1 <= target]
    above = [knot for knot in kept if knot.f1 > target]
    if not below or not above:
        return None
    return max(below, key=lambda knot: knot.f1), min(above, key=lambda knot: knot.f1)


def _interpolate(config: SweepConfig, spec: TrialSpec, run: StoredRun, pairs: Sequence[Pair]) -> TrialRecord:
    material = load_material(config, run.store.cache_dir(), run.info.config_hash[:16])
    mixer = Mixer(material, run.store)
    mixtures = [mixture for pair in pairs if (mixture := mixer.mix(pair, spec.epsilon or 0.0)) is not None]
    if not mixtures:
        raise ConfigError(
            f"epsilon: raw {spec.epsilon:.6g} lies between checkpoints of the path by their sample, but "
            "not by all images: choose one inside what the trials span"
        )
    best = min(mixtures, key=lambda mixture: mixture.f2)
    evaluations = sum(mixture.crossing.evaluations for mixture in mixtures)
    record = replace(
        plan_record(spec, best.pair[0].record.code_version),
        start=INTERPOLATED,
        state=TrialState.DONE,
        reason=f"interpolated, best of {len(mixtures)} with {evaluations} evaluations of f1",
        parents=",".join(knot.name for knot in best.pair),
        interpolation=best.crossing.share,
    )
    mixer.flat.load(best.values)
    return run.store.commit(measure_trial(Trial(config, spec, material), mixer.flat, record, ()))


def _choose_pairs(run: StoredRun, valid: ValidRange, target: float) -> list[Pair]:
    """Return the neighbours of epsilon among the trials, then the edge of the hull if it is another pair."""
    trials, checkpoints = gather_knots(run, valid.seed)
    every = [*trials, *checkpoints]
    found = (bracket(trials, target, is_non_dominated), bracket(every, target, is_on_lower_hull))
    pairs = {_names(pair): pair for pair in found if pair is not None}
    if not pairs:
        raise ConfigError(_outside_message(valid, target, every))
    return list(pairs.values())


def _names(pair: Pair) -> tuple[str, str]:
    return pair[0].name, pair[1].name


def _outside_message(valid: ValidRange, target: float, knots: Sequence[Knot]) -> str:
    spanned = [knot.f1 for knot in knots]
    ends = f"{min(spanned):.6g} to {max(spanned):.6g}" if spanned else "nothing"
    return (
        f"epsilon: raw {target:.6g} (fraction {valid.fraction_of(target):.3g}) lies outside what the "
        f"solutions of seed {valid.seed} span ({ends}): choose one inside"
    )


def _range_of(run: StoredRun, seed: int | None) -> ValidRange:
    ranges = [valid for valid in run.info.ranges if seed is None or valid.seed == seed]
    if not ranges:
        raise ConfigError(
            f"{run.path} has no valid range of epsilon{'' if seed is None else f' for seed {seed}'}: "
            "finish its sweep first"
        )
    return ranges[0]


def _epsilon_at(valid: ValidRange, fraction: float) -> float:
    if not 0.0 < fraction < 1.0:
        raise ConfigError(
            f"epsilon: expected a fraction of the valid range in (0, 1), found {fraction:g}; "
            "for raw f1 use --absolute"
        )
    return valid.epsilon_at(fraction)


def _spec(config: SweepConfig, valid: ValidRange, target: float, pairs: Sequence[Pair]) -> TrialSpec:
    names = [name for pair in pairs for name in _names(pair)]
    identity = trial_id(
        config,
        weights_sha256=weights_digest(config),
        phase=Phase.EPSILON,
        method=":".join([INTERPOLATED, *names]),
        role=None,
        epsilon=target,
        weight=None,
        seed=valid.seed,
    )
    return TrialSpec(
        trial_id=identity,
        phase=Phase.EPSILON,
        method=INTERPOLATED,
        seed=valid.seed,
        epsilon=target,
        epsilon_fraction=valid.fraction_of(target),
        range_width=valid.upper - valid.lower,
    )
