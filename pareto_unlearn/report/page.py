"""The page of a run and the data of its script; a report always gives equal bytes."""

import math
import re
from typing import Any

from pareto_unlearn.analysis.audit import ModelAudit
from pareto_unlearn.catalogue.methods import words_of
from pareto_unlearn.config import ForgetImages
from pareto_unlearn.config.smoke import SMOKE
from pareto_unlearn.report import header, provenance, sections, tables
from pareto_unlearn.report.answers import answers
from pareto_unlearn.report.audit_text import cell
from pareto_unlearn.report.audit_view import audit_section, relearning_figure
from pareto_unlearn.report.between import dial_line, slider_fraction
from pareto_unlearn.report.charts import Progress
from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.figures import (
    CONFIG,
    curve_layout,
    embedding_figure,
    metric_figure,
    parallel_layout,
    plain,
    progress_layout,
)
from pareto_unlearn.report.frame import frame
from pareto_unlearn.report.front_figure import front_figure
from pareto_unlearn.report.live import RELOAD_SECONDS, Live, notice, reload_without_script
from pareto_unlearn.report.marks import look, method_look
from pareto_unlearn.report.quantities import metric_data
from pareto_unlearn.report.seeds import name_without_seed, spreads
from pareto_unlearn.report.solution import Measured, Solution, Split
from pareto_unlearn.report.views import finite
from pareto_unlearn.report.words import NONE, STATE_MARKS, number, share, with_error

FORGET_IMAGES = "forget-images"
LENGTH_OF_HEAD = 4096
"""Characters of a page in which its marks are looked for."""
SCRIPTS = (
    "theme.js",
    "elements.js",
    "rows.js",
    "seen.js",
    "rings.js",
    "panels.js",
    "convergence.js",
    "progress.js",
    "script.js",
)
BARS = {
    "completeness": ("completeness", 1),
    "worst class": ("worst_class", 1),
    "worst 5 % of images": ("worst_5pct", 1),
    "retained quality": ("retained_quality", 2),
}
"""What the panel of a model draws as bars: the field of ``Measured`` and the digits of the number."""
SECTIONS = (
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


def render(report: Report, live: Live | None = None) -> str:
    """Return the whole page, which reads itself again if ``live`` tells of a sweep that runs."""
    main = "".join(section(report) for section in SECTIONS)
    return frame(
        title=f"{SMOKE + ' · ' if report.smoke else ''}{report.name} · unlearning report",
        head=forget_images_mark(report.forget_images) + reload_without_script(live),
        body=f"{notice(live)}{header.header(report)}\n{header.slider_bar(report)}\n<main>{main}</main>\n"
        '<noscript><p class="note">The figures need JavaScript; images and tables do not.</p></noscript>\n',
        data=page_data(report) | ({} if live is None else {"reload": RELOAD_SECONDS}),
        scripts=SCRIPTS,
    )


def forget_images_mark(mode: ForgetImages) -> str:
    """Return the element of the head that says how much of the forget images the page may hold."""
    return f'<meta name="{FORGET_IMAGES}" content="{mode}">\n'


def marked_forget_images(page: str) -> ForgetImages:
    """Return what a page says of itself; of one that says nothing, that it may hold all."""
    found = re.search(f'<meta name="{FORGET_IMAGES}" content="([a-z]+)">', page[:LENGTH_OF_HEAD])
    told = found[1] if found else ""
    return ForgetImages(told) if told in list(ForgetImages) else ForgetImages.SHOWN


def page_data(report: Report) -> dict[str, Any]:
    """Return the data of the script: figures, texts of every model, rows for the downloads."""
    solutions, over_seeds = report.solutions, spreads(report.solutions)
    curves = {curve.key: curve for curve in report.curves}
    left_out = set(report.left_out)
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]", "_", report.name) or "run",
        "start": report.start,
        "leftOut": list(report.left_out),
        "picturesLine": report.pictures_line,
        "slider": list(report.slider),
        "dial": dial_line(report),
        "severalSeeds": len(report.seeds) > 1,
        "seedSliders": [[seed, keys] for seed, keys in report.seed_sliders],
        "config": CONFIG,
        "bars": list(BARS),
        "evidence": list(_evidence(solutions[0], None)) if solutions else [],
        "splits": {split.value: split.words for split in Split},
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
            str(key): relearning_figure(report.audit, key, solutions[key])
            for key in report.audit.curves
            if key not in left_out
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
    """Return (part, number) of each of ``BARS``."""
    values = ((getattr(measured, name), digits) for name, digits in BARS.values())
    return [[None if finite(one) is None else float(f"{one:.4g}"), share(one, d)] for one, d in values]


def _evidence(solution: Solution, audit: ModelAudit | None) -> dict[str, str]:
    """Return the numbers of the panel of a model; a number of images says on which it was measured."""
    train, heldout = (solution.gap_to_epsilon(split) for split in (Split.TRAIN, Split.HELDOUT))
    bounds_class = solution.train.level != solution.train.f1
    return {
        "epsilon": number(solution.epsilon),
        "f1, training": with_error(solution.train.f1, solution.train.f1_error),
        "f1, held out": with_error(solution.heldout.f1, solution.heldout.f1_error),
        "f1 of the worst class, training": number(solution.train.level if bounds_class else None),
        "f2, training": with_error(solution.train.f2, solution.train.f2_error),
        "f2, held out": with_error(solution.heldout.f2, solution.heldout.f2_error),
        "gap to epsilon, training": number(train, 2),
        "gap to epsilon, held out": number(heldout, 2),
        "violation, training": number(solution.violation),
        "multiplier": number(solution.multiplier),
        "residual cosine": number(solution.residual_cosine),
        "steps": str(solution.steps),
        "audit": NONE if audit is None else str(audit.standing),
        "relearning gap": NONE if audit is None else cell(audit.finding("relearning_gap")),
    }


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
        "evidence": list(_evidence(solution, report.audit.of(key)).values()),
        "bars": {split.value: _bars(solution.on(split)) for split in Split},
        "plain": plain(solution.label),
        "colour": look(solution).colour,
        "noCurve": no_curve(solution),
        "worst": {split.value: tables.worst_sentence(report, key, split) for split in Split},
    }
