"""Identity of trials and sweeps: hashes of all settings that can change a result, and of no others."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pareto_unlearn.config.measurements import COUNTED_MEASURING, MEASURING_KEYS
from pareto_unlearn.config.schema import SweepConfig
from pareto_unlearn.records import Phase, Role, phase_solved

_IDENTITY_VERSION = 1
_COUNTED_CHECKPOINT_EVERY = 200
"""What hashes of runs hold for ``solver.checkpoint_every``: its default while it counted."""
_SHARED_SECTIONS = {"data", "task", "objective", "solver", "seed", "evaluate"}
_LIMITS = ("images", "pictures")
"""Keys of ``evaluate`` that hashes hold only where they are set, as there were none before."""


def trial_id(
    config: SweepConfig,
    *,
    weights_sha256: str,
    phase: Phase,
    method: str,
    role: Role | None,
    epsilon: float | None,
    weight: float | None,
    seed: int,
) -> str:
    """Return the 16 hex digits that name a trial: equal exactly when the result must be equal.

    The original weights count by their content, not by their path. The number of CPU cores counts, because it
    is the number of threads and so decides the order of sums on a CPU. Not counted are the place and time of
    a trial, the metrics measured afterwards, and the sweep's other trials.

    Args:
        config: the sweep.
        weights_sha256: hex digest of the original model's weights, and of the reference's if f1 uses one.
        phase: the trial's purpose. A check has the id of the checked trial in a sweep with twice the steps.
        method: the method that solves it.
        role: the end of the front for a boundary trial, else None.
        epsilon: raw f1; every bit counts.
        weight: coefficient of the forget loss of a baseline, else None.
        seed: seed of the trial; ``config.seed``, which decides the split, counts as well.
    """
    own = TrialIds(config, weights_sha256)
    return own(phase=phase, method=method, role=role, epsilon=epsilon, weight=weight, seed=seed)


class TrialIds:
    """``trial_id`` for the trials of one sweep: what many of them share is worked out once."""

    def __init__(self, config: SweepConfig, weights_sha256: str) -> None:
        self._config, self._weights_sha256 = config, weights_sha256
        self._shared: dict[tuple[Phase, str], dict[str, Any]] = {}

    def __call__(
        self,
        *,
        phase: Phase,
        method: str,
        role: Role | None,
        epsilon: float | None,
        weight: float | None,
        seed: int,
    ) -> str:
        """Return the id of a trial; see ``trial_id``."""
        if (phase, method) not in self._shared:
            self._shared[phase, method] = self._work_out(phase, method)
        return _digest(
            {
                **self._shared[phase, method],
                "phase": str(phase_solved(phase, role)),
                "method": str(method),
                "role": None if role is None else str(role),
                "epsilon": None if epsilon is None else float(epsilon).hex(),
                "weight": None if weight is None else float(weight).hex(),
                "seed": int(seed),
            }
        )[:16]

    def _work_out(self, phase: Phase, method: str) -> dict[str, Any]:
        config = self._config
        dumped = config.for_phase(phase).model_dump(mode="json")
        del dumped["solver"]["checkpoint_every"], dumped["objective"]["reference"]
        if phase is not Phase.HARDENED:
            del dumped["solver"]["relearning"]
        training = {"training_steps": config.training_steps_of(method)} if phase is Phase.CONTROL else {}
        # A mixture is made by what it measures, so the images that it is measured on decide its weights.
        limit = config.evaluate.images
        return {
            **training,
            **({} if limit is None else {"evaluated_images": limit}),
            "identity_version": _IDENTITY_VERSION,
            "model": _model_identity(config),
            "weights_sha256": self._weights_sha256,
            "data": _data_identity(dumped["data"]),
            "split_seed": config.seed,
            "task": _task_identity(dumped["task"]),
            "objective": dumped["objective"],
            "solver": dumped["solver"],
            "cpus_per_trial": config.run.cpus_per_trial,
        }


def result_fields(config: SweepConfig) -> dict[str, Any]:
    """Return the fields in which two sweeps must agree to share a run directory, as plain nested values.

    The paths of checkpoints are not among them, since a moved file is the same file; ``config_hash`` counts
    what the files hold. Nor is ``solver.relearning``: like a control, its trial may be added to a run.
    ``solver.checkpoint_every``, which changes no result, has one value for all sweeps, and so have the keys
    of ``evaluate`` that say what is measured: measurements may be added to a run.
    """
    dumped = config.model_dump(mode="json", include=_SHARED_SECTIONS)
    del dumped["solver"]["relearning"]
    dumped["solver"]["checkpoint_every"] = _COUNTED_CHECKPOINT_EVERY
    dumped["evaluate"] |= COUNTED_MEASURING
    # The content of a folder of weights is verified and recorded; its place changes no result.
    del dumped["evaluate"]["weights"], dumped["evaluate"]["weights_sha256"]
    for key in _LIMITS:
        if dumped["evaluate"][key] is None:
            del dumped["evaluate"][key]
    del dumped["objective"]["reference"]
    dumped["data"], dumped["task"] = _data_identity(dumped["data"]), _task_identity(dumped["task"])
    cpus = {"cpus_per_trial": config.run.cpus_per_trial}
    return {"seed": config.seed, "model": _model_identity(config), **dumped, "run": cpus}


def config_hash(config: SweepConfig, weights_sha256: str) -> str:
    """Return the SHA-256 hex digest of ``result_fields`` and of the weights' digest, as in ``trial_id``."""
    return _digest({"weights_sha256": weights_sha256, **result_fields(config)})


