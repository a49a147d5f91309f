"""The dial: the model at any epsilon of a finished run, mixed from its models and verified without training.

The knots are a method's trials of a seed, the checkpoints that they left, and the original model, which ends
the range from above; ``trial.mixing`` mixes them. Every candidate is measured over the whole forget set, so
that what epsilon bounds lies within the tolerance of it by measurement, not by assumption.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Float
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, ORIGINAL, is_course
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
    exact_float32,
    load_material,
    load_original,
    measure_trial,
    plan_record,
    weights_digest,
)
from pareto_unlearn.trial.bank import unpack_values
from pareto_unlearn.trial.mixing import Knot, Mixer, pairs_around, weights_of

INTERPOLATED = "interpolated"


def dial(
    run_path: str,
    epsilon: float,
    *,
    absolute: bool = False,
    seed: int | None = None,
    method: str = EPSILON_CONSTRAINT,
    allow_import: bool = False,
) -> TrialRecord:
    """Make, measure and commit the model at one epsilon of a finished run, without training; return its row.

    The row has the columns of any trial, with the names of its two knots as parents. Its method is
    ``interpolated``, of a rival's models ``interpolated_<method>``. A second call with the same arguments
    returns the committed row.

    Args:
        run_path: the run directory.
        epsilon: a fraction of the valid range in (0, 1), or raw f1.
        absolute: epsilon is raw f1.
        seed: the seed whose solutions are mixed; None for the run's first seed.
        method: the method whose solutions are mixed.
        allow_import: run the code of the file that the run's family may be.

    Raises:
        ConfigError: epsilon lies outside what the solutions span, or the run has no range, or none of the
            method's checkpoints.
        RunLockedError: a sweep is writing to the run.
        StoreError: the checkpoint of a knot is damaged.
    """
    run = open_run(run_path)
    valid = _range_of(run, seed)
    target = epsilon if absolute else _epsilon_at(valid, epsilon)
    config = parse_config(
        run.store.read_text("sweep.yaml"), f"{run.path}/sweep.yaml", allow_import=allow_import, stored=True
    )
    weights = RunWeights(config, run)
    knots = gather_knots(weights, valid.seed, method)
    with run.store.lock():
        spec = _spec(config, valid, target, knots, method)
        known = run.store.records().get(spec.trial_id)
        return known or _interpolate(weights, spec, valid, knots)


def load_trial_model(store: RunStore, record: TrialRecord, *, allow_import: bool = False) -> ImageToImage:
    """Return the model of a trial on the CPU, in evaluation mode, its weights verified.

    Raises:
        StoreError: the checkpoint is damaged.
        WeightsError: the original model's weights, which describe the network, are missing.
    """
    config = parse_config(
        store.read_text("sweep.yaml"), f"{store.path}/sweep.yaml", allow_import=allow_import, stored=True
    )
    model = load_original(config)
    if record.phase is Phase.ORIGINAL:
        return model
    weights = store.read_checkpoint(record)[MODEL_FILE]
    model.load_state_dict(load_safetensors(weights))
    return model


@dataclass(slots=False, eq=False)
class RunWeights:
    """The weights of a run's models as vectors; the material is loaded when the first of them is wanted."""

    config: SweepConfig
    run: StoredRun

    @property
    def material(self) -> Material:
        """What the run's trials started from; its model takes the weights of others later."""
        return self._opened[0]

    def of_trial(self, record: TrialRecord) -> Float[Tensor, " p"]:
        """Return the weights of a trial; they are read through the model, which knows their names."""
        material, original = self._opened
        if record.phase is Phase.ORIGINAL:
            return original
        files = self.run.store.read_checkpoint(record)
        material.model.load_state_dict(load_safetensors(files[MODEL_FILE]))
        return weights_of(material)

    def of_checkpoint(self, path: TrialRecord, entry: BankEntry) -> Float[Tensor, " p"]:
        """Return the averaged weights of a path's checkpoint."""
        return unpack_values(self.run.store.read_bank_state(path.trial_id, entry))

    @cached_property
    def _opened(self) -> tuple[Material, Float[Tensor, " p"]]:
        """The material, and the weights of the original model, which its model holds at first only."""
        material = load_material(self.config, self.run.store.cache_dir(), self.run.info.config_hash[:16])
        return material, weights_of(material)


