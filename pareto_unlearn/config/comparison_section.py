"""What a sweep file compares the front with: the methods of others, and models to judge all by."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from pareto_unlearn.catalogue.families import FAMILIES
from pareto_unlearn.catalogue.methods import (
    BASELINES,
    COEFFICIENT,
    CONTROLS,
    PAPER,
    VARIANTS,
    Knob,
    Method,
    MethodKind,
    is_course,
    variant_name,
    variants_of,
)
from pareto_unlearn.config.model_section import ModelSection
from pareto_unlearn.config.solver_section import SolverSection
from pareto_unlearn.config.value_types import Count, Positive, Section, each_once, refusal, some_each_once
from pareto_unlearn.config.wording import joined

if TYPE_CHECKING:
    # The names are data, which a type checker cannot look into.
    BaselineName = str
    ControlName = str
    Variant = str
else:
    BaselineName = Literal[tuple(BASELINES)]
    ControlName = Literal[tuple(CONTROLS)]
    Variant = Literal[VARIANTS]

Weights = Annotated[tuple[Positive, ...], Field(strict=False), AfterValidator(some_each_once)]


def _explain_methods() -> str:
    """Return what each baseline does, those that do the same together; rules are explained all at once.

    What those have in common that leave a whole front is told once too.
    """
    by_summary: dict[str, list[str]] = {}
    for row in BASELINES.values():
        if row.kind not in (MethodKind.RULE, MethodKind.COURSE):
            by_summary.setdefault(row.summary, []).append(row.name)
    told = [f"{', '.join(names)}: {summary}" for summary, names in by_summary.items()]
    names = ", ".join(f"{row.name}: {row.published_as}" for row in _rules() if row.published_as)
    rules = "the others combine the gradients of f1 and f2 by the published rule of that name"
    courses = "; ".join(f"{_with_published_name(row)}: {row.summary}" for row in _courses())
    return (
        f"{'; '.join([*told, f'{rules} ({names})'])}. A run of one of these leaves a whole front, with the "
        f"steps, average, checkpoints and scan of our path, and every epsilon is mixed from it: {courses}"
    )


def _with_published_name(row: Method) -> str:
    return f"{row.name} ({row.published_as})" if row.published_as else row.name


def _explain_weights() -> str:
    """Return what the weights of the baselines are."""
    by_knob: dict[Knob, list[str]] = {}
    for row in BASELINES.values():
        if row.knob is not None and row.knob is not COEFFICIENT:
            by_knob.setdefault(row.knob, []).append(row.name)
    others = [f"for {joined(names)} {knob.words}" for knob, names in by_knob.items()]
    without = joined([row.name for row in (*_rules(), *_courses()) if row.knob is None])
    return f"{COEFFICIENT.plural}; {', '.join(others)}; {without} have none; null: the method's usual ones"


def _rules() -> list[Method]:
    return [row for row in BASELINES.values() if row.kind is MethodKind.RULE]


def _courses() -> list[Method]:
    return [row for row in BASELINES.values() if row.kind is MethodKind.COURSE]


def _with_variants() -> list[str]:
    return [name for name in BASELINES if variants_of(name)]


class Baseline(Section):
    """A method to compare with; one trial per weight and seed, or a front of them."""

    method: BaselineName = Field(description=_explain_methods())
    variant: Variant = Field(
        default=PAPER,
        description=f"of {joined(_with_variants())}: the paper's formula; `fork`: the published code where "
        "it differs (mage; palette but for noisy_label); `fork_bug`: mage's with its forget loss on retain "
        "images, by mistake",
    )
    weights: Weights = Field(default=None, validate_default=True, description=_explain_weights())

    @property
    def name(self) -> str:
        """The method of its trials: variants other than the paper's are methods of their own."""
        return variant_name(self.method, self.variant)

    @field_validator("variant")
    @classmethod
    def _check_variant_known(cls, value: str, info: ValidationInfo) -> str:
        method = info.data.get("method")
        known = (PAPER, *variants_of(method or ""))
        if method is not None and value not in known:
            raise refusal(f"expected {' or '.join(known)} with {method}, found {value}")
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def _fill_weights(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            return value
        row = _row_of(info)
        # A method that was refused has an error of its own, and any weights will do.
        return (1.0,) if row is None else row.weights

    @field_validator("weights")
    @classmethod
    def _check_weights_fit_method(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        row = _row_of(info)
        if row is not None and row.knob is None and values != (1.0,):
            raise refusal(
                f"{row.name} has no weight: expected [1.0], which stands for its only trial, "
                f"found {list(values)}; leave `weights` out"
            )
        if row is not None and row.knob is not None:
            _require_range(values, row.knob)
        return values


def _row_of(info: ValidationInfo) -> Method | None:
    """Return the row of the section's method, None if the name of the method was refused."""
    return BASELINES.get(info.data.get("method", ""))


def _require_range(values: tuple[float, ...], knob: Knob) -> None:
    outside = [value for value in values if knob.below is not None and value >= knob.below]
    if outside:
        raise refusal(f"expected {knob.words}, {knob.meaning}, found {', '.join(map(repr, outside))}")


def _explain_controls() -> str:
    return "; ".join(f"{row.name}: {row.summary}" for row in CONTROLS.values())


class ControlModel(Section):
    """A model to judge the others by; one trial per seed."""

    method: ControlName = Field(description=_explain_controls())
    steps: Count | None = Field(
        default=None, description="steps of its training; null: as many as `pareto-unlearn train` takes"
    )


def _by_name(value: object) -> object:
    return {"method": value} if isinstance(value, str) else value


def _methods_once(baselines: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
    each_once(tuple(baseline.name for baseline in baselines))
    return baselines


def _of_family(baselines: tuple[Baseline, ...], info: ValidationInfo) -> tuple[Baseline, ...]:
    """Refuse a published baseline that the model's family does not have."""
    model = info.data.get("model")
    if not isinstance(model, ModelSection):
        return baselines
    for one in baselines:
        if one.method not in _with_variants() or one.name in model.row.baselines:
            continue
        if one.variant == "paper":
            raise refusal(
                f"expected of {', '.join(_with_variants())} only what family {model.row.name} has "
                f"({', '.join(model.row.baselines) or 'none'}), found {one.method}"
            )
        owners = " or ".join(row.name for row in FAMILIES if one.name in row.baselines)
        raise refusal(
            f"expected variant {one.variant} of {one.method} with family {owners}, found {model.row.name}, "
            "whose published code has no such variant; leave `variant` out"
        )
    return baselines


def _solvable(baselines: tuple[Baseline, ...], info: ValidationInfo) -> tuple[Baseline, ...]:
    """Refuse methods that leave a whole front if the steps of trials have no averages."""
    solver = info.data.get("solver")
    courses = [one.method for one in baselines if is_course(one.method)]
    if courses and isinstance(solver, SolverSection) and solver.update == "paper":
        raise refusal(
            f"expected none of {joined([row.name for row in _courses()])} with solver.update paper, found "
            f"{courses[0]}: their runs average weights and work on e, and the paper's update does neither"
        )
    return baselines


def _trainable(controls: tuple[ControlModel, ...], info: ValidationInfo) -> tuple[ControlModel, ...]:
    """Fill in the steps, and refuse a control that no recipe trains, and one control twice."""
    each_once(tuple(control.method for control in controls))
    model = info.data.get("model")
    if not controls or not isinstance(model, ModelSection):
        return controls
    recipe = model.row.recipe_of(model.variant)
    if recipe is None or recipe.steps is None:
        why = model.row.why_untrained if recipe is None else f"its training is {recipe.published}"
        raise refusal(
            f"expected none with family {model.row.name}, found {controls[0].method}: {why}; a sweep trains "
            "controls of families alone whose recipe has a number of steps"
        )
    return tuple(one.model_copy(update={"steps": one.steps or recipe.steps}) for one in controls)


def _fill_controls(value: object, info: ValidationInfo) -> object:
    """Return the controls that a model is given unasked: all that are trained in a minute."""
    model = info.data.get("model")
    if value is not None or not isinstance(model, ModelSection):
        return () if value is None else value
    return model.row.controls


_Baseline = Annotated[Baseline, BeforeValidator(_by_name, json_schema_input_type=Baseline | BaselineName)]
_Control = Annotated[
    ControlModel, BeforeValidator(_by_name, json_schema_input_type=ControlModel | ControlName)
]
Baselines = Annotated[
    tuple[_Baseline, ...],
    Field(strict=False),
    AfterValidator(_methods_once),
    AfterValidator(_of_family),
    AfterValidator(_solvable),
]
Controls = Annotated[
    tuple[_Control, ...],
    Field(strict=False),
    BeforeValidator(_fill_controls),
    AfterValidator(_trainable),
]
