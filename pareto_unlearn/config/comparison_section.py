"""What a sweep file compares the front with: the methods of others, and models to judge all by."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from pareto_unlearn.config.model_section import ModelSection
from pareto_unlearn.config.value_types import Count, Positive, Section, each_once, refusal, some_each_once
from pareto_unlearn.records import WITHOUT_WEIGHT

_DEFAULT_WEIGHTS = {
    "max_loss": (1.0,),
    "retain_label": (0.25,),
    "noisy_label": (0.25,),
    "random_encoder": (0.25,),
    "retain_only": (1.0,),
    "composite": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "cup": (0.1, 0.3, 0.5, 0.7, 0.9),
    "munba": (1.0,),
    "mgda": (1.0,),
    "pcgrad": (1.0,),
    "erasediff": (0.1,),
    "orthogonal": (1.0,),
}
_VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "retain_label": {"fork": ("mage", "palette"), "fork_bug": ("mage",)},
    "noisy_label": {"fork": ("mage",)},
    "random_encoder": {"fork": ("mage", "palette"), "fork_bug": ("mage",)},
}
"""Which families have published code for a method that differs from the paper, by variant."""
ORIGINAL_STEPS = 3000
"""Of the training of the embedded digits model."""
Weights = Annotated[tuple[Positive, ...], Field(strict=False), AfterValidator(some_each_once)]


class Baseline(Section):
    """A method to compare with; one trial per weight and seed."""

    method: Literal[
        "max_loss",
        "retain_label",
        "noisy_label",
        "random_encoder",
        "composite",
        "retain_only",
        "cup",
        "munba",
        "mgda",
        "pcgrad",
        "erasediff",
        "orthogonal",
    ] = Field(
        description="max_loss: ascend the original loss on the forget set; retain_label, noisy_label: train on, with retain images or "
        "noise as what forget images should become; random_encoder: pull their encoder outputs to noise; composite: one weighted sum "
        "of f1 and f2; retain_only: a control, trained on with retain images alone; the others combine the gradients of f1 and f2 "
        "by the published rule of that name (orthogonal: Bloop)"
    )
    variant: Literal["paper", "fork", "fork_bug"] = Field(
        default="paper",
        description="of retain_label, noisy_label and random_encoder: the paper's formula; `fork`: the published code where it "
        "differs (mage; palette but for noisy_label); `fork_bug`: mage's with its forget loss on retain images, by mistake",
    )
    weights: Weights = Field(
        default=None,
        validate_default=True,
        description="coefficients of the forget loss; for cup gammas in (0, 1), for erasediff etas; munba, mgda and "
        "pcgrad have none; null: the method's usual ones",
    )

    @property
    def name(self) -> str:
        """The method of its trials: variants other than the paper's are methods of their own."""
        return self.method if self.variant == "paper" else f"{self.method}_{self.variant}"

    @property
    def families(self) -> tuple[str, ...] | None:
        """The families that have it; None: all."""
        return _VARIANTS.get(self.method, {}).get(self.variant)

    @field_validator("variant")
    @classmethod
    def _of_method(cls, value: str, info: ValidationInfo) -> str:
        method = info.data.get("method")
        known = ("paper", *_VARIANTS.get(method or "", {}))
        if method is not None and value not in known:
            raise refusal(f"expected {' or '.join(known)} with {method}, found {value}")
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def _by_method(cls, value: object, info: ValidationInfo) -> object:
        return _DEFAULT_WEIGHTS[info.data.get("method", "max_loss")] if value is None else value

    @field_validator("weights")
    @classmethod
    def _knob_of_method(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        method = info.data.get("method")
        if method in WITHOUT_WEIGHT and values != (1.0,):
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


class ControlModel(Section):
    """A model to judge the others by; one trial per seed."""

    method: Literal["retrained"] = Field(
        description="retrained: trained from scratch on the retain images alone, as if the forget images had never been seen; "
        "digits_mae only"
    )
    steps: Count = Field(
        default=ORIGINAL_STEPS, description="steps of its training; the default is the original's own budget"
    )


def _by_name(value: object) -> object:
    return {"method": value} if isinstance(value, str) else value


def _methods_once(baselines: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
    each_once(tuple(baseline.name for baseline in baselines))
    return baselines


def _of_family(baselines: tuple[Baseline, ...], info: ValidationInfo) -> tuple[Baseline, ...]:
    """Refuse a variant that the model's family does not have."""
    model = info.data.get("model")
    if not isinstance(model, ModelSection):
        return baselines
    for one in baselines:
        if one.families is not None and model.family not in one.families:
            raise refusal(
                f"expected variant {one.variant} of {one.method} with family {' or '.join(one.families)}, found {model.family}, "
                "whose published code has no such variant; leave `variant` out"
            )
    return baselines


def _affordable(controls: tuple[ControlModel, ...], info: ValidationInfo) -> tuple[ControlModel, ...]:
    """Refuse controls of a model that takes long to train, and one control twice."""
    model = info.data.get("model")
    if controls and isinstance(model, ModelSection) and model.family != "digits_mae":
        raise refusal(
            f"expected none with family {model.family}, found {controls[0].method}: only digits_mae is trained in a minute; "
            "`pareto-unlearn train` trains other models without their forget set"
        )
    each_once(tuple(control.method for control in controls))
    return controls


Baselines = Annotated[
    tuple[Annotated[Baseline, BeforeValidator(_by_name)], ...],
    Field(strict=False),
    AfterValidator(_methods_once),
    AfterValidator(_of_family),
]
Controls = Annotated[
    tuple[Annotated[ControlModel, BeforeValidator(_by_name)], ...],
    Field(strict=False),
    AfterValidator(_affordable),
]
