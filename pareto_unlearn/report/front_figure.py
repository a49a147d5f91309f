"""The front as a Plotly figure: completeness against quality loss, with its legend."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from pareto_unlearn.records import TrialState
from pareto_unlearn.report.charts import FrontPoint, FrontView
from pareto_unlearn.report.facts import Recommendation
from pareto_unlearn.report.figures import (
    BUTTONS_HEIGHT,
    DEPTH,
    Figure,
    dictionary,
    plain,
    styled_axis,
    styled_layout,
)
from pareto_unlearn.report.marks import look, method_title, unconverged_symbol
from pareto_unlearn.report.solution import Kind, Solution
from pareto_unlearn.report.views import group

OFF_SCALE = "off scale"
MODELS, REQUESTED = "models", "requested"
"""Traces whose hover texts the script puts together: four views of a thousand models need them once."""
_NEAR_X, _NEAR_Y = 0.3, 0.06
"""Markers of one method that are closer than these shares of the box get one common name."""
_LETTER_WIDTH, _LINE_HEIGHT = 0.014, 0.05
"""Upper bounds of a letter's size as shares of the box, which is at least 500 pixels wide."""


def _short(value: float) -> float:
    """Return a place with as many digits as a screen can show."""
    return float(f"{value:.6g}")


def _status(solution: Solution, point: FrontPoint) -> str:
    """Return the status that decides the marker and stands behind the method in the legend; empty if none."""
    if point.off_scale and not (point.y == 0.0 and solution.kind is Kind.ORIGINAL):
        return OFF_SCALE
    if solution.state is TrialState.INFEASIBLE:
        return "infeasible"
    if solution.state is TrialState.UNCONVERGED:
        return "unconverged"
    return "dominated" if point.dominated else ""


def _direction(point: FrontPoint) -> float:
    """Return the angle of the arrow that points to an off-scale model: 0 is up, 90 is right."""
    sideways, upwards = point.x - point.drawn[0], point.y - point.drawn[1]
    return math.degrees(math.atan2((sideways > 0) - (sideways < 0), (upwards > 0) - (upwards < 0)))


def _symbol(solution: Solution, status: str) -> str:
    base = look(solution).symbol
    if status == OFF_SCALE:
        return "arrow"
    if status == "infeasible":
        return f"{base}-x-open" if base in ("circle", "square", "diamond") else "x-open"
    if status == "unconverged":
        return unconverged_symbol(base)
    return f"{base}-open" if status == "dominated" else base


Family = tuple[str, str, str, str]


def _families(view: FrontView, solutions: Sequence[Solution]) -> dict[Family, list[FrontPoint]]:
    """Group models by marker (title, status, symbol, colour); the epsilon method is last and drawn on top."""

    def family(point: FrontPoint) -> Family:
        solution = solutions[point.key]
        status = _status(solution, point)
        return method_title(solution), status, _symbol(solution, status), look(solution).colour

    upwards = sorted(view.points, key=lambda point: DEPTH[solutions[point.key].kind])
    return group(upwards, family)


def front_legend(view: FrontView, solutions: Sequence[Solution]) -> list[tuple[str, str, str]]:
    """Return (symbol, colour, words) of every marker in a view, in the order of the solutions."""
    families = _families(view, solutions)
    ordered = sorted(families, key=lambda family: min(point.key for point in families[family]))
    entries = [
        (symbol, colour, f"{title} ({status})" if status else title)
        for title, status, symbol, colour in ordered
    ]
    if view.band is not None:
        line = f"half of {view.band.seeds} seeds attain this (wash: from one to all of them)"
        entries.append(("line-ew", "var(--blue-soft)", line))
    asked = any(point.requested is not None for point in view.points)
    return (
        [*entries, ("line-ns-open", "var(--ink-soft)", "mean completeness that epsilon requests")]
        if asked
        else entries
    )


Spot = tuple[float, float]
"""The place of a marker as shares of the box, from its lower left corner."""


def _spot(point: FrontPoint, view: FrontView) -> Spot:
    low, high = view.box.y
    y = point.drawn[1]
    if view.logarithmic:
        low, high, y = math.log10(low), math.log10(high), math.log10(y)
    left, right = view.box.x
    return (point.drawn[0] - left) / (right - left), (y - low) / (high - low)


