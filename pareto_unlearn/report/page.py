"""The page as one HTML file with style, data, Plotly and script inside; a report always gives equal bytes."""

import base64
import hashlib
import json
import math
import re
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from pareto_unlearn.analysis.audit import ModelAudit
from pareto_unlearn.catalogue.methods import words_of
from pareto_unlearn.config.smoke import SMOKE
from pareto_unlearn.report import header, provenance, sections, tables
from pareto_unlearn.report.answers import answers
from pareto_unlearn.report.audit_text import cell
from pareto_unlearn.report.audit_view import audit_section, relearning_figure
from pareto_unlearn.report.between import dial_line, slider_fraction
from pareto_unlearn.report.facts import Measured, Progress, Report, Solution, Split
from pareto_unlearn.report.figures import (
    CONFIG,
    curve_layout,
    embedding_figure,
    metric_figure,
    parallel_layout,
    plain,
    progress_layout,
)
from pareto_unlearn.report.fragments import text
from pareto_unlearn.report.front_figure import front_figure
from pareto_unlearn.report.live import RELOAD_SECONDS, Live, notice, reload_without_script
from pareto_unlearn.report.marks import look, method_look
from pareto_unlearn.report.quantities import metric_data
from pareto_unlearn.report.seeds import name_without_seed, spreads
from pareto_unlearn.report.views import finite
from pareto_unlearn.report.words import NONE, STATE_MARKS, number, share

SCRIPTS = ("panels.js", "convergence.js", "progress.js", "script.js")
"""The parts of the page's own script, in their order."""


def render(report: Report, live: Live | None = None) -> str:
    """Return the whole page, which reads itself again if ``live`` tells of a sweep that runs.

    The content security policy admits the two scripts of this page, by hash, and no others: even a name from
    the store that escaping missed could not run. Plotly needs ``blob:`` images to download a figure.
    """
    plotly, script = _script_text(get_plotlyjs()), _script_text("".join(_asset(name) for name in SCRIPTS))
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_hash(plotly)} {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    body = "".join(
        section(report)
        for section in (
            sections.front,
            header.run_facts,
            tables.images,
            tables.classes,
            audit_section,
            sections.metrics,
            sections.embeddings,
            sections.convergence,
            tables.trials,
            provenance.provenance,
        )
    )
    data = page_data(report) | ({} if live is None else {"reload": RELOAD_SECONDS})
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<meta name="color-scheme" content="light dark">\n{reload_without_script(live)}'
        f"<title>{SMOKE + ' · ' if report.smoke else ''}{text(report.name)} · unlearning report</title>\n"
        f"<style>{_asset('style.css')}</style>\n</head>\n<body>\n"
        f"{notice(live)}{header.header(report)}\n{header.slider_bar(report)}\n<main>{body}</main>\n"
        '<noscript><p class="note">The figures need JavaScript; images and tables do not.</p></noscript>\n'
        f'<script type="application/json" id="report-data">{embedded_json(data)}</script>\n'
        f"<script>{plotly}</script>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def embedded_json(data: object) -> str:
    """Return JSON that cannot end its script element, for any strings in the data."""
    plain = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return plain  # ensure_ascii has already escaped U+2028 and U+2029


def page_data(report: Report) -> dict[str, Any]:
    """Return the data of the script: figures, texts of every model, rows for the downloads."""
    solutions, over_seeds = report.solutions, spreads(report.solutions)
    curves = {curve.key: curve for curve in report.curves}
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]", "_", report.name) or "run",
        "start": report.start,
        "slider": list(report.slider),
        "dial": dial_line(report),
        "severalSeeds": len(report.seeds) > 1,
        "seedSliders": [[seed, keys] for seed, keys in report.seed_sliders],
        "config": CONFIG,
        "solutions": [
            _solution_data(report, key, one)
            | {"overSeeds": over_seeds.get(key), "answers": answers(one, curves.get(key))}
            for key, one in enumerate(solutions)
        ],
        "front": {
            sections.view_name(view): front_figure(view, solutions, report.recommended)
            for view in report.fronts
        },
        "metrics": [metric_figure(panel, solutions) for panel in report.panels],
        "metricData": metric_data(report),
        "progress": [_progress_data(one, report) for one in report.progress],
        "progressLayout": progress_layout(),
        "parallelLayout": parallel_layout(),
        "curves": {str(one.key): {"step": one.step, **one.columns} for one in report.curves},
        "embeddings": {str(one.key): embedding_figure(one) for one in report.embeddings},
        "relearning": {
            str(key): relearning_figure(report.audit, key, solutions[key]) for key in report.audit.curves
        },
        "curveLayout": curve_layout(),
        "trials": {
            "columns": list(report.trial_columns),
            "rows": [[_downloadable(value) for value in row] for row in report.trial_rows],
        },
    }


