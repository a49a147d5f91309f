"""The data of each figure, made from solutions and table rows: fronts, image grid, classes, metrics, curves.

Every function is pure. Tables are lists of dictionaries, limited to the newest attempts, with the index of
the solution under ``key``.
"""

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from pareto_unlearn.analysis.front import is_non_dominated
from pareto_unlearn.catalogue.metrics import REPORT_ORDER
from pareto_unlearn.report.charts import (
    CURVE_COLUMNS,
    Box,
    ClassTable,
    Curve,
    FrontPoint,
    FrontView,
    GridRow,
    ImageGrid,
    MetricPanel,
    MetricPoint,
    MetricSeries,
)
from pareto_unlearn.report.solution import UNDRAWN, Kind, Solution, Split

Row = Mapping[str, Any]
T = TypeVar("T")

SET_ORDER = ("forget", "retain")
# With the 4.8 MB of Plotly, these limits keep a page of some 200 trials under 8 MB.
IMAGE_BYTES_LIMIT = 1_500_000
CURVE_POINTS_LIMIT = 12_000


def finite(value: object) -> float | None:
    """Return the value as a float; None for null, NaN, infinity and anything that is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def percent(value: float | None) -> float | None:
    """Return a ratio as percent; None for null, NaN and infinity."""
    number = finite(value)
    return None if number is None else 100.0 * number


def group(rows: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Return the rows grouped by key, in order of each key's first appearance."""
    groups: dict[Any, list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def axis_limits(core: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Return axis limits that show the core and other values near it; far values do not stretch the axis.

    Args:
        core: values that must be visible. If fewer than two are distinct, the others count as core.
        others: values that are shown if they lie within half the span of the core.
    """
    if len(set(core)) < 2:
        core, others = [*core, *others], []
    if not core:
        return 0.0, 1.0
    low, high = min(core), max(core)
    reach = 0.5 * (high - low)
    near = [value for value in others if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - pad, high + pad


def _clamp(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


def is_core(solution: Solution) -> bool:
    """Return whether a model must be visible on the axes: ours and the original, not their rivals."""
    return solution.kind not in (Kind.BASELINE, Kind.CONTROL)


def drawn_keys(solutions: Sequence[Solution]) -> list[int]:
    """Return the keys of models in figures and image tables: not the undrawn, and the original only once."""
    originals = [key for key, one in enumerate(solutions) if one.kind is Kind.ORIGINAL and one.has_model]
    return [
        key
        for key, one in enumerate(solutions)
        if one.has_model and one.kind not in UNDRAWN and key not in originals[1:]
    ]


def placed(solutions: Sequence[Solution], split: Split) -> list[tuple[int, float, float]]:
    """Return (key, completeness, quality loss) in percent of every drawn model that has both."""
    found = []
    for key in drawn_keys(solutions):
        measured = solutions[key].on(split)
        x, y = percent(measured.completeness), percent(measured.quality_loss)
        if x is not None and y is not None:
            found.append((key, x, y))
    return found


def _box(solutions: Sequence[Solution], places: Sequence[tuple[int, float, float]], logarithmic: bool) -> Box:
    core = [place for place in places if is_core(solutions[place[0]])]
    rest = [place for place in places if not is_core(solutions[place[0]])]
    x = axis_limits([p[1] for p in core], [p[1] for p in rest])
    y = axis_limits([p[2] for p in core], [p[2] for p in rest])
    if not logarithmic:
        return Box(x=x, y=y)
    positive = [p[2] for p in places if 0.0 < p[2] <= y[1]]
    # Half the smallest loss leaves room for the original, whose loss of zero has no place on this axis.
    return Box(x=x, y=(min(positive) / 2.0, y[1] * 1.2) if positive else (0.01, 100.0))


def _dominated(solutions: Sequence[Solution], places: Sequence[tuple[int, float, float]]) -> set[int]:
    """Return the keys of models that are dominated by another model of the same seed.

    The original competes in every seed. Controls do not compete, as they are no solutions of the problem.
    """
    rivals_of_any_seed = [place for place in places if solutions[place[0]].kind is not Kind.CONTROL]
    seeds = {solutions[key].seed for key, _, _ in rivals_of_any_seed}
    worse: set[int] = set()
    for seed in seeds:
        rivals = [
            place
            for place in rivals_of_any_seed
            if solutions[place[0]].seed == seed or solutions[place[0]].kind is Kind.ORIGINAL
        ]
        front = is_non_dominated(np.array([[-x, y] for _, x, y in rivals], dtype=np.float64))
        worse |= {place[0] for place, kept in zip(rivals, front, strict=True) if not kept}
    return worse


def front_view(solutions: Sequence[Solution], split: Split, logarithmic: bool) -> FrontView:
    """Return the front on one split: every model in the plane of completeness and quality loss."""
    found = placed(solutions, split)
    box = _box(solutions, found, logarithmic)
    worse = _dominated(solutions, found) if found else set()
    points = tuple(
        FrontPoint(
            key=key,
            x=x,
            y=y,
            drawn=(_clamp(x, box.x), _clamp(y, box.y)),
            dominated=key in worse,
            requested=percent(solutions[key].on(split).requested),
        )
        for key, x, y in found
    )
    return FrontView(split=split, logarithmic=logarithmic, points=points, box=box)


def _data_url(image: object) -> str | None:
    """Return an image as a data URL; None for anything that is neither WebP nor PNG."""
    if not isinstance(image, bytes):
        return None
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "webp"
    elif image[:8] == b"\x89PNG\r\n\x1a\n":
        kind = "png"
    else:
        return None
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _grid_row(rows: Sequence[Row], columns: Sequence[int], original: int | None) -> GridRow:
    images = {(row["key"], row["kind"]): _data_url(row["image"]) for row in rows}
    first = rows[0]
    return GridRow(
        set=str(first["set"]),
        image_id=str(first["image_id"]),
        class_name=str(first["class_name"]),
        width=int(first["width"]),
        height=int(first["height"]),
        input=images.get((original, "input")),
        truth=images.get((original, "truth")),
        cells=tuple(images.get((key, "output")) for key in columns),
    )


def _thin(rows: list[GridRow], limit: int) -> list[GridRow]:
    """Return rows, spread evenly over the list, whose images together stay under the limit in bytes."""
    sizes = [sum(len(cell or "") for cell in (row.input, row.truth, *row.cells)) for row in rows]
    if sum(sizes) <= limit:
        return rows
    count = max(1, int(len(rows) * limit / sum(sizes)))
    return [rows[round(index)] for index in np.linspace(0, len(rows) - 1, count)]


def image_grid(
    rows: Sequence[Row],
    columns: Sequence[int],
    original: int | None,
    classes: Sequence[str] = (),
    limit: int = IMAGE_BYTES_LIMIT,
) -> ImageGrid:
    """Return the grid of sample images: one row per image, forget first; one column per model.

    Args:
        rows: rows of the samples table.
        columns: models from left to right; a model without any image gets no column.
        original: the model whose trial holds inputs and truths.
        classes: class names in the order of the rows; others follow by name.
        limit: the largest size of all images together, in bytes of their data URLs.
    """
    shown = {row["key"] for row in rows if row["kind"] == "output"}
    kept = [key for key in columns if key in shown]
    place = {name: index for index, name in enumerate(classes)}

    def identity(row: Row) -> tuple[int, int, str, str]:
        name = str(row["class_name"])
        return SET_ORDER.index(row["set"]), place.get(name, len(place)), name, str(row["image_id"])

    by_image = group(rows, identity)
    grid = [_grid_row(by_image[image], kept, original) for image in sorted(by_image)]
    thinned = [
        row for name in SET_ORDER for row in _thin([row for row in grid if row.set == name], limit // 2)
    ]
    return ImageGrid(columns=tuple(kept), rows=tuple(thinned), left_out=len(grid) - len(thinned))


def class_table(
    rows: Sequence[Row], split: Split, columns: Sequence[int], order: Sequence[str]
) -> ClassTable:
    """Return completeness by forget class: classes in the run's order, then unknown classes by name."""
    values = {
        (row["class_name"], row["key"]): finite(row["value"])
        for row in rows
        if row["metric"] == "completeness" and row["split"] == split and isinstance(row["class_name"], str)
    }
    found = {name for name, _ in values}
    classes = [name for name in order if name in found] + sorted(found - set(order))
    kept = [key for key in columns if any((name, key) in values for name in classes)]
    return ClassTable(
        split=split,
        columns=tuple(kept),
        classes=tuple(classes),
        values=tuple(tuple(values.get((name, key)) for key in kept) for name in classes),
    )


def _series(rows: Sequence[Row], name: str, solutions: Sequence[Solution]) -> MetricSeries:
    values = {row["key"]: row for row in rows if row["set"] == name and finite(row["value"]) is not None}
    points = tuple(
        MetricPoint(
            key=key,
            x=x,
            value=float(values[key]["value"]),
            low=finite(values[key]["low"]),
            high=finite(values[key]["high"]),
        )
        for key, x, _ in placed(solutions, Split.TRAIN)
        if key in values
    )
    references = [p.value for p in points if solutions[p.key].kind is Kind.ORIGINAL]
    counts = tuple(sorted({int(row["n"]) for row in values.values()}))
    return MetricSeries(set=name, points=points, reference=references[0] if references else None, n=counts)


def _panel_rank(identity: tuple[str, str, str]) -> tuple[int, str, str, str]:
    metric = identity[0]
    return (REPORT_ORDER.index(metric) if metric in REPORT_ORDER else len(REPORT_ORDER), *identity)


def whole_set_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of whole sets, on held-out images if the metric was measured on them."""
    whole = [
        row for row in rows if not isinstance(row["class_name"], str) and row["metric"] != "completeness"
    ]
    heldout = {(row["metric"], row["protocol"]) for row in whole if row["split"] == Split.HELDOUT}
    return [
        row
        for row in whole
        if row["split"] == Split.HELDOUT or (row["metric"], row["protocol"]) not in heldout
    ]


def metric_panels(rows: Sequence[Row], solutions: Sequence[Solution]) -> tuple[MetricPanel, ...]:
    """Return a panel for every metric of whole sets, on held-out images if it was measured on them.

    Each protocol of a metric has a panel of its own, as values of two protocols must not share an axis.
    """
    panels = group(
        whole_set_rows(rows),
        lambda row: (str(row["metric"]), str(row["protocol"]), str(row["split"])),
    )
    found = []
    for metric, protocol, split in sorted(panels, key=_panel_rank):
        members = panels[metric, protocol, split]
        series = tuple(_series(members, name, solutions) for name in SET_ORDER)
        kept = tuple(one for one in series if one.points)
        if kept:
            found.append(MetricPanel(metric=metric, protocol=protocol, split=split, series=kept))
    return tuple(found)


def _rounded(value: object) -> float | None:
    number = finite(value)
    return None if number is None else float(f"{number:.4g}")


def curve_places(recorded: Sequence[int], limit: int = CURVE_POINTS_LIMIT) -> list[list[int]]:
    """Return which of its steps, in their order, the curve of each trial keeps; the first and the last stay.

    Args:
        recorded: the number of steps of each trial.
        limit: about how many points all curves together may have.
    """
    per_trial = max(12, min(250, limit // max(1, len(recorded))))
    return [
        [round(place) for place in np.linspace(0, count - 1, min(per_trial, count)).tolist()]
        for count in recorded
    ]


def curves(rows: Sequence[Row]) -> tuple[Curve, ...]:
    """Return the convergence curves of the rows that ``curve_places`` chose."""
    trials = group(rows, lambda row: int(row["key"]))
    found = []
    for key in sorted(trials):
        kept = sorted(trials[key], key=lambda row: int(row["step"]))
        found.append(
            Curve(
                key=key,
                step=tuple(int(row["step"]) for row in kept),
                columns={name: tuple(_rounded(row.get(name)) for row in kept) for name in CURVE_COLUMNS},
            )
        )
    return tuple(found)
