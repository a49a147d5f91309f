"""The start of an epsilon trial: the mixture at its epsilon of the path's checkpoints and the original."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.records import BankEntry, TrialRecord
from pareto_unlearn.trial.bank import unpack_values
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.measuring import measure_retain_loss
from pareto_unlearn.trial.mixing import TOLERANCE, Knot, Mixer, weights_of

ReadBank = Callable[[str], Sequence[BankEntry]]
ReadState = Callable[[str, BankEntry], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """Weights at an epsilon, and where they come from; ``share`` is that of the upper model, None for one."""

    values: Float[Tensor, " p"]
    share: float | None
    start: str
    reason: str

    def describe(self, record: TrialRecord) -> TrialRecord:
        """Return the row of a trial that started with these weights."""
        return replace(record, start=self.start, interpolation=self.share, reason=self.reason)


def bank_knots(trial: Trial, read_bank: ReadBank, read_state: ReadState) -> list[Knot]:
    """Return the checkpoints of the path that the trial starts from, and the original model."""
    path = trial.spec.parents or ""

    def load(entry: BankEntry) -> Callable[[], Float[Tensor, " p"]]:
        return lambda: unpack_values(read_state(path, entry))

    material, images = trial.material, trial.config.solver.bank.images
    # A checkpoint is measured on images spread over the set, a mixture on those that the sweep evaluates.
    exact = len(material.inputs["forget", "train"]) <= images and not material.evaluated
    knots = [Knot(str(entry.step), entry.level, entry.f2, load(entry), exact) for entry in read_bank(path)]
    original = weights_of(material)
    return [*knots, Knot("original", trial.scales.f1_original, 0.0, lambda: original)]


def measured_knot(trial: Trial, name: str, values: Float[Tensor, " p"]) -> Knot:
    """Return a model as a knot, measured over the whole training sets."""
    kept = values.clone()
    level = Mixer(trial.material, trial.config.solver.completeness).measure_level(kept)
    return Knot(name, level, measure_retain_loss(trial.material, "train"), lambda: kept)


def mix_knots(trial: Trial, knots: Sequence[Knot]) -> Mixed:
    """Return the mixture of lowest f2 that meets the trial's epsilon; the nearest knot if none spans it."""
    spec, config = trial.spec, trial.config
    epsilon = spec.epsilon or 0.0
    tolerance = TOLERANCE * (spec.range_width or trial.scales.f1_range)
    mixture = Mixer(trial.material, config.solver.completeness, tolerance).best(knots, epsilon)
    if mixture is None:
        nearest = min(knots, key=lambda knot: abs(knot.level - epsilon))
        reason = f"no two of {len(knots)} models span epsilon; the nearest was taken"
        return Mixed(nearest.load(), None, f"path:{nearest.name}", reason)
    lower, upper = mixture.pair
    crossing = mixture.crossing
    reason = f"mixture of {lower.name} and {upper.name}, {crossing.evaluations} evaluations of f1"
    return Mixed(mixture.values, crossing.share, f"path:{lower.name}+{upper.name}", reason)
