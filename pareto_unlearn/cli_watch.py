"""Verbs of the command line that look at runs: how far they are, what they hold, and whether all is whole."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_unlearn.cli_arguments import AsJson, RunPath, choose, print_json
from pareto_unlearn.cli_examples import epilog
from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import TrialRecord

if TYPE_CHECKING:
    from pareto_unlearn.config import ForgetImages, SweepConfig
    from pareto_unlearn.store import Fault, RunStore
    from pareto_unlearn.sweep.status import RunStatus

SECONDS_BETWEEN_LOOKS = 2.0

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Run nothing: print trials, steps, hours (from a few steps that are measured) and bytes.",
    ),
]
DryRunJson = Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")]
NoMeasure = Annotated[
    bool, typer.Option("--no-measure", help="With --dry-run: measure no steps, so no hours are printed.")
]
OnCard = Annotated[
    str | None,
    typer.Option(
        "--card",
        help="With --dry-run: compute the hours for one GPU of a kind (a100, h100, h200) in place of "
        "measuring; needs neither GPU nor weights nor images.",
    ),
]
IgnoreSpace = Annotated[
    bool, typer.Option("--ignore-space", help="Start although the disk is probably too small.")
]

WatchReport = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="While the sweep runs, write the report at every trial that ends; the page reads itself again.",
    ),
]


def print_prediction(
    config: "SweepConfig", check_convergence: bool, measure: bool, card: str | None, as_json: bool
) -> None:
    """Print what a sweep will take, without running or writing anything of it."""
    from pareto_unlearn.sweep.card_costs import cost_table, predict_on_card
    from pareto_unlearn.sweep.dry_run import describe_prediction, predict_sweep

    if card is None:
        found = predict_sweep(config, check_convergence=check_convergence, measure=measure)
    else:
        found = predict_on_card(config, card, check_convergence=check_convergence)
    if as_json:
        print_json(found.to_plain())
        return
    table = [] if card is None else ["", *cost_table(found)]
    print(*describe_prediction(found), *table, sep="\n")


def list_trials(
    run: Annotated[
        str,
        typer.Argument(help="The run directory, or a folder of runs, e.g. runs.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """List the trials of a run, the most complete first; of a folder of runs, list the runs."""
    from pareto_unlearn.store import find_runs, open_run
    from pareto_unlearn.sweep.summary import closing_table, print_table
    from pareto_unlearn.terminal import open_console

    stores = find_runs(run)
    if stores is not None:
        _list_runs(stores, as_json)
        return
    opened = open_run(run)
    if as_json:
        print_json([_json_values(record) for record in opened.records])
    else:
        print_table(closing_table(opened), open_console())


def _list_runs(stores: "list[RunStore]", as_json: bool) -> None:
    from pareto_unlearn.sweep.status import look_at, runs_table
    from pareto_unlearn.sweep.summary import print_table
    from pareto_unlearn.terminal import open_console

    statuses = [look_at(store) for store in stores]
    if as_json:
        print_json([status.to_plain() for status in statuses])
    else:
        print_table(runs_table(statuses), open_console())


store_app = typer.Typer(
    name="store", help="Check and repair the files of a run.", no_args_is_help=True, rich_markup_mode=None
)


@store_app.command(name="check", epilog=epilog("store check"))
def check_store(run: RunPath, as_json: AsJson = False) -> None:
    """Read every file of a run and say what is damaged or lost; exit code 6 if anything is.

    Nothing is written.
    """
    from pareto_unlearn.store import check_run, open_damaged

    found = check_run(open_damaged(run))
    _print_faults(found, as_json, "will")
    if found:
        raise typer.Exit(StoreError.exit_code)


@store_app.command(name="repair", epilog=epilog("store repair"))
def repair_store(run: RunPath, as_json: AsJson = False) -> None:
    """Mend what can be mended of a run: no result is deleted, what is damaged is moved to damaged/ in it.

    Where 200 trials or more have small files of their own, these are put together, which makes a large run
    fast to read. Exit code 6 if anything is left to do by hand. The next start of the sweep solves what is
    missing.
    """
    from pareto_unlearn.store import compact_run, open_damaged, repair_run

    store = open_damaged(run)
    mended, left = repair_run(store)
    _print_faults([*mended, *left], as_json, "did")
    if not left and (count := compact_run(store)):
        print(f"the small files of {count} trials are put together", file=sys.stderr)
    if left:
        raise typer.Exit(StoreError.exit_code)


def _print_faults(found: "list[Fault]", as_json: bool, when: str) -> None:
    if as_json:
        print_json([fault.to_plain() for fault in found])
        return
    for fault in found:
        plain = fault.to_plain()
        print(f"{plain['kind']}: {plain['file']}: {plain['detail']}")
        print(f"  it means: {plain['meaning']}; repair {when}: {plain['repair']}")
    if not found:
        print("all files are whole")


def status(
    run: RunPath,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until no driver holds the run.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --watch a line for every change.")
    ] = False,
) -> None:
    """Show how far a run is: running, done, failed and planned trials, time left, range, last f1 and f2.

    It reads the files of the run alone, on any machine that sees them, and writes nothing.
    """
    from pareto_unlearn.store import RunStore

    store = RunStore.open(run)
    if watch:
        _watch(store, as_json)
    else:
        _show(store, as_json)


def _show(store: "RunStore", as_json: bool) -> None:
    from pareto_unlearn.sweep.status import describe_status, look_at
    from pareto_unlearn.terminal import open_console

    found = look_at(store)
    if as_json:
        print_json(found.to_plain())
    else:
        open_console().print(describe_status(found), highlight=False, soft_wrap=True)


def _watch(store: "RunStore", as_json: bool) -> None:
    """Show a run until nobody works on it, or Ctrl-C: in place on a terminal, elsewhere at every change."""
    from rich.live import Live

    from pareto_unlearn.sweep.status import describe_status
    from pareto_unlearn.terminal import open_console

    console = open_console()
    try:
        if console.is_terminal and not as_json:
            with Live(console=console, auto_refresh=False) as live:
                for found in _looks(store):
                    live.update(describe_status(found), refresh=True)
            return
        shown: object = None
        for found in _looks(store):
            if found.signature != shown and as_json:
                print_json(found.to_plain(), on_one_line=True)
            elif found.signature != shown:
                console.print(describe_status(found), highlight=False, soft_wrap=True)
            shown = found.signature
    except KeyboardInterrupt:
        return


def _looks(store: "RunStore") -> "Iterator[RunStatus]":
    """Yield how far a run is, now and every few seconds, until no driver holds it."""
    from pareto_unlearn.sweep.status import RunState, look_at

    while True:
        found = look_at(store)
        yield found
        if found.state is not RunState.RUNNING:
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def watch_report(
    run: str, out: str | None, forget_images: "ForgetImages | None", *, pictures: Sequence[str] = ()
) -> str:
    """Write the report of a run whenever a trial has ended, and in the end; return where it lies."""
    from pareto_unlearn.report import Live, write_report
    from pareto_unlearn.store import RunStore
    from pareto_unlearn.sweep.status import RunState

    written: object = None
    try:
        for found in _looks(RunStore.open(run)):
            rows = (found.done, found.failed, found.others, found.ranges)
            if found.state is RunState.RUNNING and rows != written:
                live = Live(
                    ended=found.done + found.failed,
                    running=len(found.running),
                    total=found.total,
                    written=time.time(),
                )
                path, written = write_report(run, out, forget_images, live, pictures), rows
                print(f"{path}: {live}", file=sys.stderr)
    except KeyboardInterrupt:
        print("no longer watched: the page does not read itself again from now on", file=sys.stderr)
    return write_report(run, out, forget_images, pictures=pictures)


def track(
    run: RunPath,
    tracker: Annotated[str, typer.Argument(help="tensorboard, mlflow, wandb or optuna.", show_default=False)],
    where: Annotated[
        str,
        typer.Argument(
            help="tensorboard, wandb: a folder; mlflow, optuna: a database file, or a URL such as "
            "http://HOST:5000 (mlflow) or postgresql://... (optuna).",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Copy the trials of a run, running or finished, to a tracker: parameters, numbers, curves, states.

    It reads the files of the run alone. A second export adds nothing; that of a run that has grown adds what
    is new. W&B is written offline: nothing is sent before you run wandb sync.
    """
    from pareto_unlearn.trackers import Tracker, export_run, viewer_command

    chosen = choose(Tracker, tracker, "TRACKER")
    tally = export_run(run, chosen, where)
    if as_json:
        print_json(asdict(tally))
    else:
        print(f"{tally.added} trials added, {tally.updated} brought up to date, {tally.same} there already")
    if tally.fixed:
        print(
            f"{tally.fixed} finished trials of {chosen} cannot take what was measured since: export to a new "
            "file to see it",
            file=sys.stderr,
        )
    print(f"look at it: {viewer_command(chosen, where)}", file=sys.stderr)


def _json_values(record: TrialRecord) -> dict[str, object]:
    """Return a record as JSON values; where a number became null, its state says why."""
    return {"trial_id": record.trial_id, "label": record.label, **asdict(record)}
