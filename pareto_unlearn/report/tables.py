"""The tables of the page: the image grid, completeness per class, all trials.

Cells of a model carry its index as ``data-key``, so that the script can highlight them together. Buttons that
select a model carry it as ``data-select``.
"""

from pareto_unlearn.analysis.naming import short_id
from pareto_unlearn.config import ForgetImages
from pareto_unlearn.records import TrialState
from pareto_unlearn.report.charts import ClassTable, GridRow
from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.fragments import mark, section, state_badge, text
from pareto_unlearn.report.solution import Kind, Solution, Split
from pareto_unlearn.report.views import finite
from pareto_unlearn.report.words import (
    NONE,
    count,
    number,
    share,
    with_error,
)


def _head_button(report: Report, key: int) -> str:
    solution = report.solutions[key]
    return (
        f'<th scope="col" data-key="{key}"><button type="button" data-select="{key}">{mark(solution)}'
        f'<span class="head-label">{text(solution.label)}</span>'
        f'<span class="head-number">{share(solution.train.completeness, 0)}</span></button></th>'
    )


def _image(url: str | None, row: GridRow, title: str) -> str:
    if url is None:
        return '<span class="no-image" title="no image stored"></span>'
    side = max(row.width, row.height)
    sharp = ' class="pixels"' if side <= 96 else ""
    return f'<img{sharp} src="{url}" alt="{text(title)}" width="{row.width}" height="{row.height}">'


def _image_row(report: Report, row: GridRow, index: int) -> str:
    name = f"{row.set} {row.class_name}"
    cells = "".join(
        f'<td data-key="{key}">{_image(url, row, f"{name}, {report.solutions[key].label}")}</td>'
        for key, url in zip(report.grid.columns, row.cells, strict=True)
    )
    return (
        f'<tr data-set="{text(row.set)}" data-row="{index}"><th scope="row" class="stick stick-0">'
        f"<span>{text(row.class_name)}</span></th>"
        '<td class="stick stick-1" data-role="input">'
        f"{_image(row.input, row, f'{name}, input with hole')}</td>"
        '<td class="stick stick-2" data-role="truth">'
        f"{_image(row.truth, row, f'{name}, truth')}</td>{cells}</tr>"
    )


_VEILS = {
    ForgetImages.SHOWN: "",
    ForgetImages.VEILED: " Forget images are veiled: inputs, truths, and the pictures of models less than "
    "90 % complete are mosaics, made before this page was written.",
    ForgetImages.NONE: " This page holds no picture of a forget image.",
}


def choice(report: Report) -> str:
    """Return which models a table of a large run shows, and how to see others; empty if it shows all."""
    if not report.left_out:
        return ""
    all_models = len(report.shown) + len(report.left_out)
    star = "" if report.recommended is None else f"the {report.recommended.name} one, "
    return (
        f" Shown are {len(report.shown)} of {all_models:,} models: the original, {star}the ends of the "
        "front, and others evenly between. To see another, select it above and copy the line that stands "
        "for its pictures."
    )


def images(report: Report) -> str:
    """Return the grid of images: the same images for every model."""
    grid = report.grid
    if not grid.rows:
        return section(
            "images", "The same images through every model", "No sample images are stored in this run.", ""
        )
    heads = "".join(_head_button(report, key) for key in grid.columns)
    groups = ""
    width = len(grid.columns)
    for name, title in (("forget", "Forget: should be lost"), ("retain", "Retain: should stay")):
        rows = [_image_row(report, row, index) for index, row in enumerate(grid.rows) if row.set == name]
        if rows:
            groups += (
                f'<tbody class="set-{name}"><tr class="set-head"><th colspan="3" scope="rowgroup" '
                f'class="stick stick-0"><span>{title}</span></th>'
                f'<td colspan="{width}"></td></tr>{"".join(rows)}</tbody>'
            )
    left_out = (
        f" {count(grid.left_out, 'further image')} left out to keep the file small; the store has them all."
        if grid.left_out
        else ""
    )
    lead = (
        "Held-out images, never trained on. Columns run from lowest to highest completeness, "
        f"baselines last.{left_out}{_VEILS[report.forget_images]}"
        f"{choice(report)}"
    )
    blur = '<label class="check"><input type="checkbox" id="hide-forget"> blur the forget images</label>'
    body = (
        f"{'' if report.forget_images is ForgetImages.NONE else blur}"
        '<div class="card scroll" tabindex="0" role="region" aria-label="Image grid">'
        f'<table id="grid" class="grid" style="--columns:{width + 2}"><thead><tr>'
        '<th scope="col" class="stick stick-0">class</th><th scope="col" class="stick stick-1">input</th>'
        f'<th scope="col" class="stick stick-2">truth</th>{heads}</tr></thead>{groups}</table></div>'
    )
    return section("images", "The same images through every model", lead, body)


