"""The ``solver`` section: how a trial of either phase is solved."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, is_course
from pareto_unlearn.config.value_types import Count, Decay, Positive, Section, refusal
from pareto_unlearn.config.wording import found
from pareto_unlearn.records import Phase, Role, phase_solved

_DEFAULTS_OF_UPDATE: dict[str, dict[str, Any]] = {
    "averaged": {
        "learning_rate": 0.003,
        "learning_rate_end": 0.02,
        "clip": None,
        "start": "path",
        "completeness": "per_class",
        "beta": 5.0,
        "scaled": True,
        "ramp": 0.4,
    },
    "paper": {
        "learning_rate": 0.2,
        "learning_rate_end": 1.0,
        "clip": 1.0,
        "start": "original",
        "completeness": "mean",
        "beta": 2.0,
        "scaled": False,
        "ramp": 0.0,
    },
}
_BY_UPDATE: Any = object()
"""Stands for a key that is left out, where null means something else."""
PATH_STEPS = 6
"""Steps of a path, in steps of a solve from the original: those of nine epsilons together, near enough."""
LEAST_SCAN_STEPS, MOST_OF_SCAN = 48, 0.2
"""A short path of fewer steps says nothing of a step size: on the digits, scans of 12 steps chose one that
cost a path of 240 a quarter of its retained quality. A short path takes as many, unless that is more than the
share.
"""
_LEAST_NARROW_TOLERANCE = 0.001
"""Ten times the original model's own f2 in bfloat16: 0.00009 of the outputs' variance on the digits."""


class BoundarySection(Section):
    """Phase I: how strongly a boundary trial descends the loss that it minimises first."""

    alpha: Positive = Field(
        default=1.0, description="weight of the descent of the first loss, alpha * |g1|^delta"
    )
    delta: float = Field(default=2.0, ge=1, description="power of the gradient norm in alpha * |g1|^delta")


class LowestSection(Section):
    """Phase I, lowest completeness: f1 is minimised while f2 stays (nearly) at its optimum."""

    kind: Literal["tolerance", "paper"] = Field(
        default="tolerance",
        description="tolerance: min f1 s.t. f2 <= tolerance; paper: the paper's rule with the roles of f1 "
        "and f2 swapped",
    )
    tolerance: Positive = Field(
        default=0.001,
        description="largest f2, as a fraction of the variance of the original outputs on the retain set",
    )
    beta: Positive = Field(default=200.0, description="control gain on f2 - tolerance")
    learning_rate: Positive = Field(
        default=0.001, description="step size of this trial; null: a third of solver.learning_rate"
    )


class ControlSection(Section):
    """Phase II: control of f1 towards epsilon, psi = beta * (f1 - epsilon)^delta."""

    beta: Positive = Field(
        default=5.0, description="control gain on f1 - epsilon; null: 5, or 2 with update paper"
    )
    delta: Count = Field(default=1, description="power of f1 - epsilon; odd, so that the sign is kept")
    scaled: bool = Field(
        default=True,
        description="multiply psi by |g1| |g2|, so that beta does not depend on the scale of either loss; "
        "null: true, or false with update paper",
    )
    squared: bool = Field(
        default=False,
        description="multiply psi by |g1|^2 instead, as section 5.4 of arXiv:2408.01689 has it",
    )
    ramp: Decay = Field(
        default=0.4,
        description="fraction of the steps over which epsilon descends from the original's f1; "
        "null: 0.4, or 0 with update paper",
    )

    @field_validator("squared")
    @classmethod
    def _check_one_factor(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("scaled"):
            raise refusal("expected at most one of scaled and squared, found both; set scaled: false")
        return value

    @field_validator("delta")
    @classmethod
    def _check_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise refusal(
                f"expected an odd integer, found {found(value)}; an even power loses the sign of f1 - epsilon"
            )
        return value


class BudgetSection(Section):
    """Steps of a seed's whole front, in place of path.steps."""

    total_steps: Count | None = Field(
        default=None,
        description="gradient pairs of the path, its scan, all epsilons and the lowest boundary in all; "
        "null: not limited",
    )
    wall_steps: Count | None = Field(
        default=None,
        description="steps from start to end with run.max_concurrent trials at a time; null: not limited",
    )

    @field_validator("wall_steps")
    @classmethod
    def _check_single_budget(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("total_steps") is not None:
            raise refusal("expected at most one of total_steps and wall_steps, found both; remove one")
        return value


class PathSection(Section):
    """The solve through all epsilons, down, low and slowly up; it solves the highest boundary too."""

    steps: Count = Field(
        default=2400,
        description="steps of the path, and of a baseline's run that leaves a whole front; null: six times "
        "solver.steps",
    )
    learning_rate: Positive = Field(
        default=0.0015,
        description="largest step size, before the scan's factor; null: half of solver.learning_rate",
    )
    scan: Annotated[tuple[Positive, ...], Field(strict=False)] = Field(
        default=(0.5, 1.0, 2.0),
        description="factors of learning_rate, each tried on a short path; the best is used; []: "
        "learning_rate unchanged",
    )
    scan_length: Decay = Field(
        default=0.05,
        description="steps of each short path, as a share of path.steps; at least 48 steps, or a "
        "fifth of a path of fewer than 240",
    )
    end: float = Field(
        default=0.015, gt=0, lt=0.5, description="lowest epsilon, in e (1 = original, 0 = floor)"
    )
    top: float = Field(default=0.85, gt=0, le=1, description="epsilon at the last step, in e")
    descent: float = Field(
        default=0.15, gt=0, lt=1, description="share of the steps that go from the original down to the end"
    )
    stay: float = Field(
        default=0.3, gt=0, lt=1, description="share of the steps that stay near the end; the rest rises"
    )
    wait_above: Positive = Field(
        default=0.12,
        description="the descent waits while f2 is above this share of the outputs' variance, "
        "for at most 80 % of the steps",
    )
    average: float = Field(
        default=0.015, gt=0, lt=1, description="share of the steps over which weights are averaged"
    )

    @field_validator("top")
    @classmethod
    def _check_above_end(cls, value: float, info: ValidationInfo) -> float:
        end = info.data.get("end", 0.0)
        if value <= 2 * end:
            raise refusal(f"expected more than twice path.end ({end:g}), found {found(value)}")
        return value

    @field_validator("stay")
    @classmethod
    def _check_room_to_rise(cls, value: float, info: ValidationInfo) -> float:
        descent = info.data.get("descent", 0.0)
        if value + descent >= 1:
            raise refusal(
                f"expected less than 1 together with path.descent ({descent:g}), found {found(value)}: "
                "nothing is left for the rise"
            )
        return value

    @property
    def scan_steps(self) -> int:
        """Steps of each short path of the scan."""
        return self.scan_steps_of(self.steps)

    def scan_steps_of(self, steps: int) -> int:
        """Return the steps of each short path of the scan for a path of ``steps`` steps."""
        least = min(LEAST_SCAN_STEPS, round(MOST_OF_SCAN * steps))
        return max(round(self.scan_length * steps), least, 1)


class HoldSection(Section):
    """Phase II with start path: each trial starts from the mixture of checkpoints at its epsilon."""

    steps: int = Field(
        default=0,
        ge=0,
        description="steps for which each trial holds its epsilon from there; 0: the mixture itself is "
        "measured, which is the better use of the same steps unless every epsilon has a slot of its own",
    )
    learning_rate: Positive = Field(
        default=0.00075,
        description="largest step size of these steps; it falls linearly to zero; null: a quarter of "
        "solver.learning_rate",
    )


class RelearningSection(Section):
    """A further trial of each seed: the highest boundary, trained on to resist relearning."""

    level: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="loss in the hole of forget images that an attack must leave, as a share of the highest "
        "boundary's own",
    )
    every: Count = Field(default=16, description="steps from one attack to the next")
    steps: Count = Field(
        default=6400, description="steps of this trial, from the weights of the highest boundary"
    )
    weight: Positive = Field(
        default=1.0, description="of what attacks bring back, beside e in what epsilon bounds"
    )


