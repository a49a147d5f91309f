"""Every method that a trial can be solved by, one row each: what sweep files, tables and figures know of it.

To add a rule for two gradients: a row here, the rule and its line in ``RIVALS`` in ``solver.arc``, and a
test. A method that leaves a whole front has its line in ``COURSES`` in ``solver.courses`` instead. How a
method computes a step stands elsewhere; ``tests/test_catalogue.py`` proves that every row has a computation
and every computation a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

ORIGINAL = "original"
EPSILON_CONSTRAINT = "epsilon_constraint"
COMPOSITE = "composite"
RETRAINED = "retrained"

PAPER = "paper"
"""The variant of a method that has the paper's formula."""


class MethodKind(StrEnum):
    """The part that a method plays in a comparison."""

    SUBJECT = "subject"
    """What the others are compared with: the original model and the epsilon-constraint method."""
    PUBLISHED = "published"
    """A baseline of arXiv:2402.00351."""
    RULE = "rule"
    """A baseline that differs in nothing but the rule for the gradients of f1 and f2."""
    COURSE = "course"
    """A baseline of which one run leaves a whole front, with all that our own path has."""
    CONTROL = "control"
    """Forgets nothing on purpose: it tells what training does by itself, and is no rival."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """What the weights of a method are called, in the plural.

    ``below`` is their upper bound, if there is one; ``meaning`` then says what the two ends of the range do.
    """

    plural: str
    below: float | None = None
    meaning: str = ""

    @property
    def words(self) -> str:
        """The plural with the range, if there is one."""
        return self.plural if self.below is None else f"{self.plural} in (0, {self.below:g})"


COEFFICIENT = Knob(plural="coefficients of the forget loss")
QUALITY_LOSS = Knob(plural="quality losses that weigh as much as all of e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method; ``name`` is that of its trials in the store.

    ``symbol`` is a Plotly symbol that ``report.marks`` has an outline for, ``colour`` a CSS variable of the
    page. ``title`` is for people where it is more than the name with spaces. ``key`` is the key of the sweep
    file that lists the method, empty if none does. ``knob`` is None if a trial has no weight; ``weights`` are
    those of a sweep file that names none. ``summary`` explains the method in the help of the sweep file.
    Rules share one explanation; ``published_as`` is the name that a rule or course was published under, if it
    is another. A ``variant`` is published code that differs from the paper's formula of the method ``of``;
    the rows of families say which family has it. Figures show a method with ``leads_figures`` before the
    others.
    """

    name: str
    kind: MethodKind
    symbol: str
    colour: str
    title: str = ""
    key: str = "baselines"
    knob: Knob | None = COEFFICIENT
    weights: tuple[float, ...] = (1.0,)
    summary: str = ""
    published_as: str = ""
    of: str = ""
    variant: str = PAPER
    leads_figures: bool = False

    @property
    def words(self) -> str:
        """What legends call the method."""
        return words_of(self.name) if not self.title else self.title


def words_of(name: str) -> str:
    """Return the name of a method with spaces."""
    return name.replace("_", " ")


_AS_TRAINED = "train on, with retain images or noise as what forget images should become"

