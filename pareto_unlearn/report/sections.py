"""The sections with figures, and the provenance. Every text from the store passes through ``text``."""

from collections.abc import Sequence

from pareto_unlearn.analysis.likeness import explain_likeness
from pareto_unlearn.catalogue.metrics import PROTOCOLS
from pareto_unlearn.report.charts import FrontView, MetricPanel
from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.figures import EMBEDDED
from pareto_unlearn.report.fragments import legend, section, text
from pareto_unlearn.report.front_figure import front_legend
from pareto_unlearn.report.marks import look, method_title
from pareto_unlearn.report.quantities import metric_data
from pareto_unlearn.report.solution import Kind, Solution, Split
from pareto_unlearn.report.words import (
    metric_hint,
    metric_title,
    share,
)

_MINUS = "\u2212"


def _off_scale_note(view: FrontView, solutions: Sequence[Solution]) -> str:
    notes = [
        f"{solutions[p.key].label} (completeness {share(p.x / 100.0, 0)}, "
        f"quality loss {share(p.y / 100.0, 0)})"
        for p in view.points
        if p.off_scale and (p.x, p.y) != (p.drawn[0], 0.0)
    ]
    zero = any(p.off_scale and p.y == 0.0 for p in view.points)
    parts = [f"Off scale, drawn as arrows on the edge: {'; '.join(notes)}."] if notes else []
    if zero and view.logarithmic:
        parts.append("The original model has no loss; on this axis it sits on the lower edge.")
    return " ".join(parts)


def front(report: Report) -> str:
    """Return the front with its scale switch, and the panel of the selected model."""
    notes = "".join(
        f'<p class="note" data-view="{view_name(view)}" hidden>'
        f"{text(_off_scale_note(view, report.solutions))}</p>"
        for view in report.fronts
        if _off_scale_note(view, report.solutions)
    )
    legends = "".join(
        legend(front_legend(view, report.solutions), f' data-view="{view_name(view)}" hidden')
        for view in report.fronts
    )
    lead = (
        "Each marker is one model: to the right more is forgotten, further down less quality is lost. "
        "Click one, or move the slider."
    )
    scale = (
        '<fieldset class="segmented small"><legend class="visually-hidden">Scale of the quality loss</legend>'
        '<label><input type="radio" name="scale" value="linear" checked><span>linear</span></label>'
        '<label><input type="radio" name="scale" value="log"><span>logarithmic</span></label></fieldset>'
    )
    body = (
        f'<div class="front"><div class="card"><div class="card-bar">{scale}</div>'
        '<div id="figure-front" class="figure figure-front" role="img" '
        'aria-label="Scatter of completeness against quality loss; '
        f'the table of trials holds the same numbers"></div>{legends}{notes}</div>'
        '<aside class="card details" aria-label="Selected model"><div id="details"></div></aside></div>'
    )
    return section("front", "Forgetting against retained quality", lead, body)


def view_name(view: FrontView) -> str:
    """Return the name of a view of the front, shared by page and script."""
    return f"{view.split.value}-{'log' if view.logarithmic else 'linear'}"


def _protocol_note(name: str) -> str:
    row = PROTOCOLS.get(name)
    return "see the documentation of the metric" if row is None else row.note


def _how_to_read(report: Report) -> str:
    """Return the card that explains markers and protocols beside the metric figures."""
    seen: dict[str, tuple[str, str, str]] = {}
    for solution in report.solutions:
        if solution.has_model:
            title, style = method_title(solution), look(solution)
            seen.setdefault(title, (style.symbol, style.colour, title))
    notes = "".join(
        f'<p><span class="protocol">{text(name)}</span> {text(_protocol_note(name))}</p>'
        for name in sorted({panel.protocol for panel in report.panels})
    )
    return (
        f'<article class="card panel reading"><h3>How to read</h3>{legend(seen.values())}'
        '<p><span class="dash" aria-hidden="true"></span> value of the original model</p>'
        f"<p>Open markers on an edge are off scale.</p>{notes}</article>"
    )


def _panel(panel: MetricPanel, index: int) -> str:
    counts = sorted({n for series in panel.series for n in series.n})
    images = f" · n = {', '.join(str(n) for n in counts)}" if counts else ""
    title = f"{metric_title(panel.metric)}"
    split = Split(panel.split).words if panel.split in {split.value for split in Split} else panel.split
    return (
        f'<article class="card panel"><h3>{text(title)} '
        f'<span class="protocol">protocol: {text(panel.protocol)}</span></h3>'
        f'<p class="minor">{text(metric_hint(panel.metric))}<br>{text(split)}{text(images)}</p>'
        f'<div id="figure-metric-{index}" class="figure figure-metric" role="img" '
        f'aria-label="{text(title)}, protocol {text(panel.protocol)}, against completeness"></div>'
        "</article>"
    )


