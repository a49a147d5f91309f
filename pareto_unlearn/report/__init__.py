"""The report of a stored run as one offline HTML file, the papers' tables, and the comparison of runs.

The report shows front, images, classes, metrics, convergence and trials. None of this needs weights.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pareto_unlearn.config import ForgetImages, forget_images_of
from pareto_unlearn.errors import StoreError
from pareto_unlearn.foreign_text import no_paths, without_secrets
from pareto_unlearn.report.audit_text import describe, write_audit
from pareto_unlearn.report.comparison import ComparisonFormat, compare_runs, write_comparison
from pareto_unlearn.report.comparison_page import render_comparison
from pareto_unlearn.report.comparison_view import view_comparison
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.live import Live
from pareto_unlearn.report.page import marked_forget_images, render
from pareto_unlearn.report.paper_table import Layout, gather_table
from pareto_unlearn.report.solution import Split
from pareto_unlearn.report.table_text import TextFormat, write_table
from pareto_unlearn.store import StoredRun, open_run
from pareto_unlearn.store.filesystem import is_uri, join_path, open_storage
from pareto_unlearn.whole_files import write_bytes_whole

__all__ = [
    "ComparisonFormat",
    "ForgetImages",
    "Layout",
    "Live",
    "Split",
    "TextFormat",
    "comparison_values",
    "describe",
    "make_comparison",
    "make_table",
    "table_values",
    "write_audit",
    "write_comparison_page",
    "write_out",
    "write_report",
]

REPORT_FILE = "report.html"


def write_report(
    run_path: str,
    out: str | None = None,
    forget_images: ForgetImages | None = None,
    live: Live | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """Write the report of a stored run as one HTML file that needs no network, and return its path or URI.

    The same store gives the same bytes, but for `uv run` before the lines to copy (``commands``). An older
    report stays whole until the new file replaces it.

    Args:
        run_path: the run directory, local or a URI such as ``s3://bucket/runs/name``.
        out: the file to write, local or a URI; None means ``report.html`` in the run directory.
        forget_images: how much of the forget images the page may hold; None: what the sweep file says, or for
            the run's own page what that page says, if it is less. So a page that was written without these
            pictures does not get them back when something else writes it again.
        live: how far the sweep is while it runs: the page then reads itself again.
        pictures: names of trials whose pictures the page must hold, if the run is too large for all.

    Raises:
        ConfigError: there is no run at ``run_path``, or no trial of such a name in it, or the folder of
            ``out`` cannot be reached.
        StoreError: a committed file is damaged or of a newer schema.
        OSError: the file cannot be written.
    """
    run = open_run(run_path)
    sweep_file = _sweep_file(run)
    mode = forget_images or forget_images_of(sweep_file)
    if out is None and forget_images is None:
        mode = max(mode, _mode_of_page(run), key=list(ForgetImages).index)
    page = render(gather(run, sweep_file, mode, pictures), live)
    if out is None:
        run.store.write_text(REPORT_FILE, page)
        return join_path(run_path, REPORT_FILE)
    write_out(out, page)
    return out


def _mode_of_page(run: StoredRun) -> ForgetImages:
    """Return how much of the forget images the run's page holds; all, if there is none yet."""
    try:
        return marked_forget_images(run.store.read_text(REPORT_FILE))
    except StoreError:
        return ForgetImages.SHOWN


def make_table(run_paths: Sequence[str], layout: Layout, form: TextFormat) -> str:
    """Return a table in the layout of one paper as text; several runs stand side by side.

    Raises:
        ConfigError: there is no run at one of the paths.
        StoreError: a committed file is damaged or of a newer schema.
    """
    return write_table(gather_table([open_run(path) for path in run_paths], layout), form)


def table_values(run_paths: Sequence[str], layout: Layout) -> dict[str, Any]:
    """Return the numbers of ``make_table`` as plain values, under the names of ``PaperTable``."""
    return asdict(gather_table([open_run(path) for path in run_paths], layout))


def comparison_values(run_paths: Sequence[str], split: Split) -> dict[str, Any]:
    """Return the numbers of ``make_comparison`` as plain values, under the names of ``RunComparison``."""
    return asdict(compare_runs([open_run(path) for path in run_paths], split))


def make_comparison(run_paths: Sequence[str], form: ComparisonFormat, split: Split = Split.TRAIN) -> str:
    """Return the comparison of stored runs as text; see ``compare_runs``.

    Raises:
        ConfigError: there is no run at one of the paths.
        StoreError: a committed file is damaged or of a newer schema, or a run has lost its sweep file.
    """
    return write_comparison(compare_runs([open_run(path) for path in run_paths], split), form)


def write_comparison_page(run_paths: Sequence[str], out: str) -> str:
    """Write the comparison of stored runs as one HTML file that needs no network, and return ``out``.

    Raises:
        ConfigError: there is no run at one of the paths, or the runs solve unlike problems.
        StoreError: a committed file is damaged or of a newer schema, or a run has lost its sweep file.
        OSError: the file cannot be written.
    """
    write_out(out, render_comparison(view_comparison([open_run(path) for path in run_paths])))
    return out


def write_out(out: str, text: str) -> None:
    """Write text to a file, local or a URI; an older file stays whole until the new one replaces it.

    Raises:
        ConfigError: the folder of ``out`` cannot be reached.
        OSError: the file cannot be written.
    """
    if is_uri(out):
        folder, _, name = out.rpartition("/")
        open_storage(folder)[1].put(name, text.encode())
        return
    Path(out).absolute().parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(Path(out), text.encode())


def _sweep_file(run: StoredRun) -> str:
    try:
        return no_paths(without_secrets(run.store.read_text("sweep.yaml")), run.path)
    except StoreError:
        return ""  # the rest of a run can be read without its sweep file; the page then shows no file
