"""What a sweep file may say: frozen, checked sections with their defaults.

A field whose default depends on other fields takes null and is resolved while it is read, so a ``SweepConfig``
never holds an open question and its dump shows what will really be used. Fields are therefore
ordered: what decides comes before what depends on it.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from pareto_unlearn.config.model_section import (
    RANDOM,
    ModelSection,
    ObjectiveSection,
    SamplingSection,
    TaskSection,
    check_objective,
    check_task,
    fill_objective,
)
from pareto_unlearn.config.solver_section import SolverSection
from pareto_unlearn.config.value_types import (
    Classes,
    Count,
    Location,
    Positive,
    RunName,
    Section,
    Seed,
    Text,
    each_once,
    refusal,
    some_each_once,
)
from pareto_unlearn.config.wording import found, quoted
from pareto_unlearn.records import Phase

_DEFAULT_WEIGHTS = {
    "max_loss": (1.0,),
    "composite": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "cup": (0.1, 0.3, 0.5, 0.7, 0.9),
    "munba": (1.0,),
    "mgda": (1.0,),
    "pcgrad": (1.0,),
    "erasediff": (0.1,),
    "orthogonal": (1.0,),
}
_WITHOUT_WEIGHTS = ("munba", "mgda", "pcgrad")
_FILE_DATASETS = ("folder", "imagenet", "places365")
_OTHER_DATASETS = ("digits", "generated")


def _digest(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise refusal(f"expected the 64 digits that `sha256sum` prints, found {found(text)}")
    return text


Sha256 = Annotated[str, AfterValidator(_digest)]
Weights = Annotated[tuple[Positive, ...], Field(strict=False), AfterValidator(some_each_once)]
ViolationTolerance = Annotated[
    float,
    Field(
        ge=0,
        description="fraction of the valid range by which f1 may exceed epsilon before a trial is infeasible",
    ),
]
MetricName = Literal["mse", "psnr", "frechet", "inception", "cosine", "fid", "kid", "is", "clip"]
Protocol = Literal["builtin", "standard", "li2024-code", "paper-text"]
_PIXEL_METRICS: tuple[MetricName, ...] = ("mse", "psnr")
"""Those that need no feature network; the one that ships with the package knows the digits only."""
_BUILTIN_METRICS: tuple[MetricName, ...] = (*_PIXEL_METRICS, "frechet", "inception", "cosine")
PUBLISHED_METRICS: tuple[MetricName, ...] = ("fid", "kid", "is", "clip")
"""Those of the papers, which need the papers' networks."""


class DataSection(Section):
    """The images to forget and the images to keep."""

    dataset: Literal["digits", "generated", "folder", "imagenet", "places365"] = Field(
        description="where the images come from: digits are embedded, generated ones drawn, the others are files below `root`"
    )
    root: Text | None = Field(
        default=None,
        validate_default=True,
        description="folder of the image files; a relative path starts at the working directory",
    )
    forget_classes: Classes = Field(
        description="classes to forget: a list of names or numbers, or how many to draw"
    )
    retain_classes: Classes | None = Field(
        default=None,
        description="classes to keep: a list, or how many to draw; null: all that are not forgotten",
    )
    train_per_class: Count | None = Field(
        default=None,
        description="training images of each class; null: all, or 80 % where the data set has no split",
    )
    heldout_per_class: Count | None = Field(
        default=None,
        description="held-out images of each class; null: all, or 20 % where the data set has no split",
    )
    cache_bytes: int = Field(
        default=16 * 2**30,
        ge=0,
        description="disk space for decoded image files on each machine; sets that do not fit are decoded whenever they are read",
    )

    @field_validator("root")
    @classmethod
    def _for_files_only(cls, root: str | None, info: ValidationInfo) -> str | None:
        dataset = info.data.get("dataset")
        if root is None and dataset in _FILE_DATASETS:
            raise refusal(f"expected the folder that holds the images of dataset {dataset}, found nothing")
        if root is not None and dataset in _OTHER_DATASETS:
            raise refusal(
                f"expected none for dataset {dataset}, which needs no files, found {found(root)}; remove it"
            )
        return root

    @field_validator("retain_classes")
    @classmethod
    def _disjoint(
        cls, retain: tuple[str, ...] | int | None, info: ValidationInfo
    ) -> tuple[str, ...] | int | None:
        forget = info.data.get("forget_classes")
        if isinstance(forget, tuple) and isinstance(retain, tuple):
            both = [name for name in retain if name in forget]
            if both:
                names = ", ".join(f"`{quoted(name)}`" for name in both)
                raise refusal(f"expected classes that are not in forget_classes, found {names} in both lists")
        return retain


