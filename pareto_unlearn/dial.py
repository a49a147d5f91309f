"""Any epsilon between two solved ones, without training: interpolate two checkpoints and verify what comes out.

Along the straight line between the weights of two neighbouring solutions f1 runs from below epsilon to above it, so a
bracketing secant finds where it meets epsilon. Every candidate is measured over the whole forget set; what is
returned satisfies f1 <= epsilon + tolerance by measurement, not by assumption. The neighbours may be the original
model, which ends the range from above.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pareto_unlearn.config import SweepConfig, parse_config, trial_id
from pareto_unlearn.front import is_non_dominated
from pareto_unlearn.models import weights_sha256
from pareto_unlearn.records import (
    HAS_MODEL,
    ConfigError,
    Phase,
    TrialRecord,
    TrialSpec,
    TrialState,
    ValidRange,
)
from pareto_unlearn.solver import FlatParameters
from pareto_unlearn.store import Run, RunStore, load_run
from pareto_unlearn.trial import Material, load_material, measure_trial, plan_record
from pareto_unlearn.trial.evidence import measure_completeness

__all__ = ["INTERPOLATED", "TOLERANCE", "Crossing", "dial", "find_crossing", "mix_weights"]

INTERPOLATED = "interpolated"
TOLERANCE = 0.002
"""How far f1 may end from epsilon, as a share of f1's own range."""
MAX_EVALUATIONS = 30

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where f1 meets epsilon: the share of the upper neighbour, the f1 measured there, and the evaluations it took."""

    share: float
    f1: float
    evaluations: int


def dial(run_path: str, epsilon: float, *, absolute: bool = False, seed: int | None = None) -> TrialRecord:
    """Make, measure and commit the model at one epsilon of a finished run; no training.

    The row is like that of any trial, with method ``interpolated`` and its two parents. Asking twice gives the row
    there already is.

    Args:
        run_path: the run directory.
        epsilon: a fraction of the valid range in (0, 1), or raw f1.
        absolute: epsilon is raw f1.
        seed: whose solutions to go between; None for the run's first seed.

    Raises:
        ConfigError: epsilon lies outside what the solutions span, or the run has no range.
        RunLockedError: a sweep is writing to the run.
        StoreError: a parent's checkpoint is damaged.
    """
    run = load_run(run_path)
    valid = _range_of(run, seed)
    target = epsilon if absolute else _epsilon_at(valid, epsilon)
    lower, upper = _neighbours(run, valid, target)
    with run.store.lock():
        config = parse_config(run.store.read_text("sweep.yaml"), "sweep.yaml")
        spec = _spec(config, valid, target, (lower, upper))
        known = run.store.records().get(spec.trial_id)
        return known or _interpolate(config, spec, run.store, run.info.config_hash[:16], (lower, upper))


def find_crossing(
    measure: Callable[[float], float], target: float, tolerance: float, ends: tuple[float, float]
) -> Crossing:
    """Find a share of the upper end whose f1 lies within ``tolerance`` of ``target``, by the Illinois method.

    Args:
        measure: f1 at a share in [0, 1].
        target: the epsilon.
        tolerance: in units of f1.
        ends: f1 at shares 0 and 1, known already; the first at most ``target``, the second at least.

    Returns:
        The best share found; within ``MAX_EVALUATIONS`` its f1 is in the tolerance, or below it.
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


def mix_weights(
    config: SweepConfig,
    material: Material,
    weights: tuple[Weights, Weights],
    ends: tuple[float, float],
    epsilon: float,
) -> Crossing:
    """Load the mixture of two models whose f1 over the training split meets epsilon; see ``find_crossing``."""
    first, second = weights

    def load(share: float) -> None:
        material.model.load_state_dict(
            {name: tensor.lerp(second[name], share) for name, tensor in first.items()}
        )

    def measure(share: float) -> float:
        load(share)
        return measure_completeness(config, material, "train").f1

    crossing = find_crossing(measure, epsilon, TOLERANCE * material.targets.scales.f1_range, ends)
    load(crossing.share)
    return crossing