def gather_knots(weights: RunWeights, seed: int, method: str = EPSILON_CONSTRAINT) -> list[Knot]:
    """Return a seed's knots: trials of a method, the original, and the checkpoints of its path or courses.

    Raises:
        ConfigError: the run has no checkpoints of a rival.
    """
    run = weights.run
    own = [
        record
        for record in run.records
        if record.seed == seed
        and record.state in HAS_MODEL
        and record.phase not in (Phase.CHECK, Phase.HARDENED)
    ]
    banks = [record for record in own if record.role is Role.HIGHEST or _is_course(record)]
    known = dict.fromkeys((EPSILON_CONSTRAINT, *(record.method for record in banks)))
    if method not in known:
        raise ConfigError(
            f"method: expected a method of which {run.path} has checkpoints for seed {seed} "
            f"({', '.join(known)}), found {method}"
        )
    chosen = [record for record in own if record.method in (method, ORIGINAL)]
    knots = [_trial_knot(weights, record) for record in chosen]
    for path in (record for record in banks if record.method == method):
        knots += [_checkpoint_knot(weights, path, entry) for entry in run.store.read_bank(path.trial_id)]
    return knots


def _is_course(record: TrialRecord) -> bool:
    """Return whether a trial left the checkpoints of a rival; its epsilons have parents."""
    return record.phase is Phase.BASELINE and record.parents is None and is_course(record.method)


def _trial_knot(weights: RunWeights, record: TrialRecord) -> Knot:
    level, f2 = (math.nan if value is None else value for value in (record.reached, record.f2))
    return Knot(record.trial_id, level, f2, lambda: weights.of_trial(record))


def _checkpoint_knot(weights: RunWeights, path: TrialRecord, entry: BankEntry) -> Knot:
    """Return a checkpoint of a path as a knot; its costs may come from a sample of the images."""
    name = f"{path.trial_id}@{entry.step}"
    return Knot(name, entry.level, entry.f2, lambda: weights.of_checkpoint(path, entry), exact=False)


@exact_float32()
def _interpolate(
    weights: RunWeights, spec: TrialSpec, valid: ValidRange, knots: Sequence[Knot]
) -> TrialRecord:
    material, run = weights.material, weights.run
    trial = Trial(weights.config, spec, material)
    mixture = Mixer(material, weights.config.solver.completeness).best(knots, spec.epsilon or 0.0)
    if mixture is None:
        raise ConfigError(_outside_message(valid, spec.epsilon or 0.0, knots))
    record = replace(
        plan_record(spec, run.records[0].code_version),
        start=INTERPOLATED,
        state=TrialState.DONE,
        reason=f"interpolated with {mixture.crossing.evaluations} evaluations of f1",
        parents=mixture.names,
        interpolation=mixture.crossing.share,
        measuring_pairs=trial.measuring_pairs,
    )
    flat = FlatParameters(material.trainable())
    flat.load(mixture.values)
    return run.store.commit(measure_trial(trial, flat, record, ()))


def _outside_message(valid: ValidRange, target: float, knots: Sequence[Knot]) -> str:
    spanned = [knot.level for knot in knots if math.isfinite(knot.level)]
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


def _spec(
    config: SweepConfig, valid: ValidRange, target: float, knots: Sequence[Knot], method: str
) -> TrialSpec:
    """Return the trial of a mixture.

    That of a rival's models is a baseline, or it would count as a point of our front.
    """
    pairs = pairs_around(knots, target)
    if not pairs:
        raise ConfigError(_outside_message(valid, target, knots))
    names = [knot.name for pair in pairs for knot in pair]
    is_own = method == EPSILON_CONSTRAINT
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
        phase=Phase.EPSILON if is_own else Phase.BASELINE,
        method=INTERPOLATED if is_own else f"{INTERPOLATED}_{method}",
        seed=valid.seed,
        epsilon=target,
        epsilon_fraction=valid.fraction_of(target),
        range_width=valid.upper - valid.lower,
    )
