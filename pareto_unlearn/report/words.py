"""The words of the report: formatted numbers, names of metrics and states, notes, the glossary."""

from pareto_unlearn.analysis.robustness import HOW_TO_READ_GAINS
from pareto_unlearn.catalogue.metrics import METRICS, SECOND_PREFIX, SECOND_TITLES
from pareto_unlearn.records import TrialState
from pareto_unlearn.report.views import finite

NONE = "\u2013"
_MINUS = "\u2212"
_SPACE = "\u00a0"

STATE_MARKS = {
    TrialState.DONE: "✓",
    TrialState.INFEASIBLE: "!",
    TrialState.UNCONVERGED: "≈",
    TrialState.DIVERGED: "∞",
    TrialState.FAILED: "✕",
    TrialState.INTERRUPTED: "‖",
    TrialState.STALE: "…",
}

STATE_MEANINGS = {
    TrialState.DONE: "the trial reached its aim",
    TrialState.INFEASIBLE: "f1 stayed above epsilon by more than the tolerance; the model exists but "
    "breaks its constraint",
    TrialState.UNCONVERGED: "the steps ran out while the objectives still moved, or f1 ended below epsilon "
    "by more than the tolerance, so that the constraint was not active",
    TrialState.DIVERGED: "an objective or gradient became non-finite; there is no model",
    TrialState.FAILED: "the trial stopped with an error; there is no model",
    TrialState.INTERRUPTED: "the run was stopped before the trial ended",
    TrialState.STALE: "the worker disappeared",
}

GLOSSARY = (
    ("forget / retain set", "the images whose reconstruction must be lost / must stay as it was"),
    ("f1, f2", "forget and retain objective; both are minimised"),
    (
        "epsilon",
        "the bound of one trial: minimise f2 subject to f1 ≤ epsilon, for the mean over the forget images "
        "or, with completeness per_class, for every forget class",
    ),
    ("valid range", "the open interval of epsilons that Phase I leaves between the two boundaries"),
    ("boundary", "the two ends of the front: highest and lowest completeness"),
    (
        "completeness",
        "100 % minus e, where e = (f1 - floor) / (f1 of the original - floor); 0 % is the original model, "
        "100 % the least f1 that any model can reach",
    ),
    (
        "worst class, worst 5 %",
        "completeness of the forget class, and of the 5 % of images, that are forgotten least",
    ),
    (
        "quality loss (FVU)",
        "f2 divided by the variance of the original's outputs on the retain set; retained quality is 100 % "
        "minus it",
    ),
    ("dominated", "another model of the same seed is at least as good in both objectives and better in one"),
    (
        "hypervolume",
        "the share of the box between the ideal point and the reference point that a method's models "
        "dominate; larger is better, and more gradient pairs make it larger: compare at equal cost only",
    ),
    (
        "gradient pair",
        "one gradient of the forget loss and one of the retain loss: what a step costs; the scan of a "
        "path's step size counts. Measuring while solving (checkpoints, mixtures) is counted beside it in "
        "the same unit: a pass without gradients counts a third of a pass with them",
    ),
    (
        "reference point",
        "the worst corner of that box, fixed once after Phase I and the same for every method",
    ),
    (
        "retain only",
        "a control: the original, trained further on retain images alone for as many steps; its changes "
        "are not due to forgetting",
    ),
    (
        "fork, fork bug",
        "a baseline as in its public code, where that differs from the paper; with that code's own mistake",
    ),
    ("multiplier (eta)", "the solver's last weight of the constraint's gradient"),
    ("protocol", "the exact way a metric was computed; values of different protocols must not be compared"),
    (
        "s.e.",
        "standard error of f1 or f2 where evaluate.images capped the images that were measured: of a draw "
        "from the set, not of another training",
    ),
    ("original model", "the model before unlearning"),
)

RESIDUAL_NOTE = (
    "The residuals come from gradients over the whole training sets (or the images that evaluate.images caps "
    "them at) at the end of a trial. Where two "
    "objectives cannot both be improved, their gradients point in opposite directions (cosine -1) and "
    "balance each other under the multiplier. It is a first-order residual, not a proof of Pareto "
    "optimality: the front belongs to this solver and this number of steps."
).replace("-1)", f"{_MINUS}1)")

GAINS_NOTE = (
    "Trials solved again at the same epsilon with twice the steps. The gain is 1 minus the ratio of the new "
    "f2 to the old f2; the change of f1 is a share of f1's own range. "
    f"To read a gain: {HOW_TO_READ_GAINS}."
)
NO_GAINS_NOTE = (
    "Whether more steps would improve the front was not checked in this run; the same sweep command with "
    "--check-convergence does it."
)

SECOND_HINT = (
    "The original model reconstructs the rest of a picture from the generated part alone: the closer it "
    "comes, the more that part still tells. Compare with the original's own value, the dashed line."
)


def metric_hint(metric: str) -> str:
    """Return a hint on how to read a metric; empty if the catalogue does not know it."""
    if metric.startswith(SECOND_PREFIX):
        return SECOND_HINT
    row = METRICS.get(metric)
    return "" if row is None else row.hint


def number(value: float | None, digits: int = 4) -> str:
    """Return a value with some significant digits; an en dash for None."""
    drawable = finite(value)
    if drawable is None:
        return NONE if value is None else "NaN"
    return f"{drawable:.{digits}g}".replace("-", _MINUS)


def with_error(value: float | None, error: float | None) -> str:
    """Return a value with its standard error; without, where all images were measured."""
    return f"{number(value)} ± {number(error, 2)} s.e." if error else number(value)


def share(value: float | None, digits: int = 1) -> str:
    """Return a ratio as text in percent; an en dash for None."""
    drawable = finite(value)
    if drawable is None:
        return NONE if value is None else "NaN"
    shown = f"{100.0 * drawable:z.{digits}f}"  # z: no minus sign before a rounded zero
    return f"{shown}{_SPACE}%".replace("-", _MINUS)


def count(amount: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def metric_title(metric: str) -> str:
    """Return the readable name of a metric; the page must show its protocol beside it."""
    row = METRICS.get(metric)
    return SECOND_TITLES.get(metric, metric.replace("_", " ")) if row is None else row.title
