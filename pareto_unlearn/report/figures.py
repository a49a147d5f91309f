"""Plotly figures made from the facts, as dictionaries ready for JSON.

A colour is a CSS variable, ``var(--name)``, so that it follows the light or dark theme of the reader; the
page's script replaces it by its value before drawing. Every hover text goes through ``plain``, because Plotly
reads a small HTML dialect in it.
"""

import html
import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_json
from plotly.subplots import make_subplots

from pareto_unlearn.analysis.scores import BOXES
from pareto_unlearn.report.charts import Embedding, MetricPanel, MetricSeries
from pareto_unlearn.report.marks import look
from pareto_unlearn.report.solution import Kind, Solution
from pareto_unlearn.report.views import group
from pareto_unlearn.report.words import metric_title

Figure = dict[str, Any]


BUTTONS_HEIGHT = 30
"""Pixels above a plot that keep its points and labels clear of Plotly's buttons."""
CONFIG: dict[str, Any] = {
    "showSendToCloud": False,
    "displaylogo": False,
    "responsive": True,
    "scrollZoom": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
}


DEPTH = {Kind.BASELINE: 0, Kind.CONTROL: 0, Kind.ORIGINAL: 1, Kind.EPSILON: 2, Kind.BOUNDARY: 3}


def plain(text: str) -> str:
    """Return text that Plotly shows literally: its tags, links and entities have no effect."""
    return html.escape(text, quote=True)


def dictionary(figure: go.Figure) -> Figure:
    """Return a figure as plain JSON data without random ids."""
    # engine="json": the default depends on whether orjson happens to be installed.
    loaded: Figure = json.loads(to_json(figure, engine="json", remove_uids=True))
    return loaded


def styled_axis(title: str, limits: tuple[float, float] | None = None, **more: object) -> Figure:
    """Return an axis in the look of the page; ``more`` overrides."""
    axis: Figure = {
        "title": {"text": title, "standoff": 8, "font": {"size": 13}},
        "gridcolor": "var(--line)",
        "linecolor": "var(--line-strong)",
        "tickcolor": "var(--line-strong)",
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
    }
    if limits is not None:
        axis["range"] = list(limits)
    return axis | more


def styled_layout(**more: object) -> Figure:
    """Return a layout in the look of the page; ``more`` overrides."""
    return {
        "template": {},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink-soft)"},
        "hoverlabel": {
            "bgcolor": "var(--surface)",
            "bordercolor": "var(--line-strong)",
            "font": {"color": "var(--ink)", "size": 13},
            "align": "left",
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--ink-faint)", "activecolor": "var(--ink)"},
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "hovermode": "closest",
        "showlegend": False,
    } | more


def _metric_traces(series: MetricSeries, solutions: Sequence[Solution]) -> list[go.Scatter]:
    traces = []
    upwards = sorted(series.points, key=lambda p: DEPTH[solutions[p.key].kind])
    for style, points in group(upwards, lambda p: look(solutions[p.key])).items():
        bars = all(p.low is not None and p.high is not None for p in points)
        traces.append(
            go.Scatter(
                y=[p.value for p in points],
                mode="markers",
                customdata=[p.key for p in points],
                hoverinfo="text",
                cliponaxis=False,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [(p.high or 0.0) - p.value for p in points],
                    "arrayminus": [p.value - (p.low or 0.0) for p in points],
                    "thickness": 1,
                    "width": 2,
                    "color": style.colour,
                }
                if bars
                else None,
                marker={
                    "symbol": style.symbol,
                    "size": 11 if style.symbol == "star" else 8,
                    "color": style.colour,
                    "line": {"width": 1, "color": "var(--surface)"},
                },
            )
        )
    return traces


def metric_figure(panel: MetricPanel, solutions: Sequence[Solution]) -> Figure:
    """Draw one metric for forget (above) and retain (below) as points, without lines that imply an order.

    The script sets the range of the axes, what stands across and what hovers; ``rows`` tells it what each
    row holds.
    """
    rows = len(panel.series)
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.09)
    for row, series in enumerate(panel.series, start=1):
        figure.add_traces(_metric_traces(series, solutions), rows=row, cols=1)
    drawn = dictionary(figure)
    layout = drawn["layout"]
    axes = {}
    for index, series in enumerate(panel.series):
        suffix = "" if index == 0 else str(index + 1)
        axes[f"xaxis{suffix}"] = layout[f"xaxis{suffix}"] | styled_axis(
            "completeness, %" if index == rows - 1 else ""
        )
        axes[f"yaxis{suffix}"] = layout[f"yaxis{suffix}"] | styled_axis(series.set, nticks=5)
    shapes = [
        _reference(series, index) for index, series in enumerate(panel.series) if series.reference is not None
    ]
    margin = {"l": 52, "r": 12, "t": BUTTONS_HEIGHT, "b": 40}
    drawn["layout"] = styled_layout(**axes, shapes=shapes, margin=margin)
    rows_of = [
        {"yaxis": f"y{'' if index == 0 else index + 1}", "set": series.set}
        for index, series in enumerate(panel.series)
    ]
    return drawn | {"title": metric_title(panel.metric), "protocol": panel.protocol, "rows": rows_of}


