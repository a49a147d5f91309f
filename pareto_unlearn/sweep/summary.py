"""The closing words of a sweep: the table of its trials, and one line for each thing that the front shows."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pareto_unlearn.analysis.audit import Finding, audit_models, find_company, find_gaps
from pareto_unlearn.analysis.likeness import Likeness, explain_likeness
from pareto_unlearn.analysis.naming import short_id
from pareto_unlearn.analysis.robustness import (
    HOW_TO_READ_GAINS,
    StepGain,
    explain_gap,
    find_gains,
    find_gap,
    spread_of_ends,
)
from pareto_unlearn.analysis.scores import BOXES, LEVELS, Scores
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, METHODS
from pareto_unlearn.commands import command_line
from pareto_unlearn.config import AuditPolicy
from pareto_unlearn.config.smoke import SMOKE, SMOKE_NOTICE
from pareto_unlearn.foreign_text import plain
from pareto_unlearn.records import HAS_MODEL, Phase, Role, RunInfo, TrialRecord, TrialState
from pareto_unlearn.store import StoredRun, open_run
from pareto_unlearn.sweep.progress import as_percent, describe_range, say, styled_state

SPLITS = ("heldout", "train")
MANY_ROWS = 500
_UNBOUNDED = 10_000
"""Columns; more than any table has."""


def print_summary(path: str, info: RunInfo, report: str | None, console: Console) -> None:
    """Print what a finished sweep found, and where its store and its report lie.

    Args:
        path: the run directory.
        info: what is known of the run.
        report: path of the report; None without a report.
        console: where to print.
    """
    run = open_run(path)
    for line in _result_lines(run, info):
        say(console, line)
    if info.smoke:
        say(console, Text(SMOKE_NOTICE, style="bold yellow"))
    say(console, f"store  {path}")
    if report is not None:
        say(console, f"report {report}")


def _result_lines(run: StoredRun, info: RunInfo) -> list[str | Text]:
    gap = None if info.smoke else find_gap(run.records)
    return [
        *(describe_range(valid, info) for valid in info.ranges),
        *describe_spread(info),
        *_describe_scores(run, info),
        *describe_likeness(run.compare_with_retrained()),
        *_describe_audit(run),
        *describe_gains(find_gains(run.records, info.scales)),
        *describe_gap(gap),
    ]


def _describe_audit(run: StoredRun) -> list[str]:
    """Return a line on each highest boundary: whether what it forgot is gone; empty without audit rows."""
    rows = run.audit_rows()
    highest = [record for record in run.records if record.role is Role.HIGHEST and record.trial_id in rows]
    found = audit_models(highest, rows, AuditPolicy(), find_company(run.records, rows))
    if not found:
        return []
    lines = [
        f"audit: {one.label} is {one.standing} ({one.reason}); relearning gap "
        f"{_describe_finding(one.finding('relearning_gap'))}"
        for one in found
    ]
    command = command_line("audit", run.path, allow_import=run.needs_import)
    return [*lines, f"all attacks, on every model: {command}"]


def _describe_finding(finding: Finding) -> str:
    value = "unknown" if finding.value is None else f"{finding.value:.2f}"
    return f"{value} ({finding.verdict}{f': {finding.detail}' if finding.detail else ''})"


def describe_spread(info: RunInfo) -> list[str]:
    """Return a line on how far the ends of the range differ between seeds, in e; empty for one range."""
    spread = spread_of_ends(info.ranges, info.scales)
    if spread is None:
        return []
    ends = (
        f"{name} end e {end.mean:.3f} ({end.low:.3f} to {end.high:.3f}, {end.deviation:.3f} apart)"
        for name, end in zip(("lower", "upper"), spread, strict=True)
    )
    return [f"ends over {len(info.ranges)} seeds: {', '.join(ends)}"]


def _describe_scores(run: StoredRun, info: RunInfo) -> list[str]:
    """Return three lines a seed: areas in both fixed boxes, and quality loss at fixed e, held out first."""
    lines = []
    for seed in [valid.seed for valid in info.ranges]:
        methods = [EPSILON_CONSTRAINT, *_compared_methods(run, seed)]
        found = {method: [run.scores(method, seed, split) for split in SPLITS] for method in methods}
        pairs = {method: _describe_pairs(run, method, seed) for method in methods}
        for place, height in enumerate(BOXES):
            areas = ", ".join(
                f"{method} {heldout.areas[place]:.3f} / {train.areas[place]:.3f} ({pairs[method]})"
                for method, (heldout, train) in found.items()
            )
            lines.append(
                f"area with quality loss below {height:.0%} (seed {seed}), held out / training: {areas}"
            )
        levels = " ".join(f"{level:g}" for level in LEVELS)
        losses = ", ".join(f"{method} {_describe_losses(heldout)}" for method, (heldout, _) in found.items())
        lines.append(f"held-out quality loss in % at e <= {levels} of the forget set (seed {seed}): {losses}")
    return lines


def _describe_pairs(run: StoredRun, method: str, seed: int) -> str:
    """Return what the models of a method cost, and what their measuring did where that is known."""
    measuring = run.measuring_pairs(method=method, seed=seed)
    beside = "" if measuring is None else f" + {measuring:,.0f} of measuring"
    return f"gradient pairs {run.gradient_pairs(method=method, seed=seed):,}{beside}"


def _compared_methods(run: StoredRun, seed: int) -> list[str]:
    """Return the baselines with a model, in the order of the records; what the dial mixed is none."""
    rows = (row for row in run.records if row.phase is Phase.BASELINE and row.seed == seed)
    return list(dict.fromkeys(row.method for row in rows if row.state in HAS_MODEL and row.method in METHODS))


def _describe_losses(scores: Scores) -> str:
    return " ".join("-" if loss is None else f"{100 * loss:.2f}" for loss in scores.losses)


def describe_gains(gains: Sequence[StepGain]) -> list[Text]:
    """Return one line a seed on what twice the steps gained, and a line on how to read them.

    Empty without checks of convergence.
    """
    seeds = sorted({gain.checked.seed for gain in gains})
    lines = [
        Text(f"gain in f2 when the steps are doubled (seed {seed}): ")
        + Text(", ").join(_describe_gain(gain) for gain in gains if gain.checked.seed == seed)
        for seed in seeds
    ]
    return [*lines, Text(HOW_TO_READ_GAINS)] if lines else []


def _describe_gain(gain: StepGain) -> Text:
    state = gain.doubled.state
    ending: list[str | Text] = [] if state is TrialState.DONE else [", ", styled_state(state)]
    share = "unknown" if gain.gain is None else f"{gain.gain:z.1%}"
    change = "" if gain.f1_change is None else f" (f1 {gain.f1_change:+z.2%} of its range)"
    return Text.assemble(f"{share} at {gain.checked.label}{change}", *ending)


def describe_likeness(likenesses: Sequence[Likeness]) -> list[str]:
    """Return a line a seed: the epsilon with as much error as a model that never saw the forget images.

    Empty without a retrained model.
    """
    return [
        f"As if never seen (seed {likeness.seed}). {explain_likeness(likeness)}" for likeness in likenesses
    ]


def describe_gap(record: TrialRecord | None) -> list[Text]:
    """Return one line on the trial whose training images flatter the front most; empty for None."""
    return [] if record is None else [Text(explain_gap(record), style="yellow")]


def closing_table(run: StoredRun) -> Table:
    """Return the table that a sweep ends with, the most complete trial first.

    It fits into 80 columns where the run has one seed; in a narrower terminal labels fold.

    ``complete`` is the mean completeness, ``worst`` that of the worst class, ``quality`` the retained quality
    on the training split and ``held out`` on the held-out split. ``gap`` is the relearning gap, 1 where a
    short attack brings all back; the column is there where models were audited beside a control.
    """
    gaps, smoke, many = _gaps_of(run), run.info.smoke, len({record.seed for record in run.records}) > 1
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(f"{SMOKE} trial" if smoke else "trial", overflow="fold")
    for name in ("id", *(["seed"] if many else []), "state"):
        table.add_column(name, overflow="fold")
    for name in ("f1", "f2", "complete", "worst", "quality", "held\nout", *(["gap"] if gaps else [])):
        table.add_column(name, justify="right", overflow="fold")
    named = [(record.label, record) for record in run.records]
    for label, record in sorted(named, key=_by_completeness):
        table.add_row(
            Text(plain(label)),
            short_id(record.trial_id),
            *([str(record.seed)] if many else []),
            styled_state(record.state),
            _number(record.f1),
            _number(record.f2, 3),
            as_percent(record.completeness),
            as_percent(record.completeness_worst_class),
            as_percent(record.retained_quality),
            as_percent(record.retained_quality_heldout),
            *([gaps.get(record.trial_id, "")] if gaps else []),
        )
    return table


def print_table(table: Table, console: Console) -> None:
    """Print a table, outside a terminal as wide as it is: nothing in a pipe is cut or folded."""
    if table.row_count > MANY_ROWS:
        lines = _lines_of(table)
        for start in range(0, len(lines), 100):  # the layout of a longer text takes time by its square
            text = Text("\n".join(lines[start : start + 100]))
            console.print(text, soft_wrap=True, highlight=False)
        return
    width = console.width
    if not console.is_terminal:
        for column in table.columns:
            column.header = " ".join(str(column.header).split())
        free = console.options.update(max_width=_UNBOUNDED)
        console.width = max(width, Measurement.get(console, free, table).maximum + len(table.columns))
    console.print(table)
    console.width = width


def _lines_of(table: Table) -> list[str]:
    """Return a table as lines without colours and folds: a Table takes 2 ms a row to lay out."""
    columns: list[list[str]] = []
    for column in table.columns:
        heading = str(column.header).replace("\n", " ")
        cells = [heading, *(cell.plain if isinstance(cell, Text) else str(cell) for cell in column.cells)]
        lengths = [cell_len(cell) for cell in cells]
        width = max(lengths)
        spaces = [" " * (width - length) for length in lengths]
        is_right = column.justify == "right"
        pairs = zip(cells, spaces, strict=True)
        columns.append([space + cell if is_right else cell + space for cell, space in pairs])
    return [" ".join(line) for line in zip(*columns, strict=True)]


def _gaps_of(run: StoredRun) -> dict[str, str]:
    """Return the relearning gap of each audited model that has one, by trial id."""
    gaps = find_gaps(run.records, run.audit_rows(), AuditPolicy())
    return {trial_id: f"{gap:.2f}" for trial_id, gap in gaps.items()}


def _by_completeness(named: tuple[str, TrialRecord]) -> tuple[bool, float, str]:
    label, record = named
    return record.completeness is None, -(record.completeness or 0.0), label


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"