def _progress_data(one: Progress, report: Report) -> dict[str, Any]:
    style = method_look(one.method)
    seed = f" · seed {one.seed}" if len(report.seeds) > 1 else ""
    return {
        "name": plain(words_of(one.method) + seed),
        "colour": style.colour,
        "symbol": style.symbol,
        "trials": one.trials,
        "pairs": one.pairs,
        "areas": one.areas,
    }


def _downloadable(value: str | float | int | None) -> str | float | int | dict[str, str] | None:
    """Return a value for JSON: NaN becomes an object, distinct from null (not measured) and from text."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value


def _bars(measured: Measured) -> list[list[str | float | None]]:
    named = (
        ("completeness", measured.completeness, 1),
        ("worst class", measured.worst_class, 1),
        ("worst 5 % of images", measured.worst_5pct, 1),
        ("retained quality", measured.retained_quality, 2),
    )
    return [[name, finite(value), share(value, digits)] for name, value, digits in named]


def _evidence(solution: Solution, audit: ModelAudit | None) -> list[list[str]]:
    """Return (name, number) for the panel of a model; a number of images says on which it was measured."""
    train, heldout = (solution.gap_to_epsilon(split) for split in (Split.TRAIN, Split.HELDOUT))
    bounds_class = solution.train.level != solution.train.f1
    rows = [
        ["epsilon", number(solution.epsilon)],
        ["f1, training", number(solution.train.f1)],
        ["f1, held out", number(solution.heldout.f1)],
        ["f1 of the worst class, training", number(solution.train.level if bounds_class else None)],
        ["f2, training", number(solution.train.f2)],
        ["f2, held out", number(solution.heldout.f2)],
        ["gap to epsilon, training", number(train, 2)],
        ["gap to epsilon, held out", number(heldout, 2)],
        ["violation, training", number(solution.violation)],
        ["multiplier", number(solution.multiplier)],
        ["residual cosine", number(solution.residual_cosine)],
        ["steps", str(solution.steps)],
        ["audit", NONE if audit is None else str(audit.standing)],
        ["relearning gap", NONE if audit is None else cell(audit.finding("relearning_gap"))],
    ]
    return [row for row in rows if row[1] != NONE]


def no_curve(solution: Solution) -> str:
    """Return what stands where the curve of a trial would be, if none is stored."""
    if solution.mixed_from and not solution.steps:
        return f"No curve: this model was mixed from {solution.mixed_from} and took no step of its own."
    return "No curve is stored for this trial."


def _solution_data(report: Report, key: int, solution: Solution) -> dict[str, Any]:
    return {
        "label": solution.label,
        "name": name_without_seed(solution),
        "seed": solution.seed,
        "fraction": slider_fraction(solution, report.ranges),
        "state": solution.state.lower(),
        "stateMark": STATE_MARKS.get(solution.state, ""),
        "reason": solution.reason,
        "trial": solution.trial_id,
        "export": solution.export,
        "advice": ""
        if (one := report.recommended) is None or one.key != key
        else f"★ {one.name.capitalize()}: {one.why}.",
        "evidence": _evidence(solution, report.audit.of(key)),
        "bars": {split.value: _bars(solution.on(split)) for split in Split},
        "plain": plain(solution.label),
        "colour": look(solution).colour,
        "noCurve": no_curve(solution),
        "worst": {split.value: tables.worst_sentence(report, key, split) for split in Split},
    }


def _asset(name: str) -> str:
    return files("pareto_unlearn.report").joinpath(name).read_text(encoding="utf-8")


def frame(*, title: str, body: str, data: object, script_name: str) -> str:
    """Return another page of one file, as safe as ``render``'s: style, data, Plotly and one script inside.

    Args:
        title: of the window; any text.
        body: HTML already.
        data: for the script, as JSON.
        script_name: of the script's file in this package.
    """
    plotly, script = _script_text(get_plotlyjs()), _script_text(_asset(script_name))
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_hash(plotly)} {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{_asset('style.css')}</style>\n</head>\n<body>\n{body}"
        f'<script type="application/json" id="report-data">{embedded_json(data)}</script>\n'
        f"<script>{plotly}</script>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _script_text(source: str) -> str:
    """Return script text with the line ends that the browser hashes.

    Raises:
        ValueError: the source holds ``</script`` or opens an HTML comment before a ``<script``.
    """
    normal = source.replace("\r\n", "\n").replace("\r", "\n")
    lowered = normal.lower()
    if "</script" in lowered or ("<!--" in lowered and "<script" in lowered):
        raise ValueError("a script to embed holds an HTML script tag; it cannot be put inline as it is")
    return normal


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