def _label_side(point: FrontPoint, view: FrontView) -> str:
    """Return the side of an off-scale marker on which its name has room: towards the middle of the box."""
    return "middle right" if _spot(point, view)[0] < 0.5 else "middle left"


def _clusters(points: Sequence[FrontPoint], view: FrontView) -> list[list[FrontPoint]]:
    """Group markers near each other.

    Each cluster starts with the marker nearest to the middle, where a name has room; the others are near that
    marker.
    """
    clusters: list[list[FrontPoint]] = []
    for point in sorted(points, key=lambda p: (abs(_spot(p, view)[0] - 0.5), p.key)):
        x, y = _spot(point, view)
        for cluster in clusters:
            other_x, other_y = _spot(cluster[0], view)
            if abs(x - other_x) <= _NEAR_X and abs(y - other_y) <= _NEAR_Y:
                cluster.append(point)
                break
        else:
            clusters.append([point])
    return clusters


def edge_labels(view: FrontView, solutions: Sequence[Solution]) -> dict[int, str]:
    """Return the names beside off-scale markers, by key.

    Markers of one method that lie together share a name. A name that would cover another is left out.
    """
    outside = [p for p in view.points if _status(solutions[p.key], p) == OFF_SCALE]
    labels: dict[int, str] = {}
    taken: list[tuple[float, float, float]] = []
    for title, points in group(outside, lambda point: method_title(solutions[point.key])).items():
        for cluster in _clusters(points, view):
            name = solutions[cluster[0].key].label if len(cluster) == 1 else title
            x, y = _spot(cluster[0], view)
            width = _LETTER_WIDTH * (len(name) + 2)
            left, right = (x, x + width) if x < 0.5 else (x - width, x)
            if all(right < low or left > high or abs(y - at) > _LINE_HEIGHT for low, high, at in taken):
                labels[cluster[0].key] = plain(name)
                taken.append((left, right, y))
    return labels


def _front_traces(view: FrontView, solutions: Sequence[Solution]) -> list[go.Scatter]:
    traces, labels = [], edge_labels(view, solutions)
    for (_, status, symbol, colour), points in _families(view, solutions).items():
        outside = status == OFF_SCALE
        edge = colour if "open" in symbol else "var(--surface)"
        traces.append(
            go.Scatter(
                x=[_short(point.drawn[0]) for point in points],
                y=[_short(point.drawn[1]) for point in points],
                mode="markers+text" if outside else "markers",
                text=[labels.get(point.key, "") for point in points] if outside else None,
                textposition=[_label_side(point, view) for point in points] if outside else None,
                textfont={"size": 12, "color": colour},
                customdata=[point.key for point in points],
                meta=MODELS,
                hoverinfo="text",
                cliponaxis=False,
                opacity=1.0 if view.band is None else 0.5,
                marker={
                    "symbol": symbol,
                    "size": 15 if symbol.startswith(("star", "arrow")) else 11,
                    "angle": [_direction(point) for point in points] if outside else 0,
                    "color": colour,
                    "line": {"width": 1.6 if "open" in symbol else 1.0, "color": edge},
                },
            )
        )
    return traces


def _gap_traces(view: FrontView) -> list[go.Scatter]:
    """Draw, for every epsilon, a tick at the requested completeness and a hairline to the one reached."""
    asked = [p for p in view.points if p.requested is not None and not p.off_scale]
    if not asked:
        return []
    hairline = [
        (None if x is None else _short(x), _short(p.y))
        for p in asked
        for x in (p.requested, p.drawn[0], None)
    ]
    colour = "var(--ink-soft)"
    return [
        go.Scatter(
            x=[x for x, _ in hairline],
            y=[y for _, y in hairline],
            mode="lines",
            line={"width": 1, "color": colour},
            hoverinfo="skip",
        ),
        go.Scatter(
            x=[x for x, _ in hairline[::3]],
            y=[y for _, y in hairline[::3]],
            mode="markers",
            meta=REQUESTED,
            hoverinfo="text",
            customdata=[p.key for p in asked],
            marker={
                "symbol": "line-ns-open",
                "size": 18,
                "color": colour,
                "line": {"width": 1.4, "color": colour},
            },
        ),
    ]