class BankSection(Section):
    """The checkpoints that a path saves."""

    checkpoints: int = Field(default=30, ge=3, description="largest number of checkpoints of a path")
    images: Count = Field(
        default=2048,
        description="largest number of images of each training set on which a checkpoint's f1 and f2 are "
        "measured",
    )
    max_bytes: Count = Field(
        default=16 * 2**30,
        description="disk space for one path's checkpoints; fewer are taken if they would need more",
    )


class ConvergenceSection(Section):
    """The test of whether a trial has converged at its last step."""

    window: int = Field(default=50, ge=2, description="steps over which the change is measured")
    tolerance: float = Field(
        default=1e-4, ge=0, description="largest relative change over the window that counts as converged"
    )


class SolverSection(Section):
    """How a trial is solved. Trials of one kind get equal steps, since a front depends on its budget."""

    steps: Count = Field(
        default=400, description="update steps of every trial that starts from the original model"
    )
    batch: Count = Field(default=32, description="images of each of the two sets in a step")
    update: Literal["averaged", "paper"] = Field(
        default="averaged",
        description="averaged: Adam on the combined direction, with averaged gradients; paper: the paper's "
        "plain step",
    )
    learning_rate: Positive = Field(
        default=None,
        validate_default=True,
        description="step size at the first step; null: 0.003, or 0.2 with update paper",
    )
    learning_rate_end: float = Field(
        default=None,
        validate_default=True,
        ge=0,
        le=1,
        description="ratio of the last to the first step size, along a cosine; null: 0.02, or 1 (constant) "
        "with update paper",
    )
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = Field(
        default=(0.9, 0.99), description="Adam's decays of the first and the second moment"
    )
    average: Decay = Field(
        default=0.9,
        description="decay of the averages of gradients and violation that give the multiplier; 0: current "
        "batch only",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="precision of the model's forward pass in a step; parameters, gradients, inner "
        "products and measurements are always float32",
    )
    compile: bool = Field(
        default=False,
        description="compile the model's forward pass with torch.compile; needs a C++ compiler, changes "
        "results in the last bits",
    )
    stabiliser: Positive = Field(
        default=1e-7, description="added to |g1|^2 in the denominator of the multiplier (the paper's varpi)"
    )
    start: Literal["path", "original"] = Field(
        default=None,
        validate_default=True,
        description="start of a Phase II trial: a checkpoint of the path, or the original model as in the "
        "papers; null: path, or original with update paper",
    )
    completeness: Literal["mean", "per_class", "per_image"] = Field(
        default=None,
        validate_default=True,
        description="what epsilon bounds in Phase II: the mean f1, the f1 of every forget class, or the "
        "power mean of the "
        "images' f1, each in units of its own range; null: per_class, or mean with update paper",
    )
    clip: Positive | None = Field(
        default=_BY_UPDATE,
        validate_default=True,
        description="largest norm of the combined direction; null: no limit; left out: no limit, or 1 with "
        "update paper",
    )
    boundary: BoundarySection = BoundarySection()
    lowest: LowestSection = Field(default={}, validate_default=True)
    control: ControlSection = Field(default={}, validate_default=True)
    budget: BudgetSection = Field(
        default=BudgetSection(),
        exclude=True,
        description="steps of a whole front, in place of path.steps, or of solver.steps with start original; "
        "a resolved sweep has these steps instead of the budget; to add epsilons to a run, give the steps, "
        "which a run keeps",
    )
    path: PathSection = Field(default={}, validate_default=True)
    hold: HoldSection = Field(default={}, validate_default=True)
    bank: BankSection = BankSection()
    relearning: RelearningSection | None = Field(
        default=None,
        description="also solve for a model that resists relearning, the trial `hardened`; null: no trial",
    )
    convergence: ConvergenceSection = ConvergenceSection()
    checkpoint_every: Count | None = Field(
        default=None,
        description="steps between two saved states to resume from; null: by time, so often that saving "
        "takes at most 2 % of the solve; cannot change a result, and may be changed on a run",
    )

    def leaves_bank(self, role: Role | None, method: str) -> bool:
        """Return whether a trial that starts from the original leaves checkpoints to mix epsilons from."""
        return is_course(method) or (self.start == "path" and role is Role.HIGHEST)

    def steps_of(self, phase: Phase, role: Role | None, method: str = EPSILON_CONSTRAINT) -> int:
        """Return the number of steps of a trial, by its purpose; 0 for the original model."""
        if phase is Phase.ORIGINAL:
            return 0
        if phase is Phase.CHECK:
            return self.with_steps_doubled().steps_of(phase_solved(phase, role), role)
        if self.leaves_bank(role, method):
            return self.path.steps
        if phase is Phase.HARDENED:
            return 0 if self.relearning is None else self.relearning.steps
        if self.start == "path" and phase is Phase.EPSILON:
            return self.hold.steps
        return self.steps

    def with_steps_doubled(self) -> "SolverSection":
        """Return this section with twice the steps for every trial and nothing else changed."""
        path = self.path.model_copy(update={"steps": 2 * self.path.steps})
        hold = self.hold.model_copy(update={"steps": 2 * self.hold.steps})
        return self.model_copy(update={"steps": 2 * self.steps, "path": path, "hold": hold})

    @field_validator("clip", mode="before")
    @classmethod
    def _fill_clip(cls, value: object, info: ValidationInfo) -> object:
        return _default_of_update(info)["clip"] if value is _BY_UPDATE else value

    @field_validator("learning_rate", "learning_rate_end", "start", "completeness", mode="before")
    @classmethod
    def _fill_by_update(cls, value: object, info: ValidationInfo) -> object:
        return _default_of_update(info)[str(info.field_name)] if value is None else value

    @field_validator("start")
    @classmethod
    def _check_start(cls, value: str, info: ValidationInfo) -> str:
        if value == "path" and info.data.get("update") == "paper":
            raise refusal(
                "expected `original` with update paper, found `path`: a path averages its weights and "
                "changes its step size as Adam allows, and the paper's update has neither"
            )
        return value

    @field_validator("completeness")
    @classmethod
    def _check_completeness(cls, value: str, info: ValidationInfo) -> str:
        if value != "mean" and info.data.get("update") == "paper":
            raise refusal(
                f"expected `mean` with update paper, found `{value}`: classes and images are compared in "
                "units of their own range, and the paper's update works on raw f1"
            )
        return value

    @field_validator("lowest", mode="before")
    @classmethod
    def _fill_lowest(cls, value: object, info: ValidationInfo) -> object:
        return _filled(value, {"learning_rate": _learning_rate(info) / 3})

    @field_validator("lowest")
    @classmethod
    def _check_above_rounding(cls, value: LowestSection, info: ValidationInfo) -> LowestSection:
        narrow = info.data.get("precision") == "bfloat16"
        if narrow and value.kind == "tolerance" and value.tolerance < _LEAST_NARROW_TOLERANCE:
            raise refusal(
                f"expected a tolerance of at least {_LEAST_NARROW_TOLERANCE:g} with precision bfloat16, "
                f"found {found(value.tolerance)}: its rounding alone moves f2 by a tenth of that; use "
                "precision float32"
            )
        return value

    @field_validator("control", mode="before")
    @classmethod
    def _fill_control(cls, value: object, info: ValidationInfo) -> object:
        defaults = _default_of_update(info)
        return _filled(value, {key: defaults[key] for key in ("beta", "scaled", "ramp")})

    @field_validator("relearning")
    @classmethod
    def _check_relearning(
        cls, value: RelearningSection | None, info: ValidationInfo
    ) -> RelearningSection | None:
        if value is not None and info.data.get("update") == "paper":
            raise refusal(
                "expected null with update paper, found a section: what attacks bring back is added to e, "
                "and the paper's update works on raw f1"
            )
        return value

    @field_validator("path", "hold", mode="before")
    @classmethod
    def _fill_path_or_hold(cls, value: object, info: ValidationInfo) -> object:
        if info.field_name == "hold":
            return _filled(value, {"learning_rate": _learning_rate(info) / 4})
        steps = PATH_STEPS * int(info.data.get("steps", 400))
        return _filled(value, {"steps": steps, "learning_rate": _learning_rate(info) / 2})


def _default_of_update(info: ValidationInfo) -> dict[str, Any]:
    return _DEFAULTS_OF_UPDATE[info.data.get("update", "averaged")]


def _learning_rate(info: ValidationInfo) -> float:
    rate: float = info.data.get("learning_rate", _default_of_update(info)["learning_rate"])
    return rate


def _filled(section: object, defaults: Mapping[str, object]) -> object:
    """Return the raw section with defaults for missing and null keys; a value of another kind unchanged."""
    if not isinstance(section, Mapping):
        return section
    return {**section, **{key: value for key, value in defaults.items() if section.get(key) is None}}