def _heat_cell(value: float | None, key: int, worst: bool) -> str:
    if value is None:
        return f'<td data-key="{key}" class="none">{NONE}</td>'
    kept = min(max(1.0 - value, 0.0), 1.0)
    classes = "heat worst" if worst else "heat"
    flag = '<span class="visually-hidden"> (forgotten least)</span>' if worst else ""
    return f'<td data-key="{key}" class="{classes}" style="--kept:{kept:.3f}">{share(value, 0)}{flag}</td>'


def _class_table(report: Report, table: ClassTable) -> str:
    table = table.only(report.shown)
    heads = "".join(_head_button(report, key) for key in table.columns)
    worst = [table.worst(index) for index in range(len(table.columns))]
    rows = ""
    for name, values in zip(table.classes, table.values, strict=True):
        cells = "".join(
            _heat_cell(
                value,
                key,
                bottom is not None and bottom[0] == name and report.solutions[key].kind is not Kind.ORIGINAL,
            )
            for key, value, bottom in zip(table.columns, values, worst, strict=True)
        )
        rows += f'<tr><th scope="row" class="stick stick-0"><span>{text(name)}</span></th>{cells}</tr>'
    tail = "".join(
        f'<td data-key="{key}">{share(report.solutions[key].on(table.split).worst_5pct, 0)}</td>'
        for key in table.columns
    )
    hidden = "" if table.split is Split.TRAIN else " hidden"
    return (
        f'<div class="card scroll" data-split="{table.split.value}" tabindex="0" role="region" '
        f'aria-label="Completeness per class, {table.split.words}"{hidden}>'
        f'<table class="classes" style="--columns:{len(table.columns)}"><thead><tr>'
        f'<th scope="col" class="stick stick-0">class</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody><tfoot><tr>"
        f'<th scope="row" class="stick stick-0">worst 5 % of images</th>{tail}</tr></tfoot></table></div>'
    )


def worst_sentence(report: Report, key: int, split: Split) -> str:
    """Return a sentence on the class that a model forgets least; empty if classes were not measured."""
    table = next(one for one in report.class_tables if one.split is split)
    if key not in table.columns:
        return ""
    worst = table.worst(table.columns.index(key))
    if worst is None:
        return ""
    name, completeness = worst
    mean = share(report.solutions[key].on(split).completeness, 0)
    return f"class {name} keeps {share(1.0 - completeness, 0)} (mean completeness {mean})"


def classes(report: Report) -> str:
    """Return completeness per forget class on both splits; the script shows one split at a time."""
    tables = "".join(_class_table(report, table) for table in report.class_tables if table.classes)
    if not tables:
        return section(
            "classes", "Completeness per class", "Completeness per class was not measured in this run.", ""
        )
    lead = (
        "Epsilon bounds the mean; a class can lag far behind it. Cells show completeness, the colour shows "
        "what is still remembered, and the outlined cell is the class that the model forgets least. "
        f"Protocol: objective.{choice(report)}"
    )
    body = f'<p class="callout" aria-live="polite"><span id="worst-class"></span></p>{tables}'
    return section("classes", "Completeness per class", lead, body)


_COLUMNS = (
    ("Model", False),
    ("Id", False),
    ("State", False),
    ("Epsilon", True),
    ("f1", True),
    ("f2", True),
    ("Complete\u00adness", True),
    ("Worst class", True),
    ("Worst 5 %", True),
    ("Retained quality", True),
    ("Held-out complete\u00adness", True),
    ("Held-out worst class", True),
    ("Held-out quality", True),
    ("Relearn\u00ading gap", True),
    ("Gap to epsilon", True),
    ("Violation", True),
    ("Steps", True),
    ("Seconds", True),
    ("Reason", False),
)


