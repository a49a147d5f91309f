"""What can stand across in the metric panels, and as an axis of the figure of all metrics."""

from typing import Any

from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.figures import plain
from pareto_unlearn.report.solution import Solution, Split
from pareto_unlearn.report.views import is_core, percent
from pareto_unlearn.report.words import metric_title

DIGITS = 5


def metric_data(report: Report) -> dict[str, Any]:
    """Return the quantities of every model, the keys of the models that decide the axes, and the metrics."""
    drawn = set(report.fronts[0].keys)
    return {
        "core": [key for key in sorted(drawn) if is_core(report.solutions[key])],
        "quantities": [
            {"name": name, "log": is_log, "values": values}
            for name, is_log, values in _quantities(report, drawn)
        ],
        "axes": [
            {
                "title": f"{metric_title(panel.metric)}, {series.set} ({panel.protocol})",
                "words": [plain(word) for word in metric_title(panel.metric).split()],
                "set": plain(series.set),
                "values": values,
            }
            for panel in report.panels
            for series in panel.series
            for values in [_by_key(report, {point.key: point.value for point in series.points})]
        ],
    }


def _quantities(report: Report, drawn: set[int]) -> list[tuple[str, bool, list[float | None]]]:
    def of(name: str, split: Split) -> list[float | None]:
        return [
            _rounded(percent(getattr(one.on(split), name))) if key in drawn else None
            for key, one in enumerate(report.solutions)
        ]

    return [
        ("completeness, %", False, of("completeness", Split.TRAIN)),
        ("still remembered, %", True, [_left(one, key in drawn) for key, one in enumerate(report.solutions)]),
        ("completeness of the worst class, %", False, of("worst_class", Split.TRAIN)),
        ("held-out completeness, %", False, of("completeness", Split.HELDOUT)),
        ("held-out retained quality, %", False, of("retained_quality", Split.HELDOUT)),
    ]


def _left(solution: Solution, is_drawn: bool) -> float | None:
    complete = percent(solution.train.completeness)
    return None if complete is None or not is_drawn else _rounded(100.0 - complete)


def _by_key(report: Report, values: dict[int, float]) -> list[float | None]:
    return [_rounded(values.get(key)) for key in range(len(report.solutions))]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
