"""The ``solver`` section: how one trial is solved, in both phases."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

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
_LEAST_NARROW_TOLERANCE = 0.001
"""Ten times the f2 that the original model has in bfloat16 (0.00009 of the outputs' variance on the embedded digits)."""


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

    beta: Positive = Field(
        default=5.0, description="control gain on f1 - epsilon; null: 5, or 2 with update paper"
    )
    delta: Count = Field(default=1, description="power of f1 - epsilon; odd, so that the sign is kept")
    scaled: bool = Field(
        default=True,
        description="multiply psi by |g1| |g2|, which makes beta free of the scale of both losses; "
        "null: yes, or no with update paper",
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


class BudgetSection(Section):
    """Steps of one seed's front as a whole, in place of path.steps and branch.steps: a third goes to the path."""

    total_steps: Count | None = Field(
        default=None,
        description="gradient pairs of the path, its scan, all branches and the lowest boundary; null: no such budget",
    )
    wall_steps: Count | None = Field(
        default=None,
        description="steps from start to end with run.max_concurrent trials at a time; null: no such budget",
    )

    @field_validator("wall_steps")
    @classmethod
    def _one_of_both(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("total_steps") is not None:
            raise refusal("expected at most one of total_steps and wall_steps, found both; remove one")
        return value


class PathSection(Section):
    """The descent from the original to the floor that solves the highest boundary where trials start from the path."""

    steps: Count = Field(default=800, description="steps of the descent; null: twice solver.steps")
    learning_rate: Positive = Field(
        default=0.0015,
        description="step size between warm-up and hold; null: half of solver.learning_rate. The scan multiplies it",
    )
    scan: Annotated[tuple[Positive, ...], Field(strict=False)] = Field(
        default=(0.5, 1.0, 2.0),
        description="factors of learning_rate to try on a short descent each; the best one is used, for the branches too; "
        "[]: learning_rate as it is",
    )
    scan_length: Decay = Field(default=0.15, description="steps of a short descent, as a share of path.steps")
    warm_up: Decay = Field(
        default=0.1, description="share of the steps over which the step size rises from zero"
    )
    end: float = Field(
        default=0.015,
        gt=0,
        lt=1,
        description="epsilon at the end of the descent, in e (1 = original, 0 = floor)",
    )
    hold: Decay = Field(
        default=0.2, description="share of the steps that stay at the end, while the step size falls to zero"
    )
    average: float = Field(
        default=0.03, gt=0, lt=1, description="share of the steps over which weights are averaged"
    )

    @property
    def scan_steps(self) -> int:
        """Steps of each short descent of the scan."""
        return self.scan_steps_of(self.steps)

    def scan_steps_of(self, steps: int) -> int:
        """Return the steps of each short descent beside a path of that many."""
        return max(round(self.scan_length * steps), 1)


class BranchSection(Section):
    """Phase II where trials start from the path: each continues the next checkpoint below its epsilon."""

    steps: Count = Field(default=200, description="steps of a trial; null: half of solver.steps")
    learning_rate: Positive = Field(
        default=0.0015,
        description="first step size, falling to zero along a line, times the factor the path's scan chose; "
        "null: half of solver.learning_rate",
    )


class BankSection(Section):
    """The checkpoints the path leaves behind."""

    checkpoints: int = Field(default=40, ge=3, description="checkpoints taken on the path at most")
    images: Count = Field(
        default=2048,
        description="images of each training set on which a checkpoint's f1 and f2 are measured at most",
    )
    max_bytes: Count = Field(
        default=16 * 2**30,
        description="disk space of one path's checkpoints; fewer are taken where they would need more",
    )


class ConvergenceSection(Section):
    """When a trial counts as converged at its last step."""

    window: int = Field(default=50, ge=2, description="steps over which the change is judged")
    tolerance: float = Field(
        default=1e-4, ge=0, description="largest relative change over the window that counts as converged"
    )


class SolverSection(Section):
    """How a trial is solved. A front belongs to its budget: trials of one kind get the same steps."""

    steps: Count = Field(
        default=400, description="update steps of every trial that starts from the original model"
    )
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
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of the model's forward pass in a step; parameters, gradients, inner products and all that is measured "
        "are float32 with both",
    )
    compile: bool = Field(
        default=False,
        description="compile the model's forward pass with torch.compile; needs a C++ compiler, changes the last bits",
    )
    stabiliser: Positive = Field(
        default=1e-7, description="added to |g1|^2 where it divides (the paper's varpi)"
    )
    start: Literal["path", "original"] = Field(
        default=None,
        validate_default=True,
        description="what Phase II starts from: a checkpoint of the path, or the original model as in the papers; "
        "null: path, or original with update paper",
    )
    completeness: Literal["mean", "per_class", "per_image"] = Field(
        default=None,
        validate_default=True,
        description="what epsilon bounds in Phase II: the mean f1, every forget class, or the images' power mean, each in units "
        "of its own range; null: per_class, or mean with update paper",
    )
    clip: Positive | None = Field(
        default=None,
        validate_default=True,
        description="largest norm of the combined direction; null: no limit, or 1 with update paper",
    )
    boundary: BoundarySection = BoundarySection()
    lowest: LowestSection = Field(default={}, validate_default=True)
    control: ControlSection = Field(default={}, validate_default=True)
    budget: BudgetSection = Field(
        default=BudgetSection(),
        exclude=True,
        description="steps of a whole front in place of path.steps and branch.steps, or of solver.steps with start "
        "original; a resolved sweep has the steps instead, and a run keeps them: give them to add epsilons to it",
    )
    path: PathSection = Field(default={}, validate_default=True)
    branch: BranchSection = Field(default={}, validate_default=True)
    bank: BankSection = BankSection()
    convergence: ConvergenceSection = ConvergenceSection()
    checkpoint_every: Count = Field(
        default=200, description="steps between saved resume states; cannot change a result"
    )

    def steps_of(self, phase: Phase, role: Role | None) -> int:
        """Return the steps a trial takes, by what it is for; none for the original model."""
        if phase is Phase.ORIGINAL:
            return 0
        if phase is Phase.CHECK:
            return self.with_steps_doubled().steps_of(phase_solved(phase, role), role)
        if self.start == "path" and role is Role.HIGHEST:
            return self.path.steps
        if self.start == "path" and phase is Phase.EPSILON:
            return self.branch.steps
        return self.steps

    def with_steps_doubled(self) -> "SolverSection":
        """Return this section with twice the steps for every trial and nothing else changed."""
        path, branch = (one.model_copy(update={"steps": 2 * one.steps}) for one in (self.path, self.branch))
        return self.model_copy(update={"steps": 2 * self.steps, "path": path, "branch": branch})

    @field_validator("learning_rate", "learning_rate_end", "start", "completeness", "clip", mode="before")
    @classmethod
    def _by_update(cls, value: object, info: ValidationInfo) -> object:
        return _default_of_update(info)[str(info.field_name)] if value is None else value

    @field_validator("start")
    @classmethod
    def _path_needs_units(cls, value: str, info: ValidationInfo) -> str:
        if value == "path" and info.data.get("update") == "paper":
            raise refusal(
                "expected `original` with update paper, found `path`: the path and its branches carry Adam's moments "
                "on, and the paper's update has none"
            )
        return value

    @field_validator("completeness")
    @classmethod
    def _own_range_needs_units(cls, value: str, info: ValidationInfo) -> str:
        if value != "mean" and info.data.get("update") == "paper":
            raise refusal(
                f"expected `mean` with update paper, found `{value}`: classes and images are compared in units of their "
                "own range, and the paper's update works on raw f1"
            )
        return value

    @field_validator("lowest", mode="before")
    @classmethod
    def _third_of_learning_rate(cls, value: object, info: ValidationInfo) -> object:
        return _filled(value, {"learning_rate": _learning_rate(info) / 3})

    @field_validator("lowest")
    @classmethod
    def _above_rounding(cls, value: LowestSection, info: ValidationInfo) -> LowestSection:
        narrow = info.data.get("precision") == "bfloat16"
        if narrow and value.kind == "tolerance" and value.tolerance < _LEAST_NARROW_TOLERANCE:
            raise refusal(
                f"expected a tolerance of at least {_LEAST_NARROW_TOLERANCE:g} with precision bfloat16, found "
                f"{found(value.tolerance)}: its rounding alone moves f2 by a tenth of that; use precision float32"
            )
        return value

    @field_validator("control", mode="before")
    @classmethod
    def _control_of_update(cls, value: object, info: ValidationInfo) -> object:
        defaults = _default_of_update(info)
        return _filled(value, {key: defaults[key] for key in ("beta", "scaled", "ramp")})

    @field_validator("path", "branch", mode="before")
    @classmethod
    def _share_of_steps(cls, value: object, info: ValidationInfo) -> object:
        share = {"path": 2.0, "branch": 0.5}[str(info.field_name)]
        steps = max(round(share * info.data.get("steps", 400)), 1)
        return _filled(value, {"steps": steps, "learning_rate": _learning_rate(info) / 2})


def _default_of_update(info: ValidationInfo) -> dict[str, Any]:
    return _DEFAULTS_OF_UPDATE[info.data.get("update", "averaged")]


def _learning_rate(info: ValidationInfo) -> float:
    rate: float = info.data.get("learning_rate", _default_of_update(info)["learning_rate"])
    return rate


def _filled(section: object, defaults: Mapping[str, object]) -> object:
    """Return the raw section with the defaults where a key is missing or null; what is no section as it is."""
    if not isinstance(section, Mapping):
        return section
    return {**section, **{key: value for key, value in defaults.items() if section.get(key) is None}}