def metrics(report: Report) -> str:
    """Return one small figure for every metric and protocol."""
    if not report.panels:
        return section("metrics", "Image metrics", "No image metric is stored in this run.", "")
    lead = (
        "Each metric against the completeness reached, which expresses epsilon in percent and places the "
        "baselines too. Metrics need not rise or fall steadily with epsilon, and the original need not have "
        "the best values."
    )
    drawn = "".join(_panel(panel, index) for index, panel in enumerate(report.panels))
    return section(
        "metrics",
        "Image metrics",
        lead,
        f'{_choices(report)}<div class="panels">{drawn}{_how_to_read(report)}</div>{_parallel(report)}'
        f"{_likeness(report)}",
    )


def _choices(report: Report) -> str:
    """Return what the reader chooses of the metric panels: the metric, what stands across, and the axes."""
    data = metric_data(report)
    across = [one["name"] + (" (logarithmic)" if one["log"] else "") for one in data["quantities"]]
    names = [f"{metric_title(panel.metric)} ({panel.protocol})" for panel in report.panels]
    shown = [("all", "all metrics"), *((str(index), name) for index, name in enumerate(names))]
    axes = [*across, *(one["title"] for one in data["axes"])]
    reach = [
        ("auto", "fitting"),
        ("all", "all models"),
        ("most", "where most models lie"),
        ("zero", "from zero"),
    ]
    return (
        '<div class="choices">'
        f"{_select('metric-choice', 'Show', shown)}"
        f"{_select('metric-across', 'Across', [(str(index), name) for index, name in enumerate(axes)])}"
        f"{_select('metric-range', 'reaching', reach)}"
        '<label><input type="checkbox" id="metric-zero"> metrics from zero</label></div>'
        '<p class="note" id="metric-said" aria-live="polite"></p>'
    )


def _select(identifier: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    listed = "".join(f'<option value="{text(value)}">{text(words)}</option>' for value, words in options)
    return f'<label>{label} <select id="{identifier}" autocomplete="off">{listed}</select></label>'


def _parallel(report: Report) -> str:
    """Return the figure of all metrics, one line a model; empty where there is only one axis."""
    count = sum(len(panel.series) for panel in report.panels)
    if count < 2:
        return ""
    return (
        '<article class="card panel parallel"><h3>All metrics at once</h3>'
        '<p class="minor">One line a model; under each axis stands how far it reaches. '
        "The thick line is the selected model; click a point to select another.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="All metrics at once">'
        f'<div id="figure-parallel" class="figure figure-parallel" style="--axes:{count}" role="img" '
        'aria-label="Every metric of every model, one line a model"></div></div></article>'
    )


def embeddings(report: Report) -> str:
    """Return the plane of pictures before and after for the selected model; empty if none are stored."""
    if not report.embeddings:
        return ""
    lead = (
        "Held-out images as the original and the selected model reconstruct them, by t-SNE of the features "
        "of protocol builtin. What is forgotten leaves the cluster it had; what is retained stays on it. "
        "Neighbourhoods mean something, distances between clusters and axes do not."
    )
    body = (
        '<div class="card"><div class="card-bar" id="embedding-text" aria-live="polite"></div>'
        f"{legend(EMBEDDED.values())}"
        '<div id="figure-embedding" class="figure figure-embedding" role="img" '
        'aria-label="Pictures of both sets before and after in the plane"></div>'
        '<p id="embedding-none" class="note" hidden>Nothing is stored for this model; '
        "the original has no picture of its own. Select another.</p></div>"
    )
    return section("embeddings", "Pictures before and after", lead, body)


def convergence(report: Report) -> str:
    """Return the curves of one trial, which is chosen here or by selecting a model."""
    options = "".join(
        f'<option value="{key}">{text(solution.label)} ({text(solution.state)})</option>'
        for key, solution in enumerate(report.solutions)
        if solution.kind is not Kind.ORIGINAL
    )
    lead = (
        "The solver on its mini-batches, which scatter around the values of the whole set. "
        "Dashed: the epsilon that steered it. Eta weighs the gradient of the constraint; a cosine of "
        f"{_MINUS}1 means that forgetting and retaining pull in opposite directions. Of the gradient norms "
        "f1 is red and f2 blue."
    )
    body = (
        f'<div class="card"><div class="card-bar"><label for="curve-choice">Trial</label> '
        f'<select id="curve-choice">{options}</select></div>'
        '<p id="curve-text" class="minor" aria-live="polite"></p><dl id="curve-answers"></dl>'
        '<div id="figure-curve" class="figure figure-curve" role="img" '
        'aria-label="f1, f2, eta, gradient norms and cosine against the step"></div>'
        '<p id="curve-none" class="note" hidden></p></div>'
    )
    return section("convergence", "Convergence", lead, body)


def _likeness(report: Report) -> str:
    """Return where unlearned models match the retrained model; empty if no model was retrained."""
    if not report.likeness:
        return ""
    lines = "".join(
        f"<p>{'' if len(report.seeds) == 1 else f'Seed {one.seed}. '}{text(explain_likeness(one))}.</p>"
        for one in report.likeness
    )
    return f'<article class="card panel likeness"><h3>As if never seen</h3>{lines}</article>'