def former_config_hashes(config: SweepConfig, weights_sha256: str, old: SweepConfig) -> tuple[str, str]:
    """Return the ``config_hash`` of two earlier releases.

    In the second a run kept what it measures, in the first its ``solver.checkpoint_every`` too.

    Args:
        config: the sweep.
        weights_sha256: as in ``config_hash``.
        old: the sweep that the run was started with, which says what it kept.
    """
    fields = result_fields(config)
    fields["evaluate"] |= measuring_fields(old)
    second = _digest({"weights_sha256": weights_sha256, **fields})
    fields["solver"]["checkpoint_every"] = old.solver.checkpoint_every
    return _digest({"weights_sha256": weights_sha256, **fields}), second


def measuring_fields(config: SweepConfig) -> dict[str, Any]:
    """Return the keys of ``evaluate`` that only say what is measured, as plain values."""
    return config.evaluate.model_dump(mode="json", include=set(MEASURING_KEYS))


def describe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line per different value, such as ``solver.steps: 400 -> 800``, sorted by key."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if key not in before or key not in after or before[key] != after[key]
    ]


def _model_identity(config: SweepConfig) -> dict[str, Any]:
    """Return the model section with files by content instead of path: weights elsewhere, a family's here."""
    row = config.model.row
    identity = config.model.model_dump(mode="json", exclude={"checkpoint", "tokenizer"})
    if config.model.schedule == "published":
        del identity["schedule"]  # trials of before the key have none
    if config.model.variant not in row.sized:
        del identity["patch"]
        if config.model.side in (None, row.resized.get(config.model.variant, (None,))[0]):
            del identity["side"]
    file = {} if row.source_sha256 is None else {"family_sha256": row.source_sha256}
    return {**identity, "family": row.name, **file}


def _data_identity(dumped: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the images; without single images to forget, as it was before there were any."""
    elsewhere = {"cache_bytes", "cache_folder", "follow_links"}  # where bytes come from, not which
    later = set() if dumped["forget"] is not None else {"forget", "same_class", "forget_split"}
    return {key: value for key, value in dumped.items() if key not in elsewhere | later}


def _task_identity(dumped: dict[str, Any]) -> dict[str, Any]:
    """Return the task section; without a mask of one's own, as it was before there were any."""
    return {key: value for key, value in dumped.items() if key != "masks" or value is not None}


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "(absent)"
    value = values[key]
    return value if isinstance(value, str) else json.dumps(value)


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
