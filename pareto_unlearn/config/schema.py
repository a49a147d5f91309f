"""The schema of a sweep file: frozen, checked sections with their defaults.

A field whose default depends on other fields takes null and gets its value while the file is read. A
``SweepConfig`` is therefore complete, and its dump shows the values that will be used. A field must stand
after the fields on which its default depends.
"""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from pareto_unlearn.catalogue.metrics import (
    BUILTIN,
    METRIC_KEYS,
    PIXEL_KEYS,
    PROTOCOL_NAMES,
    PUBLISHED_KEYS,
    keys_of,
)
from pareto_unlearn.config.comparison_section import Baselines, Controls
from pareto_unlearn.config.data_section import DataSection
from pareto_unlearn.config.epsilon_section import EpsilonSection, GridEpsilon
from pareto_unlearn.config.model_section import (
    RANDOM,
    ModelSection,
    ObjectiveSection,
    SamplingSection,
    check_objective,
    check_task,
    fill_objective,
    fill_task,
)
from pareto_unlearn.config.report_section import ReportSection
from pareto_unlearn.config.solver_section import SolverSection
from pareto_unlearn.config.task_section import TaskSection
from pareto_unlearn.config.value_types import (
    Count,
    Location,
    RunName,
    Section,
    Seed,
    Text,
    each_once,
    refusal,
    some_each_once,
)
from pareto_unlearn.config.wording import found, joined
from pareto_unlearn.records import Phase, TrialSpec