def _interpolate(
    config: SweepConfig,
    spec: TrialSpec,
    store: RunStore,
    targets_key: str,
    parents: tuple[TrialRecord, TrialRecord],
) -> TrialRecord:
    material = load_material(config, store.cache_dir(), targets_key)
    original = {name: tensor.clone() for name, tensor in material.model.state_dict().items()}
    first, second = (_weights_of(parent, store, original) for parent in parents)
    ends = (_f1_of(parents[0]), _f1_of(parents[1]))
    crossing = mix_weights(config, material, (first, second), ends, spec.epsilon or 0.0)
    record = replace(
        plan_record(spec, parents[0].code_version),
        start=INTERPOLATED,
        state=TrialState.DONE,
        reason=f"interpolated with {crossing.evaluations} evaluations of f1",
        parents=",".join(parent.trial_id for parent in parents),
        interpolation=crossing.share,
    )
    flat = FlatParameters(material.trainable(config.objective.space))
    return store.commit(measure_trial(config, spec, material, flat, record, ()))


def _weights_of(record: TrialRecord, store: RunStore, original: Weights) -> Weights:
    if record.phase is Phase.ORIGINAL:
        return original
    return load_safetensors(store.read_checkpoint(record)["model.safetensors"])


def _neighbours(run: Run, valid: ValidRange, target: float) -> tuple[TrialRecord, TrialRecord]:
    """Return the solutions of one seed next to epsilon; dominated ones are left out first."""
    solved = [
        record
        for record in run.records
        if record.state in HAS_MODEL
        and record.method in ("epsilon_constraint", "original")
        and record.phase is not Phase.CHECK
        and record.seed == valid.seed
    ]
    costs = np.array([(record.f1, record.f2) for record in solved], dtype=float).reshape(-1, 2)
    front = [record for record, kept in zip(solved, is_non_dominated(costs), strict=True) if kept]
    below = [record for record in front if _f1_of(record) <= target]
    above = [record for record in front if _f1_of(record) > target]
    if not below or not above:
        raise ConfigError(_outside_message(valid, target, front))
    return max(below, key=_f1_of), min(above, key=_f1_of)


def _outside_message(valid: ValidRange, target: float, front: Sequence[TrialRecord]) -> str:
    spanned = [_f1_of(record) for record in front]
    ends = f"{min(spanned):.6g} to {max(spanned):.6g}" if spanned else "nothing"
    return (
        f"epsilon: raw {target:.6g} (fraction {valid.fraction_of(target):.3g}) lies outside what the solutions of seed "
        f"{valid.seed} span ({ends}): choose one inside"
    )


def _range_of(run: Run, seed: int | None) -> ValidRange:
    ranges = [valid for valid in run.info.ranges if seed is None or valid.seed == seed]
    if not ranges:
        raise ConfigError(
            f"{run.path} has no valid range of epsilon{'' if seed is None else f' for seed {seed}'}: finish its sweep first"
        )
    return ranges[0]


def _epsilon_at(valid: ValidRange, fraction: float) -> float:
    if not 0.0 < fraction < 1.0:
        raise ConfigError(
            f"epsilon: expected a fraction of the valid range in (0, 1), found {fraction:g}; for raw f1 say --absolute"
        )
    return valid.epsilon_at(fraction)


def _spec(
    config: SweepConfig, valid: ValidRange, target: float, parents: tuple[TrialRecord, TrialRecord]
) -> TrialSpec:
    identity = trial_id(
        config,
        weights_sha256=weights_sha256(config.model),
        phase=Phase.EPSILON,
        method=":".join((INTERPOLATED, *(parent.trial_id for parent in parents))),
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


def _f1_of(record: TrialRecord) -> float:
    return float("nan") if record.f1 is None else record.f1