class GridEpsilon(Section):
    """Epsilons at fixed fractions of the valid range."""

    schedule: Literal["grid"] = Field(
        default="grid", description="how epsilons are chosen: grid, list or adaptive"
    )
    points: int = Field(
        default=3, ge=1, le=999, description="number of epsilons strictly inside the valid range"
    )
    spacing: Literal["linear", "geometric"] = Field(
        default="linear", description="even steps, or steps that shrink towards the lower end"
    )
    violation_tolerance: ViolationTolerance = 0.02

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many epsilons are solved side by side, round by round."""
        return (self.points,)


class ListEpsilon(Section):
    """Epsilons given one by one."""

    schedule: Literal["list"] = Field(
        default="list", description="how epsilons are chosen: grid, list or adaptive"
    )
    absolute: bool = Field(default=False, description="values are raw f1, not fractions of the valid range")
    values: Annotated[tuple[float, ...], Field(strict=False), AfterValidator(some_each_once)] = Field(
        description="the epsilons: fractions of the valid range (0 = lower end), or raw f1 with `absolute: true`"
    )
    violation_tolerance: ViolationTolerance = 0.02

    @field_validator("values")
    @classmethod
    def _in_range(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if "absolute" not in info.data:  # it is wrong itself
            return values
        if info.data["absolute"]:
            outside = [value for value in values if value <= 0]
            trouble = "f1 is never below 0, so an epsilon must be above it"
        else:
            outside = [value for value in values if not 0 < value < 1]
            trouble = "a fraction outside (0, 1) lies outside the valid range; for raw values of f1 write `absolute: true`"
        if outside:
            raise refusal(f"{trouble}; found {', '.join(map(repr, outside))}")
        return values

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many epsilons are solved side by side, round by round."""
        return (len(self.values),)