_ROWS = (
    Method(
        name=ORIGINAL,
        kind=MethodKind.SUBJECT,
        symbol="diamond",
        colour="var(--ink)",
        key="",
        knob=None,
        leads_figures=True,
    ),
    Method(
        name=EPSILON_CONSTRAINT,
        kind=MethodKind.SUBJECT,
        symbol="circle",
        colour="var(--blue)",
        title="epsilon-constraint",
        key="",
        knob=None,
        leads_figures=True,
    ),
    Method(
        name="max_loss",
        kind=MethodKind.PUBLISHED,
        symbol="triangle-up",
        colour="var(--purple)",
        summary="ascend the original loss on the forget set",
    ),
    Method(
        name="retain_label",
        kind=MethodKind.PUBLISHED,
        symbol="pentagon",
        colour="var(--green)",
        weights=(0.25,),
        summary=_AS_TRAINED,
    ),
    Method(
        name="retain_label_fork",
        kind=MethodKind.PUBLISHED,
        symbol="triangle-sw",
        colour="var(--green)",
        of="retain_label",
        variant="fork",
    ),
    Method(
        name="retain_label_fork_bug",
        kind=MethodKind.PUBLISHED,
        symbol="triangle-nw",
        colour="var(--green)",
        of="retain_label",
        variant="fork_bug",
    ),
    Method(
        name="noisy_label",
        kind=MethodKind.PUBLISHED,
        symbol="hexagon",
        colour="var(--orange)",
        weights=(0.25,),
        summary=_AS_TRAINED,
    ),
    Method(
        name="noisy_label_fork",
        kind=MethodKind.PUBLISHED,
        symbol="diamond-tall",
        colour="var(--orange)",
        of="noisy_label",
        variant="fork",
    ),
    Method(
        name="random_encoder",
        kind=MethodKind.PUBLISHED,
        symbol="cross",
        colour="var(--sky)",
        weights=(0.25,),
        summary="pull their encoder outputs to noise",
    ),
    Method(
        name="random_encoder_fork",
        kind=MethodKind.PUBLISHED,
        symbol="diamond-wide",
        colour="var(--sky)",
        of="random_encoder",
        variant="fork",
    ),
    Method(
        name="random_encoder_fork_bug",
        kind=MethodKind.PUBLISHED,
        symbol="star-triangle-up",
        colour="var(--sky)",
        of="random_encoder",
        variant="fork_bug",
    ),
    Method(
        name=COMPOSITE,
        kind=MethodKind.PUBLISHED,
        symbol="square",
        colour="var(--vermillion)",
        weights=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        summary="one weighted sum of f1 and f2",
        leads_figures=True,
    ),
    Method(
        name="retain_only",
        kind=MethodKind.CONTROL,
        symbol="hexagram",
        colour="var(--gray)",
        knob=None,
        summary="a control, trained on with retain images alone",
    ),
    Method(
        name="cup",
        kind=MethodKind.RULE,
        symbol="triangle-down",
        colour="var(--green)",
        knob=Knob(plural="gammas", below=1.0, meaning="from leaving f1 alone to leaving f2 alone"),
        weights=(0.1, 0.3, 0.5, 0.7, 0.9),
    ),
    Method(name="munba", kind=MethodKind.RULE, symbol="triangle-left", colour="var(--orange)", knob=None),
    Method(name="mgda", kind=MethodKind.RULE, symbol="triangle-right", colour="var(--sky)", knob=None),
    Method(name="pcgrad", kind=MethodKind.RULE, symbol="triangle-ne", colour="var(--vermillion)", knob=None),
    Method(
        name="erasediff",
        kind=MethodKind.RULE,
        symbol="star-diamond",
        colour="var(--purple)",
        knob=Knob(plural="etas"),
        weights=(0.1,),
    ),
    Method(
        name="orthogonal",
        kind=MethodKind.RULE,
        symbol="star-square",
        colour="var(--gray)",
        published_as="Bloop",
    ),
    Method(
        name="ramped_sum",
        kind=MethodKind.COURSE,
        symbol="triangle-se",
        colour="var(--vermillion)",
        knob=None,
        summary="the weighted sum of f1 and f2, its weight changing as the epsilon of the path does",
    ),
    Method(
        name="target_band",
        kind=MethodKind.COURSE,
        symbol="star-triangle-down",
        colour="var(--purple)",
        knob=None,
        published_as="H2DF",
        summary="f2 plus the squared distance of f1 from a band around the epsilon of the path",
    ),
    Method(
        name="smooth_tchebycheff",
        kind=MethodKind.COURSE,
        symbol="hexagon2",
        colour="var(--green)",
        knob=QUALITY_LOSS,
        weights=(0.2,),
        summary="the smooth maximum of f1 and f2, weighed along the path",
    ),
    Method(
        name="munba_front",
        kind=MethodKind.COURSE,
        symbol="hash",
        colour="var(--orange)",
        knob=None,
        summary="the rule munba, from the original down",
    ),
    Method(
        name="eupmu",
        kind=MethodKind.COURSE,
        symbol="square-cross",
        colour="var(--sky)",
        knob=None,
        published_as="EUPMU",
        summary="log f1 + w log f2, w raised where a step raised f2",
    ),
    Method(
        name="soup",
        kind=MethodKind.COURSE,
        symbol="hourglass",
        colour="var(--purple)",
        knob=None,
        summary="the line from the original to the highest boundary",
    ),
    Method(
        name="pamal",
        kind=MethodKind.COURSE,
        symbol="bowtie",
        colour="var(--green)",
        knob=QUALITY_LOSS,
        weights=(0.2,),
        published_as="PaMaL",
        summary="a line whose two ends are trained through random points of it",
    ),
    Method(
        name="bezier",
        kind=MethodKind.COURSE,
        symbol="circle-cross",
        colour="var(--vermillion)",
        knob=QUALITY_LOSS,
        weights=(0.2,),
        published_as="MCU",
        summary="a curve from the original to a model that forgot, trained in the same way",
    ),
    Method(
        name=RETRAINED,
        kind=MethodKind.CONTROL,
        symbol="pentagon",
        colour="var(--orange)",
        key="controls",
        knob=None,
        summary="trained from scratch on the retain images alone, "
        "as if the forget images had never been seen",
    ),
)


def _named(keys: Iterable[str], rows: Iterable[Method]) -> dict[str, Method]:
    return {row.name: row for row in rows if row.key in keys and not row.of}


METHODS = {row.name: row for row in _ROWS}
"""All methods by the name of their trials, in the order of the papers' tables."""
BASELINES = _named(("baselines",), _ROWS)
"""Those that `baselines` of a sweep file may name."""
CONTROLS = _named(("controls",), _ROWS)
"""Those that `controls` of a sweep file may name."""
VARIANTS = tuple(dict.fromkeys(row.variant for row in _ROWS))
FIGURE_ORDER = tuple(row.name for row in sorted(_ROWS, key=lambda row: not row.leads_figures))
"""All names in the order of figures and of the page's tables."""
WITHOUT_WEIGHT = frozenset(row.name for row in BASELINES.values() if row.knob is None)
"""Baselines that have no weight to choose."""


def is_course(method: str) -> bool:
    """Return whether one run of a method leaves a whole front, from which its epsilons are mixed."""
    return method in METHODS and METHODS[method].kind is MethodKind.COURSE


def variants_of(method: str) -> dict[str, Method]:
    """Return the rows of a method's variants by variant, the paper's own not among them."""
    return {row.variant: row for row in _ROWS if row.of == method}


def variant_name(method: str, variant: str) -> str:
    """Return the name of the trials of a method's variant: the method's own for the paper's formula."""
    return method if variant == PAPER else f"{method}_{variant}"
