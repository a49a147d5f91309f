"""The ``solver`` section: how one trial is solved, in both phases."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pareto_unlearn.config.value_types import Count, Decay, Positive, Section, refusal
from pareto_unlearn.config.wording import found

_DEFAULTS_OF_UPDATE: dict[str, dict[str, Any]] = {
    "averaged": {
        "learning_rate": 0.003,
        "learning_rate_end": 0.02,
        "clip": None,
        "ramp": 0.4,
        "completeness": "per_class",
    },
    "paper": {
        "learning_rate": 0.2,
        "learning_rate_end": 1.0,
        "clip": 1.0,
        "ramp": 0.0,
        "completeness": "mean",
    },
}


class BoundarySection(Section):
    """Phase I: how hard the boundary trials descend the objective that comes first."""

    alpha: Positive = Field(
        default=1.0, description="weight of the descent of the first objective, alpha * |g1|^delta"
    )
    delta: float = Field(default=2.0, ge=1, description="power of the gradient norm in alpha * |g1|^delta")


class LowestSection(Section):
    """Phase I, lowest completeness: f1 is minimised while f2 stays (nearly) at its optimum."""

    kind: Literal["tolerance", "paper"] = Field(
        default="tolerance",
        description="min f1 s.t. f2 <= tolerance, or the paper's rule with the roles swapped",
    )
    tolerance: Positive = Field(
        default=0.005,
        description="f2 allowed, as a fraction of the variance of the original outputs on the retain set",
    )
    beta: Positive = Field(default=200.0, description="control gain on f2 - tolerance")
    learning_rate: Positive = Field(
        default=0.001, description="step size of this trial; null: a third of solver.learning_rate"
    )


class ControlSection(Section):
    """Phase II: how f1 is driven to epsilon, psi = beta * (f1 - epsilon)^delta."""

    beta: Positive = Field(default=2.0, description="control gain on f1 - epsilon")
    delta: Count = Field(default=1, description="power of f1 - epsilon; odd, so that the sign is kept")
    scaled: bool = Field(
        default=False, description="multiply psi by |g1|^2, which makes beta free of the gradients' scale"
    )
    ramp: Decay = Field(
        default=0.4,
        description="fraction of the steps over which epsilon descends from the original's f1; "
        "null: 0.4, or 0 with update paper",
    )

    @field_validator("delta")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise refusal(
                f"expected an odd integer, found {found(value)}; an even power loses the sign of f1 - epsilon"
            )
        return value


class ConvergenceSection(Section):
    """When a trial counts as converged at its last step."""

    window: int = Field(default=50, ge=2, description="steps over which the change is judged")
    tolerance: float = Field(
        default=1e-4, ge=0, description="largest relative change over the window that counts as converged"
    )


class SolverSection(Section):
    """How a trial is solved. A front belongs to its budget: every trial gets the same steps."""

    steps: Count = Field(default=400, description="update steps of every trial")
    batch: Count = Field(default=32, description="images of each of the two sets in a step")
    update: Literal["averaged", "paper"] = Field(
        default="averaged",
        description="Adam on the combined direction with averaged gradients, or the paper's plain step",
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
        description="last step size / first, along a cosine; null: 0.02, or 1 (constant) with update paper",
    )
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = Field(
        default=(0.9, 0.99), description="Adam's decays of the first and second moment"
    )
    average: Decay = Field(
        default=0.9,
        description="decay of the average gradients and violation the multiplier is computed from; 0: this batch only",
    )
    stabiliser: Positive = Field(
        default=1e-7, description="added to |g1|^2 where it divides (the paper's varpi)"
    )
    start: Literal["original"] = Field(default="original", description="the weights a trial starts from")
    completeness: Literal["mean", "per_class"] = Field(
        default=None,
        validate_default=True,
        description="what epsilon bounds in Phase II: the mean f1, or every forget class in units of its own range; "
        "null: per_class, or mean with update paper",
    )
    clip: Positive | None = Field(
        default=None,
        validate_default=True,
        description="largest norm of the combined direction; null: no limit, or 1 with update paper",
    )
    boundary: BoundarySection = BoundarySection()
    lowest: LowestSection = Field(default={}, validate_default=True)
    control: ControlSection = Field(default={}, validate_default=True)
    convergence: ConvergenceSection = ConvergenceSection()
    checkpoint_every: Count = Field(
        default=200, description="steps between saved resume states; cannot change a result"
    )

    @field_validator("learning_rate", "learning_rate_end", "completeness", "clip", mode="before")
    @classmethod
    def _by_update(cls, value: object, info: ValidationInfo) -> object:
        return _default_of_update(info)[str(info.field_name)] if value is None else value

    @field_validator("completeness")
    @classmethod
    def _per_class_needs_units(cls, value: str, info: ValidationInfo) -> str:
        if value == "per_class" and info.data.get("update") == "paper":
            raise refusal(
                "expected `mean` with update paper, found `per_class`: classes are compared in units of their own "
                "range, and the paper's update works on raw f1"
            )
        return value

    @field_validator("lowest", mode="before")
    @classmethod
    def _third_of_learning_rate(cls, value: object, info: ValidationInfo) -> object:
        whole = info.data.get("learning_rate", _default_of_update(info)["learning_rate"])
        return _filled(value, "learning_rate", whole / 3)

    @field_validator("control", mode="before")
    @classmethod
    def _ramp_of_update(cls, value: object, info: ValidationInfo) -> object:
        return _filled(value, "ramp", _default_of_update(info)["ramp"])


def _default_of_update(info: ValidationInfo) -> dict[str, Any]:
    return _DEFAULTS_OF_UPDATE[info.data.get("update", "averaged")]


def _filled(section: object, key: str, default: object) -> object:
    """Return the raw section with ``key`` set where it is missing or null; anything else as it is."""
    if isinstance(section, Mapping) and section.get(key) is None:
        return {**section, key: default}
    return section