class AdaptiveEpsilon(Section):
    """Epsilons chosen round by round where the front is least known."""

    schedule: Literal["adaptive"] = Field(
        default="adaptive", description="how epsilons are chosen: grid, list or adaptive"
    )
    points: int = Field(default=9, ge=3, description="number of epsilons in all")
    per_round: Count = Field(default=2, description="epsilons chosen at a time; they are solved side by side")
    violation_tolerance: ViolationTolerance = 0.02

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many epsilons are solved side by side, round by round: 25, 50 and 75 % are the first."""
        whole, rest = divmod(self.points - 3, self.per_round)
        return (3, *(self.per_round,) * whole, *(rest,) * (rest > 0))


def _with_schedule(value: object) -> object:
    return {"schedule": "grid", **value} if isinstance(value, dict) else value


EpsilonSection = Annotated[
    GridEpsilon | ListEpsilon | AdaptiveEpsilon,
    Field(discriminator="schedule"),
    BeforeValidator(_with_schedule),
]
SCHEDULES: dict[str, type[Section]] = {"grid": GridEpsilon, "list": ListEpsilon, "adaptive": AdaptiveEpsilon}


class Baseline(Section):
    """A method to compare with; one trial per weight and seed."""

    method: Literal["max_loss", "composite", "cup", "munba", "mgda", "pcgrad", "erasediff", "orthogonal"] = (
        Field(
            description="max_loss: ascend the original loss on the forget set; composite: one weighted sum of f1 and f2; "
            "the others combine the gradients of f1 and f2 by the published rule of that name (orthogonal: Bloop)"
        )
    )
    weights: Weights = Field(
        default=None,
        validate_default=True,
        description="coefficients of the forget loss; for cup gammas in (0, 1), for erasediff etas; munba, mgda and "
        "pcgrad have none; null: the method's usual ones",
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _by_method(cls, value: object, info: ValidationInfo) -> object:
        return _DEFAULT_WEIGHTS[info.data.get("method", "max_loss")] if value is None else value

    @field_validator("weights")
    @classmethod
    def _knob_of_method(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        method = info.data.get("method")
        if method in _WITHOUT_WEIGHTS and values != (1.0,):
            raise refusal(
                f"{method} has no weight: expected [1.0], which stands for its only trial, found {list(values)}; "
                "leave `weights` out"
            )
        outside = [value for value in values if value >= 1]
        if method == "cup" and outside:
            raise refusal(
                "expected gammas in (0, 1), from leaving f1 alone to leaving f2 alone, found "
                f"{', '.join(map(repr, outside))}"
            )
        return values


def _named_baseline(value: object) -> object:
    return {"method": value} if isinstance(value, str) else value


def _methods_once(baselines: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
    each_once(tuple(baseline.method for baseline in baselines))
    return baselines


class EvaluateSection(Section):
    """What is measured on every finished trial."""

    protocol: Protocol = Field(
        default="builtin",
        description="definition of the metrics, stored with every value: of the embedded digits, as the community computes them "
        "(standard), as the code of the papers does (li2024-code), or as their text says (paper-text)",
    )
    metrics: Annotated[tuple[MetricName, ...], Field(strict=False), AfterValidator(each_once)] = Field(
        default=_BUILTIN_METRICS,
        description="which metrics are computed; null: all of the protocol, which are mse and psnr alone where builtin "
        "does not know the images",
    )
    weights: Text | None = Field(
        default=None,
        description="folder of the networks that fid, kid, is and clip need; null: that of PARETO_UNLEARN_WEIGHTS",
    )
    weights_sha256: dict[str, Sha256] = Field(
        default={}, description="SHA-256 of files in that folder, by name, for which none is published"
    )
    samples_per_class: int = Field(
        default=1, ge=0, description="held-out images of each class kept for the report"
    )
    max_samples: Count = Field(
        default=16,
        description="held-out images of each set kept for the report at most, from its first classes",
    )
    sampling: SamplingSection = SamplingSection()


class RunSection(Section):
    """Where and how trials run; nothing here but cpus_per_trial can change a trial's result."""

    executor: Literal["tune", "local"] = Field(
        default="tune", description="Ray Tune, or this process, one trial at a time"
    )
    cpus_per_trial: Count = Field(default=1, description="CPU cores, and torch threads, of a trial")
    gpus_per_trial: float = Field(
        default=0.0, ge=0, description="GPUs of a trial; 0.5 puts two trials on one GPU"
    )
    max_concurrent: Count | None = Field(
        default=None,
        description="trials at a time; null: as many as the cluster holds. solver.budget.wall_steps needs it",
    )
    storage: Location = Field(
        default="runs", description="where run directories go: a local path or s3://bucket/prefix"
    )
    address: Location | None = Field(
        default=None, description="Ray cluster to use; null: RAY_ADDRESS, or a local one"
    )
    reuse_workers: bool = Field(
        default=None,
        validate_default=True,
        description="solve several trials in one process; null: yes on CPU, a fresh process per trial on GPU",
    )
    max_failures: int = Field(default=2, ge=0, description="retries of a trial whose process died")
    memory_bytes: Count | None = Field(
        default=None, description="memory a trial reserves from Ray; null: none reserved"
    )

    @field_validator("gpus_per_trial")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise refusal(
                f"expected a fraction below 1 or a whole number, found {found(value)}; Ray splits one GPU only"
            )
        return value

    @field_validator("reuse_workers", mode="before")
    @classmethod
    def _on_cpu(cls, value: object, info: ValidationInfo) -> object:
        return info.data.get("gpus_per_trial", 0.0) == 0 if value is None else value