def _reference(series: MetricSeries, index: int) -> Figure:
    suffix = "" if index == 0 else str(index + 1)
    return {
        "type": "line",
        "xref": f"x{suffix} domain",
        "yref": f"y{suffix}",
        "x0": 0,
        "x1": 1,
        "y0": series.reference,
        "y1": series.reference,
        "layer": "below",
        "line": {"dash": "dash", "width": 1.2, "color": "var(--ink-faint)"},
    }


EMBEDDED = {
    ("retain", "original"): ("circle-open", "var(--blue)", "retain, original model"),
    ("retain", "unlearned"): ("circle", "var(--blue)", "retain, this model"),
    ("forget", "original"): ("diamond-open", "var(--vermillion)", "forget, original model"),
    ("forget", "unlearned"): ("diamond", "var(--vermillion)", "forget, this model"),
}
"""Symbol, colour and legend words by (set, version): one model's pictures of one set."""


def embedding_figure(embedding: Embedding) -> Figure:
    """Draw the pictures of both sets before and after.

    A t-SNE gives its axes no meaning, so they have no ticks.
    """
    figure = go.Figure()
    for (name, version), (symbol, colour, words) in EMBEDDED.items():
        points = [point for point in embedding.points if (point.set, point.version) == (name, version)]
        figure.add_trace(
            go.Scatter(
                x=[float(f"{point.x:.4g}") for point in points],
                y=[float(f"{point.y:.4g}") for point in points],
                mode="markers",
                hovertext=[f"{plain(point.image_id)}<br>{words}" for point in points],
                hoverinfo="text",
                marker={"symbol": symbol, "size": 7, "color": colour, "opacity": 0.75},
            )
        )
    drawn = dictionary(figure)
    bare: Figure = {"showticklabels": False, "ticks": "", "showgrid": False}
    drawn["layout"] = styled_layout(
        xaxis=styled_axis("", **bare),
        yaxis=styled_axis("", **bare, scaleanchor="x"),
        margin={"l": 16, "r": 16, "t": 16, "b": 16},
    )
    return drawn


def curve_layout() -> Figure:
    """Return the layout of the convergence figure; the script puts in the places of its five panels."""
    names = ("f1 (forget)", "f2 (retain)", "eta", "gradient norms", "cosine")
    axes: Figure = {}
    for index, name in enumerate(names):
        suffix = "" if index == 0 else str(index + 1)
        last = index in (1, 4)
        axes[f"xaxis{suffix}"] = styled_axis("step" if last else "", anchor=f"y{suffix}", showticklabels=last)
        axes[f"yaxis{suffix}"] = styled_axis(name, anchor=f"x{suffix}", nticks=5)
        if index:
            axes[f"xaxis{suffix}"]["matches"] = "x"
    axes["yaxis2"]["rangemode"] = axes["yaxis3"]["rangemode"] = "tozero"
    axes["yaxis5"]["range"] = [-1.05, 1.05]
    return styled_layout(**axes, hovermode="x", margin={"l": 60, "r": 16, "t": BUTTONS_HEIGHT, "b": 44})


def progress_layout() -> Figure:
    """Return the layout of the figure of growing areas: the small box on the left, the large on the right."""
    titles = (f"area, loss < {height:.0%}" for height in BOXES)
    axes: Figure = {}
    for suffix, title, left in zip(("", "2"), titles, (0.0, 0.6), strict=True):
        axes[f"xaxis{suffix}"] = styled_axis("", anchor=f"y{suffix}", domain=[left, left + 0.4])
        axes[f"xaxis{suffix}"]["rangemode"] = "tozero"
        axes[f"yaxis{suffix}"] = styled_axis(title, (-0.02, 1.02), anchor=f"x{suffix}")
    return styled_layout(**axes, margin={"l": 60, "r": 16, "t": BUTTONS_HEIGHT, "b": 48})


def parallel_layout() -> Figure:
    """Return the layout of the figure of all metrics; the script names its axes."""
    bare: Figure = {"showticklabels": False, "ticks": "", "showgrid": False, "showline": False}
    return styled_layout(
        xaxis=styled_axis("", showgrid=True, tickfont={"size": 11}, tickangle=0),
        yaxis=styled_axis("", (-0.05, 1.05), **bare),
        margin={"l": 40, "r": 40, "t": BUTTONS_HEIGHT, "b": 70},
    )