def _staircase(view: FrontView, solutions: Sequence[Solution]) -> list[go.Scatter]:
    """Draw the edge of the area that the epsilon method dominates; steps, as nothing is known in between."""
    kinds = (Kind.BOUNDARY, Kind.EPSILON, Kind.ORIGINAL)
    best = sorted(
        (p.x, p.y)
        for p in view.points
        if not p.dominated and solutions[p.key].kind in kinds and (p.y > 0.0 or not view.logarithmic)
    )
    if len({solutions[p.key].seed for p in view.points}) > 1 or len(best) < 2:
        return []
    return [
        go.Scatter(
            x=[_short(x) for x, _ in best],
            y=[_short(y) for _, y in best],
            mode="lines",
            line={"shape": "vh", "width": 1.5, "color": "var(--blue-soft)"},
            hoverinfo="skip",
        )
    ]


def _band(view: FrontView) -> list[go.Scatter]:
    """Draw what half of the seeds attain as a line, and from what one to what all attain as a wash."""
    if view.band is None:
        return []

    def edge(corners: Sequence[tuple[float, float]], **more: object) -> go.Scatter:
        shown = [(x, y) for x, y in corners if y > 0.0 or not view.logarithmic]
        return go.Scatter(
            x=[x for x, _ in shown], y=[y for _, y in shown], mode="lines", hoverinfo="skip", **more
        )

    bare = {"shape": "vh", "width": 0, "color": "var(--blue-soft)"}
    return [
        edge(view.band.worst, line=bare),
        edge(view.band.best, line=bare, fill="tonexty", fillcolor="var(--accent-wash)"),
        edge(view.band.median, line=bare | {"width": 2}),
    ]


def _star(view: FrontView, recommended: Recommendation | None) -> list[dict[str, Any]]:
    """Return the name beside the picked or recommended model, on the side where the front leaves room."""
    if recommended is None:
        return []
    point = next((one for one in view.points if one.key == recommended.key and not one.off_scale), None)
    if point is None:
        return []
    x, y = point.drawn
    return [
        {
            "text": f"★ {recommended.name}",
            "x": x,
            "y": math.log10(y) if view.logarithmic else y,
            "ax": -44,
            "ay": -40,
            "xanchor": "right",
            "arrowwidth": 1.2,
            "standoff": 11,
            "arrowhead": 0,
            "arrowcolor": "var(--ink-soft)",
            "font": {"size": 13, "color": "var(--ink)"},
        }
    ]


def _log_ticks(low: float, high: float) -> dict[str, list[float] | list[str]]:
    """Return the ticks 1, 2, 5 of each decade, written out; Plotly's labels leave the decade to guess."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    shown = [tick for tick in ticks if low <= tick <= high]
    return {"tickvals": shown, "ticktext": [f"{tick:g}" for tick in shown]}


def front_figure(
    view: FrontView, solutions: Sequence[Solution], recommended: Recommendation | None = None
) -> Figure:
    """Draw quality loss against completeness; ``positions`` are for the ring around the selected model.

    The model that is ``recommended`` gets a star.
    """
    figure = go.Figure(
        [
            *_band(view),
            *_staircase(view, solutions),
            *_gap_traces(view),
            *_front_traces(view, solutions),
        ]
    )
    drawn = dictionary(figure)
    low, high = view.box.y
    y_axis = styled_axis("quality loss (FVU), %", (low, high))
    if view.logarithmic:
        y_axis |= {
            "type": "log",
            "range": [math.log10(low), math.log10(high)],
            **_log_ticks(low, high),
        }
    drawn["layout"] = styled_layout(
        xaxis=styled_axis("completeness (mean over forget images), %", view.box.x),
        yaxis=y_axis,
        margin={"l": 60, "r": 24, "t": BUTTONS_HEIGHT + 12, "b": 56},
        annotations=[
            *_star(view, recommended),
            {
                "text": "better ↘",
                "xref": "paper",
                "yref": "paper",
                "x": 0.99,
                "y": 0.03,
                "xanchor": "right",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 12, "color": "var(--ink-faint)"},
            },
        ],
    )
    return drawn | {
        "positions": {str(point.key): [_short(value) for value in point.drawn] for point in view.points}
    }