def _number_cell(value: float | None, shown: str, hint: str = "") -> str:
    sortable, title = finite(value), f' title="{hint}"' if hint else ""
    plain = "" if sortable is None else format(sortable, ".9g")
    return f'<td class="number" data-v="{plain}"{title}>{shown}</td>'


def _objective_cell(value: float | None, error: float | None) -> str:
    return _number_cell(value, number(value), with_error(value, error) if error else "")


def _trial_row(report: Report, solution: Solution, key: int) -> str:
    audit, one = report.audit.of(key), report.recommended
    star = "" if one is None or one.key != key else f' <span title="{one.name}">★</span>'
    relearnt = None if audit is None else audit.finding("relearning_gap").value
    train, heldout, gap = solution.train, solution.heldout, solution.gap_to_epsilon(Split.TRAIN)
    numbers = "".join(
        [
            _number_cell(solution.epsilon, number(solution.epsilon)),
            _objective_cell(train.f1, train.f1_error),
            _objective_cell(train.f2, train.f2_error),
            _number_cell(train.completeness, share(train.completeness)),
            _number_cell(train.worst_class, share(train.worst_class)),
            _number_cell(train.worst_5pct, share(train.worst_5pct)),
            _number_cell(train.retained_quality, share(train.retained_quality, 2)),
            _number_cell(heldout.completeness, share(heldout.completeness)),
            _number_cell(heldout.worst_class, share(heldout.worst_class)),
            _number_cell(heldout.retained_quality, share(heldout.retained_quality, 2)),
            _number_cell(relearnt, number(relearnt, 2)),
            _number_cell(gap, number(gap, 2)),
            _number_cell(solution.violation, number(solution.violation)),
            _number_cell(solution.steps, str(solution.steps)),
            _number_cell(solution.seconds, NONE if solution.seconds is None else f"{solution.seconds:.1f}"),
        ]
    )
    return (
        f'<tr data-key="{key}" data-order="{key}"><th scope="row" class="stick stick-0" data-v="{key}">'
        f'<button type="button" data-select="{key}">{mark(solution)} {text(solution.label)}</button>'
        f"{star}</th>"
        f'<td data-v="{text(solution.trial_id)}"><code>{text(short_id(solution.trial_id))}</code></td>'
        f'<td data-v="{text(solution.state)}">{state_badge(solution.state, solution.state.lower())}</td>'
        f'{numbers}<td class="reason" data-v="{text(solution.reason)}">{text(solution.reason)}</td></tr>'
    )


def _endings(report: Report) -> str:
    """Return the list of trials that are not done, with their reasons; it stands above the table."""
    endings = [
        f"<li>{state_badge(one.state, one.state.lower())} <b>{text(one.label)}</b> {text(one.reason)}</li>"
        for one in report.solutions
        if one.state is not TrialState.DONE
    ]
    return f'<ul class="endings">{"".join(endings)}</ul>' if endings else ""


def _finder(report: Report) -> str:
    """Return the search of a large table, of which a browser's own search sees the drawn rows only."""
    if not report.left_out:
        return ""
    return (
        '<label class="find">Find <input type="search" id="trials-find" autocomplete="off" '
        'placeholder="name, id, state or reason"></label> <span id="trials-found" class="minor" '
        'aria-live="polite"></span>'
    )


def trials(report: Report) -> str:
    """Return the table of all trials with its downloads; it is also the accessible form of the figures."""
    heads = "".join(
        f'<th scope="col" aria-sort="none" '
        f'class="{"number" if numeric else "words"}{" stick stick-0" if index == 0 else ""}">'
        f'<button type="button" data-sort="{index}">{title}</button></th>'
        for index, (title, numeric) in enumerate(_COLUMNS)
    )
    rows = "".join(_trial_row(report, solution, key) for key, solution in enumerate(report.solutions))
    body = (
        f'{_endings(report)}<p class="buttons">'
        '<button type="button" class="action" id="download-csv">Download CSV</button>'
        f'<button type="button" class="action" id="download-json">Download JSON</button>{_finder(report)}</p>'
        '<div class="card scroll" tabindex="0" role="region" aria-label="Table of trials">'
        '<table id="trials" class="trials">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    lead = (
        "Every trial with its evidence; failures stay in the list with their reason. The downloads hold all "
        "columns of the store. Values are of the training images unless the head says held-out."
    )
    return section("trials-section", "All trials", lead, body)