def _check_digest(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise refusal(f"expected the 64 digits that `sha256sum` prints, found {found(text)}")
    return text


Sha256 = Annotated[str, AfterValidator(_check_digest)]
if TYPE_CHECKING:
    # A Literal made of data means nothing to a type checker.
    MetricName = str
    ProtocolName = str
else:
    MetricName = Literal[METRIC_KEYS]
    ProtocolName = Literal[PROTOCOL_NAMES]


class EvaluateSection(Section):
    """The measurements of every finished trial."""

    protocol: ProtocolName = Field(
        default=BUILTIN,
        description="definition of the metrics, stored with every value: of the embedded digits, as the "
        "community computes them (standard), as the code of the papers does (li2024-code), as their text "
        "says (paper-text), or in DINOv2's features and by LPIPS (modern)",
    )
    metrics: Annotated[tuple[MetricName, ...], Field(strict=False), AfterValidator(each_once)] = Field(
        default=keys_of(BUILTIN),
        description=f"metrics to compute; null: all metrics of the protocol, or only {joined(PIXEL_KEYS)} "
        "if builtin does not know the images",
    )
    weights: Text | None = Field(
        default=None,
        description="folder of the networks that every protocol except builtin needs; null: the folder in "
        "PARETO_UNLEARN_WEIGHTS",
    )
    weights_sha256: dict[str, Sha256] = Field(
        default={}, description="SHA-256 by file name, for files in that folder whose hash is not published"
    )
    images: Count | None = Field(
        default=None,
        description="largest number of images of each set and split on which f1, f2 and the residual of a "
        "finished model are measured, drawn once with `seed` and evenly over the classes; their standard "
        "errors are stored beside them; null: all images",
    )
    pictures: Count | None = Field(
        default=None,
        description="largest number of held-out images of each set that a finished model makes pictures of "
        "for the metrics, drawn likewise; null: all of them",
    )
    samples_per_class: int = Field(
        default=1, ge=0, description="held-out images of each class kept for the report"
    )
    max_samples: Count = Field(
        default=16,
        description="held-out images of each set kept for the report at most, from its first classes",
    )
    second_reconstruction: bool = Field(
        default=False,
        description="also let the original model generate the rest of every picture from the generated "
        "part (the hole) alone, and measure the result (digits_mae generates whole pictures: there the "
        "part around the hole is kept and the hole is filled again)",
    )
    tsne: bool = Field(
        default=False,
        description="for the report, place held-out pictures before and after in the plane, by t-SNE of "
        "the protocol's features",
    )
    audit: Literal["quick", "full", "off"] = Field(
        default="quick",
        description="how closely every model is audited: one short relearning attack, membership and what "
        "pictures give away (quick), all attacks and probes (full, as `audit` does afterwards), or off",
    )
    sampling: SamplingSection = SamplingSection()


class RunSection(Section):
    """Where and how trials run; only ``cpus_per_trial`` can change a trial's result."""

    executor: Literal["tune", "pool", "local"] = Field(
        default="tune",
        description="Ray Tune; a pool of Ray actors, for trials of seconds; or this process, one trial at a "
        "time",
    )
    cpus_per_trial: Count = Field(default=1, description="CPU cores, and torch threads, of a trial")
    gpus_per_trial: float = Field(
        default=0.0,
        ge=0,
        description="GPUs of a trial; 0.25 puts four on one GPU, each with a quarter of its memory at most; "
        "2 share the batches of one trial",
    )
    ranks_per_trial: Count | None = Field(
        default=None,
        validate_default=True,
        description="processes that share the batches of a trial, on one node; null: one for each of "
        "`gpus_per_trial`, and one on CPU, where they share `cpus_per_trial`",
    )
    max_concurrent: Count | None = Field(
        default=None,
        description="trials at a time; null: as many as the nodes of the cluster hold, those that join later "
        "too. If they hold fewer, one more waits in Ray's queue, so that an autoscaler adds nodes. "
        "solver.budget.wall_steps needs it",
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
        description="solve several trials in one process; null: yes on CPU, a fresh process per trial on "
        "GPU; true on GPU: a process that keeps memory of the trial before is replaced",
    )
    wait_for_resources: int = Field(
        default=300,
        ge=0,
        description="seconds to wait while no node of the cluster holds a trial; a local Ray never waits",
    )
    max_failures: int = Field(
        default=2,
        ge=0,
        description="retries of a trial whose process died; those for lost nodes do not count",
    )
    memory_bytes: Count | None = Field(
        default=None, description="memory a trial reserves from Ray; null: none reserved"
    )

    @field_validator("gpus_per_trial")
    @classmethod
    def _check_gpus(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise refusal(
                f"expected a fraction below 1 or a whole number, found {found(value)}; Ray splits one GPU "
                "only"
            )
        return value

    @field_validator("ranks_per_trial")
    @classmethod
    def _check_ranks(cls, value: int | None, info: ValidationInfo) -> int | None:
        gpus, cpus = info.data.get("gpus_per_trial", 0.0), info.data.get("cpus_per_trial", 1)
        if value is None:
            return None
        if gpus > 0 and value != max(int(gpus), 1):
            raise refusal(
                f"expected {max(int(gpus), 1)}, a rank for each of gpus_per_trial, found {value}; leave the "
                "key out"
            )
        if gpus == 0 and value > cpus:
            raise refusal(f"expected at most {cpus}, the cores of cpus_per_trial, found {value}")
        return value

    @property
    def ranks(self) -> int:
        """The number of processes that solve a trial together."""
        return self.ranks_per_trial or max(int(self.gpus_per_trial), 1)

    @property
    def threads(self) -> int:
        """The number of torch threads of each of them."""
        return max(self.cpus_per_trial // self.ranks, 1)

    @field_validator("reuse_workers", mode="before")
    @classmethod
    def _fill_reuse_workers(cls, value: object, info: ValidationInfo) -> object:
        return info.data.get("gpus_per_trial", 0.0) == 0 if value is None else value


class SweepConfig(Section):
    """A whole sweep file, resolved. Build it with ``load_config`` or ``parse_config``."""

    name: RunName = Field(description="name of the run and of its directory")
    seed: Seed = Field(
        default=0, description="decides the data split and, unless `seeds` is given, the trials"
    )
    smoke: bool = Field(
        default=False,
        description="a trial run of --smoke: tiny widths, random weights, generated images; its numbers "
        "mean nothing",
    )
    preset: Literal["paper"] | None = Field(
        default=None,
        description="paper: Algorithm 1 of arXiv:2408.01689 to the letter; fills in the keys of objective, "
        "solver and epsilon that decide this, where the file leaves them out",
    )
    model: ModelSection
    data: DataSection
    task: Annotated[TaskSection, BeforeValidator(fill_task), AfterValidator(check_task)] = Field(
        default={}, validate_default=True
    )
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
    baselines: Baselines = Field(
        default=(),
        description="methods to compare with: a name, or {method: ..., variant: ..., weights: [...]}; for "
        "each weight a method gets one trial, or a whole front",
    )
    controls: Controls = Field(
        default=None,
        validate_default=True,
        description="models to judge the others by: a name, or {method: ..., steps: ...}; null: all that are "
        "trained in a minute, which are those of digits_mae",
    )
    evaluate: EvaluateSection = Field(default={}, validate_default=True)
    run: RunSection = RunSection()
    report: ReportSection = ReportSection()

    @model_validator(mode="before")
    @classmethod
    def _leave_controls_out(cls, value: Any) -> Any:
        """Add no control unasked where the metric is left out by which controls are compared."""
        if not isinstance(value, dict) or value.get("controls") is not None:
            return value
        evaluate = value.get("evaluate")
        metrics = evaluate.get("metrics") if isinstance(evaluate, dict) else None
        left_out = isinstance(metrics, list | tuple) and "mse" not in metrics
        return {**value, "controls": []} if left_out else value

    @field_validator("model")
    @classmethod
    def _check_random_weights(cls, value: ModelSection, info: ValidationInfo) -> ModelSection:
        if value.is_random and not info.data.get("smoke", False):
            raise refusal(
                f"expected a checkpoint, found `{RANDOM}`: only a sweep started with --smoke runs on "
                "random weights"
            )
        return value

    @field_validator("evaluate", mode="before")
    @classmethod
    def _fill_metrics(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, dict) or value.get("metrics") is not None:
            return value
        protocol = str(value.get("protocol"))
        if protocol in PUBLISHED_KEYS:
            return {**value, "metrics": keys_of(protocol)}
        return {**value, "metrics": keys_of(BUILTIN) if _has_feature_network(info) else PIXEL_KEYS}

    @field_validator("evaluate")
    @classmethod
    def _check_metrics(cls, value: EvaluateSection, info: ValidationInfo) -> EvaluateSection:
        others = [name for name in value.metrics if name not in PIXEL_KEYS]
        known = keys_of(value.protocol)
        unknown = [name for name in others if name not in known]
        if unknown:
            raise refusal(
                f"expected of metrics only {', '.join(known)} under protocol {value.protocol}, found "
                f"{', '.join(unknown)}"
            )
        if value.protocol == BUILTIN and others and not _has_feature_network(info):
            raise refusal(
                f"expected of metrics only {', '.join(PIXEL_KEYS)}, found {', '.join(others)}: the feature "
                "network of protocol builtin knows the digits only, as digits_mae reads them"
            )
        return value

    @field_validator("evaluate")
    @classmethod
    def _check_tsne(cls, value: EvaluateSection, info: ValidationInfo) -> EvaluateSection:
        if value.tsne and not _has_feature_network(info):
            raise refusal(
                "expected tsne false, found true: the feature network of protocol builtin knows the digits "
                "only, as digits_mae reads them"
            )
        return value

    @field_validator("evaluate")
    @classmethod
    def _check_second_reconstruction(cls, value: EvaluateSection, info: ValidationInfo) -> EvaluateSection:
        task, model = info.data.get("task"), info.data.get("model")
        if not isinstance(task, TaskSection) or not isinstance(model, ModelSection):
            return value
        if not value.second_reconstruction:
            return value
        if task.kind in ("random", "mask") and not model.row.generates_whole:
            raise refusal(
                f"expected second_reconstruction false with task.kind {task.kind}, whose opposite is no task"
            )
        if model.predicts == "normalised_patches":
            raise refusal(
                "expected second_reconstruction false with predicts normalised_patches: their pictures "
                "need mean and variance of the removed patches, which would give the truth away"
            )
        return value

    @field_validator("evaluate")
    @classmethod
    def _check_metric_of_controls(cls, value: EvaluateSection, info: ValidationInfo) -> EvaluateSection:
        if info.data.get("controls") and "mse" not in value.metrics:
            raise refusal("expected mse among the metrics, since `controls` are compared by it, found none")
        return value

    @field_validator("run")
    @classmethod
    def _check_parts_of_batches(cls, value: RunSection, info: ValidationInfo) -> RunSection:
        solver = info.data.get("solver")
        if isinstance(solver, SolverSection) and solver.batch < value.ranks:
            raise refusal(
                f"expected at most as many ranks as a batch has images (solver.batch: {solver.batch}), found "
                f"{value.ranks} (gpus_per_trial, or on CPU ranks_per_trial)"
            )
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _fill_seeds(cls, value: object, info: ValidationInfo) -> object:
        return (info.data.get("seed", 0),) if value is None else value

    @property
    def trial_seeds(self) -> tuple[int, ...]:
        """The seeds with which every trial is solved."""
        return self.seeds

    def for_phase(self, phase: Phase) -> "SweepConfig":
        """Return the sweep for trials of a phase: a check takes twice the steps."""
        if phase is not Phase.CHECK:
            return self
        return self.model_copy(update={"solver": self.solver.with_steps_doubled()})

    def steps_of(self, spec: TrialSpec) -> int:
        """Return the steps of a trial."""
        if spec.phase is Phase.CONTROL:
            return self.training_steps_of(spec.method)
        if spec.phase is Phase.BASELINE and spec.parents is not None:
            return 0  # a mixture of checkpoints, which is never trained further
        return self.solver.steps_of(spec.phase, spec.role, spec.method)

    def training_steps_of(self, control: str) -> int:
        """Return the steps of the training of a control; 0 for a control that is not in the sweep."""
        return next((one.steps or 0 for one in self.controls if one.method == control), 0)


def _has_feature_network(info: ValidationInfo) -> bool:
    """Return whether the images are digits in the size and channels that the feature network reads."""
    data, model = info.data.get("data"), info.data.get("model")
    other_images = isinstance(data, DataSection) and data.dataset != "digits"
    other_format = isinstance(model, ModelSection) and not model.row.reads_digits
    return not other_images and not other_format
