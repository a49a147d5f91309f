"""The sentences at the top of the page: what the sweep reached, which model to take, and at what cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pareto_unlearn.records import TrialState
from pareto_unlearn.report.facts import Recommendation
from pareto_unlearn.report.solution import Kind, Solution, Split
from pareto_unlearn.report.views import percent

__all__ = ["doubt", "verdict"]


def _span(values: Sequence[float], digits: int = 1) -> str:
    low, high = f"{min(values):.{digits}f}\u00a0%", f"{max(values):.{digits}f}\u00a0%"
    return low if low == high else f"{low} to {high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """The models that are told of, and how many trials left one that is not: infeasible, or there already."""

    models: tuple[Solution, ...]
    infeasible: int
    same: int

    def words(self) -> str:
        """Return how many models there are, in a run of several seeds also of each."""
        count = len(self.models)
        if count == 1:
            return "One unlearned model"
        of_seed = sorted(Counter(one.seed for one in self.models).values())
        if len(of_seed) == 1:
            return f"{count} unlearned models"
        each = f"{of_seed[0]}" if of_seed[0] == of_seed[-1] else f"{of_seed[0]} to {of_seed[-1]}"
        return f"{count} unlearned models of {len(of_seed)} seeds ({each} each)"

    def left_out(self) -> str:
        """Return a sentence on what does not count; empty if everything does."""
        parts = [f"{self.infeasible} infeasible"] if self.infeasible else []
        parts += [f"{self.same} with the weights of another"] if self.same else []
        return f" Not counted: {', '.join(parts)}." if parts else ""


def _count(solutions: Sequence[Solution]) -> _Counted:
    """Return the models that keep their epsilon, equal weights of one seed once."""
    found = [s for s in solutions if s.has_model and s.kind in (Kind.BOUNDARY, Kind.EPSILON)]
    feasible = [s for s in found if s.state is not TrialState.INFEASIBLE]
    distinct = {(s.seed, s.weights or s.trial_id): s for s in reversed(feasible)}
    models = tuple(s for s in feasible if distinct[s.seed, s.weights or s.trial_id] is s)
    return _Counted(models=models, infeasible=len(found) - len(feasible), same=len(feasible) - len(models))


def _reach(models: Sequence[Solution], split: Split) -> tuple[str, str] | None:
    """Return the ranges of completeness and of retained quality on one split, as text."""
    completeness = [p for m in models if (p := percent(m.on(split).completeness)) is not None]
    quality = [p for m in models if (p := percent(m.on(split).retained_quality)) is not None]
    if not completeness or not quality:
        return None
    return _span(completeness), _span(quality)


def _budget(models: Sequence[Solution]) -> str:
    """Return a sentence on how the models came about: with how many steps, or mixed from others."""
    mixed = [model for model in models if model.mixed_from]
    stepped = [model for model in models if not model.mixed_from]
    if not mixed:
        return f" {'It' if len(models) == 1 else 'Each'} took {_step_span(models)} steps."
    sources = {model.mixed_from for model in mixed}
    source = sources.pop() if len(sources) == 1 else "other models"
    held = [model for model in mixed if model.steps]
    then = f"then trained for {_step_span(held)} steps" if held else "without training"
    if not stepped:
        return f" {'It was' if len(models) == 1 else 'All were'} mixed from {source}, {then}."
    return (
        f" {len(stepped)} of them took {_step_span(stepped)} steps; the other {len(mixed)} "
        f"{'was' if len(mixed) == 1 else 'were'} mixed from {source}, {then}."
    )


def _step_span(models: Sequence[Solution]) -> str:
    low, high = min(model.steps for model in models), max(model.steps for model in models)
    return f"{low}" if low == high else f"{low} to {high}"


def _recommend_in_words(solutions: Sequence[Solution], recommended: Recommendation | None) -> str:
    if recommended is None:
        return ""
    solution = solutions[recommended.key]
    train, quality = solution.train, solution.heldout.retained_quality
    worst = "" if train.worst_class is None else f" (worst class {_span([100.0 * train.worst_class])})"
    complete = _span([100.0 * (train.completeness or 0.0)])
    return (
        f" {recommended.name.capitalize()}: {solution.label}, {complete} complete{worst}, which keeps "
        f"{_span([100.0 * (quality or 0.0)])} of the quality on held-out images."
    )


def doubt(retrieved: float | None, guessed: float) -> str:
    """Return a sentence on an original that is poor at its own task; empty if it is not, or was not asked.

    Quality is retained in relation to the original, so a model of one that paints grey keeps all of it.

    Args:
        retrieved: share of the original's pictures of held-out images that are nearest to their own truth, at
            least: the lower end of its interval.
        guessed: the share that pictures which are all alike would have.
    """
    if retrieved is None or retrieved > guessed:
        return ""
    return (
        " Attention: the original itself is poor at this task. Its pictures of held-out images are not shown "
        f"to be nearest to their own truth more often than by chance ({100.0 * guessed:.1f}\u00a0%), so "
        "retained quality says little."
    )


def verdict(solutions: Sequence[Solution], recommended: Recommendation | None = None) -> str:
    """Return a few sentences on what the sweep reached, which model to take, and the number of steps."""
    counted = _count(solutions)
    models = counted.models
    if not models:
        return _nothing(solutions, counted)
    one, count = len(models) == 1, counted.words()
    train, heldout = _reach(models, Split.TRAIN), _reach(models, Split.HELDOUT)
    if train is None:
        unmeasured = "; completeness and retained quality were not measured."
        return f"{count}{unmeasured}{_budget(models)}{counted.left_out()}"
    text = (
        f"{count} with {train[0]} completeness of forgetting {'keeps' if one else 'keep'} {train[1]} of "
        f"the quality on the retain images.{_recommend_in_words(solutions, recommended)}{_budget(models)}"
    )
    if heldout is not None:
        text += f" On images never trained on: {heldout[0]} completeness, {heldout[1]} retained quality."
    return text + counted.left_out()


def _nothing(solutions: Sequence[Solution], counted: _Counted) -> str:
    ended = sum(1 for s in solutions if not s.has_model)
    found = (
        [f"{ended} trial{'s' * (ended != 1)} ended without one"] if ended or not counted.infeasible else []
    )
    found += [f"{counted.infeasible} infeasible"] if counted.infeasible else []
    return f"No unlearned model: {', '.join(found)}. The reasons are in the table of trials."
