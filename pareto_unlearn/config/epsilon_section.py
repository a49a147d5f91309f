"""The ``epsilon`` section: the epsilons of Phase II, with one kind of section for each way to choose them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from pareto_unlearn.config.value_types import Count, Section, refusal, some_each_once

ViolationTolerance = Annotated[
    float,
    Field(
        ge=0,
        description="fraction of the valid range by which f1 may miss epsilon: above it a trial is "
        "infeasible, below it unconverged",
    ),
]


MOST_POINTS = 10_000
"""What a run was measured with (docs/benchmarks.md, "Scale"): reading, planning and packing it take seconds.

Above 999 points neighbours share a label, which has a tenth of a percent; ids tell them apart.
"""


class GridEpsilon(Section):
    """Epsilons at fixed fractions of the valid range."""

    schedule: Literal["grid"] = Field(
        default="grid", description="how epsilons are chosen: grid, list or adaptive"
    )
    points: int = Field(
        default=3, ge=1, le=MOST_POINTS, description="number of epsilons strictly inside the valid range"
    )
    spacing: Literal["linear", "geometric"] = Field(
        default="linear", description="equal steps, or steps that shrink towards the lower end"
    )
    violation_tolerance: ViolationTolerance = 0.01

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many epsilons are solved side by side, round by round."""
        return (self.points,)


class ListEpsilon(Section):
    """Epsilons listed in the sweep file."""

    schedule: Literal["list"] = Field(
        default="list", description="how epsilons are chosen: grid, list or adaptive"
    )
    absolute: bool = Field(default=False, description="values are raw f1, not fractions of the valid range")
    values: Annotated[tuple[float, ...], Field(strict=False), AfterValidator(some_each_once)] = Field(
        description="the epsilons: fractions of the valid range (0 = lower end), or raw f1 with `absolute: "
        "true`"
    )
    violation_tolerance: ViolationTolerance = 0.01

    @field_validator("values")
    @classmethod
    def _check_values(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if "absolute" not in info.data:  # absolute was refused itself, so nothing is known about the values
            return values
        if info.data["absolute"]:
            outside = [value for value in values if value <= 0]
            trouble = "f1 is never below 0, so an epsilon must be above it"
        else:
            outside = [value for value in values if not 0 < value < 1]
            trouble = (
                "a fraction outside (0, 1) lies outside the valid range; for raw values of f1 write "
                "`absolute: true`"
            )
        if outside:
            raise refusal(f"{trouble}; found {', '.join(map(repr, outside))}")
        return values

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many epsilons are solved side by side, round by round."""
        return (len(self.values),)


class AdaptiveEpsilon(Section):
    """Epsilons chosen round by round, where the front is known least."""

    schedule: Literal["adaptive"] = Field(
        default="adaptive", description="how epsilons are chosen: grid, list or adaptive"
    )
    points: int = Field(default=9, ge=3, description="number of epsilons in all")
    per_round: Count = Field(default=2, description="epsilons chosen at a time; they are solved side by side")
    violation_tolerance: ViolationTolerance = 0.01

    @property
    def rounds(self) -> tuple[int, ...]:
        """How many epsilons are solved side by side, round by round; the first round is 25, 50 and 75 %."""
        whole, rest = divmod(self.points - 3, self.per_round)
        rounds = [3] + [self.per_round] * whole
        if rest > 0:
            rounds.append(rest)
        return tuple(rounds)


def _fill_schedule(value: object) -> object:
    return {"schedule": "grid", **value} if isinstance(value, dict) else value


EpsilonSection = Annotated[
    GridEpsilon | ListEpsilon | AdaptiveEpsilon,
    Field(discriminator="schedule"),
    BeforeValidator(_fill_schedule),
]
SCHEDULES: dict[str, type[Section]] = {"grid": GridEpsilon, "list": ListEpsilon, "adaptive": AdaptiveEpsilon}