class SweepConfig(Section):
    """A whole sweep file, resolved. Build it with ``load_config`` or ``parse_config``."""

    name: RunName = Field(description="name of the run and of its directory")
    seed: Seed = Field(
        default=0, description="decides the data split and, unless `seeds` is given, the trials"
    )
    smoke: bool = Field(
        default=False,
        description="a trial run of --smoke: tiny widths, random weights, generated images; its numbers mean nothing",
    )
    model: ModelSection
    data: DataSection
    task: Annotated[TaskSection, AfterValidator(check_task)] = TaskSection()
    objective: Annotated[
        ObjectiveSection, BeforeValidator(fill_objective), AfterValidator(check_objective)
    ] = Field(default={}, validate_default=True)
    solver: SolverSection = SolverSection()
    epsilon: EpsilonSection = Field(
        default=GridEpsilon(), description="which epsilons Phase II solves, by `schedule`"
    )
    seeds: Annotated[tuple[Seed, ...], Field(strict=False), AfterValidator(some_each_once)] = Field(
        default=None,
        validate_default=True,
        description="every trial is solved once per seed; null: once, with `seed`",
    )
    baselines: Annotated[
        tuple[Annotated[Baseline, BeforeValidator(_named_baseline)], ...],
        Field(strict=False),
        AfterValidator(_methods_once),
    ] = Field(default=(), description="methods to compare with: a name, or {method: ..., weights: [...]}")
    evaluate: EvaluateSection = Field(default={}, validate_default=True)
    run: RunSection = RunSection()

    @field_validator("model")
    @classmethod
    def _random_is_smoke(cls, value: ModelSection, info: ValidationInfo) -> ModelSection:
        if value.is_random and not info.data.get("smoke", False):
            raise refusal(
                f"expected a checkpoint, found `{RANDOM}`: only a sweep started with --smoke runs on random weights"
            )
        return value

    @field_validator("evaluate", mode="before")
    @classmethod
    def _known_metrics(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, dict) or value.get("metrics") is not None:
            return value
        if value.get("protocol", "builtin") != "builtin":
            return {**value, "metrics": (*_PIXEL_METRICS, *PUBLISHED_METRICS)}
        return {**value, "metrics": _BUILTIN_METRICS if _has_feature_network(info) else _PIXEL_METRICS}

    @field_validator("evaluate")
    @classmethod
    def _of_protocol(cls, value: EvaluateSection, info: ValidationInfo) -> EvaluateSection:
        others = [name for name in value.metrics if name not in _PIXEL_METRICS]
        known = _BUILTIN_METRICS if value.protocol == "builtin" else (*_PIXEL_METRICS, *PUBLISHED_METRICS)
        unknown = [name for name in others if name not in known]
        if unknown:
            raise refusal(
                f"expected of metrics only {', '.join(known)} under protocol {value.protocol}, found {', '.join(unknown)}"
            )
        if value.protocol == "builtin" and others and not _has_feature_network(info):
            raise refusal(
                f"expected of metrics only {', '.join(_PIXEL_METRICS)}, found {', '.join(others)}: the feature network of "
                "protocol builtin knows the digits only, as digits_mae reads them"
            )
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _only_seed(cls, value: object, info: ValidationInfo) -> object:
        return (info.data.get("seed", 0),) if value is None else value

    @property
    def trial_seeds(self) -> tuple[int, ...]:
        """The seeds every trial is solved with."""
        return self.seeds

    def for_phase(self, phase: Phase) -> "SweepConfig":
        """Return the sweep that a trial of this phase is solved in: that of a check takes twice the steps."""
        if phase is not Phase.CHECK:
            return self
        return self.model_copy(update={"solver": self.solver.with_steps_doubled()})


def _has_feature_network(info: ValidationInfo) -> bool:
    """Tell whether the images are the digits, in the size and the one channel that the feature network reads."""
    data, model = info.data.get("data"), info.data.get("model")
    other_images = isinstance(data, DataSection) and data.dataset != "digits"
    other_format = isinstance(model, ModelSection) and model.family != "digits_mae"
    return not other_images and not other_format
