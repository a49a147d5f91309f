"""The page of a comparison as one HTML file, as safe as the report: no request, two scripts by hash.

Every text from a store passes ``text`` or, in figures, ``plain``.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from pareto_unlearn.analysis.attainment_difference import LEAST_SEEDS
from pareto_unlearn.analysis.front import is_non_dominated
from pareto_unlearn.analysis.scores import BOXES, LEVELS
from pareto_unlearn.config.smoke import SMOKE, SMOKE_NOTICE
from pareto_unlearn.report.comparison import RunComparison
from pareto_unlearn.report.comparison_view import (
    COLOURS,
    SYMBOLS,
    ComparisonView,
    RunView,
    SplitView,
    loss_differences,
)
from pareto_unlearn.report.figures import CONFIG, Figure, dictionary, plain, styled_axis, styled_layout
from pareto_unlearn.report.fragments import legend, section, text
from pareto_unlearn.report.frame import frame
from pareto_unlearn.report.words import NONE

_HIGHEST_LOSS = 0.5
"""Models that lose more are no menu; a chart that shows them hides all others."""
_X_AXIS, _Y_AXIS = "completeness, %", "quality loss (FVU), %"


def render_comparison(view: ComparisonView) -> str:
    """Return the whole page."""
    title = " and ".join(run.title for run in view.table.runs)
    body = _fronts(view) + _losses(view) + _attainment(view) + _settings(view.table)
    return frame(
        title=f"{SMOKE + ' · ' if view.is_smoke else ''}{title} · comparison",
        body=f"{_header(view, title)}<main>{body}</main>\n"
        '<noscript><p class="note">The figures need JavaScript; tables do not.</p></noscript>\n',
        data={"config": CONFIG, "figures": _figures(view)},
        scripts=("theme.js", "comparison.js"),
    )


def _header(view: ComparisonView, title: str) -> str:
    smoke = f'<p class="smoke" role="alert">{text(SMOKE_NOTICE)}</p>' if view.is_smoke else ""
    return (
        f'<header>{smoke}<p class="eyebrow">Comparison of unlearning runs</p><h1>{text(title)}</h1>'
        f'<p class="verdict">{text(_verdict(view))}</p></header>'
    )


def _verdict(view: ComparisonView) -> str:
    """Return how the runs differ on held-out images, at the levels of e that all of them reach."""
    rows = loss_differences(view.splits[0])
    first = rows[0][0]
    said = []
    for title, _, apart in rows[1:]:
        known = [(level, one) for level, one in zip(LEVELS, apart, strict=True) if one is not None]
        lower, higher = (sum(sign * one > 0.0 for _, one in known) for sign in (-1.0, 1.0))
        said.append(
            f"of {len(known)} levels of forgetting, {title} loses less quality than {first} at {lower} and "
            f"more at {higher}"
            if known
            else f"{title} and {first} reach no common level of forgetting"
        )
    words = "; ".join(said)
    return f"{words[:1].upper()}{words[1:]} (held-out images, median over seeds)."


def _fronts(view: ComparisonView) -> str:
    lead = (
        "Each marker is one model, each line the front of one seed. To the right more is forgotten (a mean "
        "over the forget images), further "
        f"down less quality is lost. Models that lose more than {_HIGHEST_LOSS:.0%} are left out."
    )
    entries = [
        (SYMBOLS[place], COLOURS[place], f"{run.title} ({_count(run.fronts)})")
        for place, run in enumerate(view.splits[0].runs)
    ]
    panels = "".join(
        _panel(f"front-{one.split.value}", one.split.words, "Completeness against quality loss")
        for one in view.splits
    )
    return section("fronts", "Fronts", lead, f'{legend(entries)}<div class="panels">{panels}</div>')


def _count(fronts: Sequence[np.ndarray]) -> str:
    return f"{len(fronts)} seed{'' if len(fronts) == 1 else 's'}"


def _panel(name: str, words: str, label: str) -> str:
    return (
        f'<article class="card panel"><h3>{text(words)}</h3>'
        f'<div id="figure-{name}" class="figure figure-comparison" role="img" '
        f'aria-label="{text(label)}, {text(words)}"></div></article>'
    )


def _losses(view: ComparisonView) -> str:
    lead = (
        "The least quality loss in percent among models that kept at most so much (e) of what was to be "
        "forgotten, medians over seeds; in brackets the difference from the first run, negative where less "
        "is lost. Area: share of the box below that loss that the front dominates, more is better."
    )
    head = "".join(f"<th>e ≤ {level:g}</th>" for level in LEVELS)
    head += "".join(f"<th>area<br>below {height:.0%}</th>" for height in BOXES)
    rows = ""
    for split in view.splits:
        for run, (title, losses, apart) in zip(split.runs, loss_differences(split), strict=True):
            cells = [_loss(own, other) for own, other in zip(losses, apart, strict=True)]
            cells += [f"{one:.3f}" for one in run.scores.areas] if run.scores else [NONE] * len(BOXES)
            rows += f"<tr><th>{text(title)}, {text(split.split.words)}</th>{_cells(cells)}</tr>"
    table = f'<table class="scores"><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return section("losses", "At equal forgetting", lead, _scrolling(table, "Quality loss at fixed e"))


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"<td>{text(cell)}</td>" for cell in cells)


def _loss(own: float | None, apart: float | None) -> str:
    if own is None:
        return NONE
    return f"{100 * own:.2f}" + (f" ({100 * apart:+.2f})" if apart else "")


def _scrolling(table: str, label: str) -> str:
    return (
        f'<div class="card scroll panel" tabindex="0" role="region" aria-label="{text(label)}">{table}</div>'
    )


def _attainment(view: ComparisonView) -> str:
    drawn = [
        _panel(f"attainment-{one.split.value}-{place}", _words(one, place), "Difference of attainment")
        for one in view.splits
        for place, found in enumerate(one.differences)
        if len(found)
    ]
    if not drawn:
        lead = (
            f"A difference of attainment needs {LEAST_SEEDS} seeds of each run. Until then read the table "
            "above; "
            "remember that two seeds of one run differ too."
        )
        return section("attainment", "Where they differ", lead, "")
    lead = (
        "Coloured is where more seeds of one run than of the other have a model that is at least as good in "
        "both: in the colour of that run, the stronger the larger the share of seeds."
    )
    return section("attainment", "Where they differ", lead, f'<div class="panels">{"".join(drawn)}</div>')


def _words(view: SplitView, place: int) -> str:
    return (
        f"{view.runs[0].title} against {view.runs[place + 1].title}, {view.split.words}, "
        f"{view.num_seeds[place]} seeds each"
    )


def _settings(table: RunComparison) -> str:
    lead = "What the sweep files say differently from that of the first run, and what the runs took."
    head = (
        "<tr><th>run</th><th>differs from the first in</th><th>gradient pairs a seed</th><th>trials</th></tr>"
    )
    rows = "".join(
        f"<tr><td>{text(run.title)}</td>"
        f"<td class='reason'>{'<br>'.join(text(line) for line in run.differences) or NONE}</td>"
        f"<td>{NONE if run.gradient_pairs is None else format(run.gradient_pairs.mean, ',.0f')}</td>"
        f"<td>{text(run.endings or NONE)}</td></tr>"
        for run in table.runs
    )
    notes = '<p class="note">Compare fronts at equal gradient pairs only: a front belongs to its budget.</p>'
    body = _scrolling(f'<table class="audit"><thead>{head}</thead><tbody>{rows}</tbody></table>', "Settings")
    return section("settings", "Settings", lead, body + notes)


def _figures(view: ComparisonView) -> dict[str, Any]:
    figures = {f"figure-front-{one.split.value}": _front_figure(one) for one in view.splits}
    for one in view.splits:
        for place, found in enumerate(one.differences):
            if len(found):
                name = f"figure-attainment-{one.split.value}-{place}"
                figures[name] = _difference_figure(one, found, COLOURS[0], COLOURS[place + 1])
    return figures


def _top(view: SplitView) -> float:
    """Return the largest loss that the charts of a split show."""
    shown = [one[:, 1] for run in view.runs for front in run.fronts for one in [_shown(front)] if len(one)]
    return 1.08 * max(float(np.concatenate(shown).max()), 0.01) if shown else _HIGHEST_LOSS


def _shown(front: np.ndarray) -> np.ndarray:
    finite = front[np.all(np.isfinite(front), axis=1)]
    shown: np.ndarray = finite[finite[:, 1] <= _HIGHEST_LOSS]
    return shown


def _axes(view: SplitView) -> Figure:
    return styled_layout(
        xaxis=styled_axis(_X_AXIS, (-2.0, 102.0)),
        yaxis=styled_axis(_Y_AXIS, (-2.0 * _top(view), 100.0 * _top(view))),
        margin={"l": 56, "r": 16, "t": 34, "b": 48},
    )


def _front_figure(view: SplitView) -> Figure:
    traces = [
        trace
        for place, run in enumerate(view.runs)
        for number, front in enumerate(run.fronts)
        for trace in _front_traces(run, _shown(front), place, number)
    ]
    return dictionary(go.Figure(traces)) | {"layout": _axes(view)}


def _front_traces(run: RunView, front: np.ndarray, place: int, number: int) -> list[go.Scatter]:
    best = front[is_non_dominated(front)] if len(front) else front
    best = best[np.argsort(-best[:, 0], kind="stable")]
    name = plain(run.title) + (f", seed {number + 1} of {len(run.fronts)}" if len(run.fronts) > 1 else "")
    return [
        go.Scatter(
            x=(100.0 * (1.0 - best[:, 0])).tolist(),
            y=(100.0 * best[:, 1]).tolist(),
            mode="lines",
            line={"shape": "vh", "width": 1.4, "color": COLOURS[place]},
            opacity=0.55,
            hoverinfo="skip",
        ),
        go.Scatter(
            x=(100.0 * (1.0 - front[:, 0])).tolist(),
            y=(100.0 * front[:, 1]).tolist(),
            mode="markers",
            hovertext=[
                f"<b>{name}</b><br>completeness {1.0 - e:.1%}<br>quality loss {loss:.2%}" for e, loss in front
            ],
            hoverinfo="text",
            marker={
                "symbol": SYMBOLS[place],
                "size": 9,
                "color": COLOURS[place],
                "line": {"width": 1, "color": "var(--surface)"},
            },
        ),
    ]


def _difference_figure(view: SplitView, found: np.ndarray, first: str, second: str) -> Figure:
    top = _top(view)
    shapes = [
        {
            "type": "rect",
            "layer": "below",
            "x0": 100.0 * (1.0 - min(left, 1.02)),
            "x1": 100.0 * (1.0 - min(right, 1.02)),
            "y0": 100.0 * low,
            "y1": 100.0 * min(high, top),
            "line": {"width": 0},
            "fillcolor": first if share > 0.0 else second,
            "opacity": 0.15 + 0.6 * math.fabs(share),
        }
        for left, low, right, high, share in found.tolist()
        if low < top and left < 1.02
    ]
    return {"data": [], "layout": _axes(view) | {"shapes": shapes}}
