"""The command line: turns arguments into calls, nothing else. Results go to stdout, messages go to stderr."""

import hashlib
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pareto_unlearn import __version__, cli_finished, cli_watch
from pareto_unlearn.cli_arguments import (
    AllowImport,
    AsJson,
    Overrides,
    RunPaths,
    Smoke,
    SweepFile,
    Weights,
    choose,
    print_json,
)
from pareto_unlearn.cli_examples import epilog
from pareto_unlearn.commands import command_line
from pareto_unlearn.errors import ParetoUnlearnError, explain_machine, require_address_space
from pareto_unlearn.terminal import open_console, plain_streams

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pareto_unlearn.config import SweepConfig
    from pareto_unlearn.finished.doctor import Finding

app = typer.Typer(
    name="pareto-unlearn",
    help="Unlearn images from an image-to-image model: a menu of models with proof, from one sweep file.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(epilog=epilog("sweep"))
def sweep(
    file: SweepFile,
    override: Overrides = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved sweep file and stop.")
    ] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Start Ray's dashboard and print its address.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run FAILED trials again.")] = False,
    check_convergence: Annotated[
        bool,
        typer.Option(
            "--check-convergence",
            help="Solve the highest boundary and three epsilons of each seed again with twice the steps, "
            "to see what more steps would gain.",
        ),
    ] = False,
    smoke: Smoke = False,
    allow_import: AllowImport = False,
    dry_run: cli_watch.DryRun = False,
    as_json: cli_watch.DryRunJson = False,
    no_measure: cli_watch.NoMeasure = False,
    card: cli_watch.OnCard = None,
    ignore_space: cli_watch.IgnoreSpace = False,
) -> None:
    """Run or continue a sweep: Phase I, the range of epsilon, Phase II, baselines, report."""
    from pareto_unlearn.config import dump_config

    config = _read(file, override, smoke, allow_import)
    if print_config:
        print(dump_config(config), end="")
        return
    if dry_run:
        cli_watch.print_prediction(config, check_convergence, not no_measure, card, as_json)
        return
    if as_json or no_measure or card:
        raise typer.BadParameter("--json, --no-measure and --card go with --dry-run")
    from pareto_unlearn.report import write_report
    from pareto_unlearn.sweep import SweepOptions, run_sweep

    options = SweepOptions(
        train_command=_train_command(file, override, allow_import),
        dashboard=dashboard,
        retry_failed=retry_failed,
        check_convergence=check_convergence,
        report=write_report,
        check_space=not ignore_space,
    )
    raise typer.Exit(run_sweep(config, options, open_console(stderr=True)))


@app.command(epilog=epilog("validate"))
def validate(
    file: SweepFile,
    override: Overrides = None,
    smoke: Smoke = False,
    allow_import: AllowImport = False,
    as_json: AsJson = False,
) -> None:
    """Check a sweep file, its data and its weights, and say what of them is not used; nothing runs."""
    from pareto_unlearn.sweep import check_sweep

    config = _read(file, override, smoke, allow_import)
    valid = check_sweep(config, _train_command(file, override, allow_import))
    if as_json:
        content = {"file": str(file), "name": config.name, "valid": True, "trials": valid.trials}
        sizes = {
            name: valid.files.to_plain()[name]
            for name in ("num_bytes", "needed_bytes", "free_bytes", "memory")
        }
        print_json(content | {"budget": valid.budget, "found": valid.found.as_dict(), **sizes})
        return
    from pareto_unlearn.sweep.dry_run import describe_files

    print(*valid.found.describe(), *describe_files(valid.files), sep="\n", file=sys.stderr)
    print(f"{file}: valid, {valid.trials} trials; {valid.budget}", file=sys.stderr)


@app.command(epilog=epilog("init"))
def init(
    kind: Annotated[
        str,
        typer.Argument(
            help="folder: your own pictures with the model that suits them; mae, mage, palette: a published "
            "model; digits: the embedded one.",
            show_default=False,
        ),
    ],
    path: Annotated[
        Path | None,
        typer.Argument(
            help="The folder of pictures: a folder per person or thing in it.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The sweep file to write; default: named after the folder."),
    ] = None,
    forget: Annotated[
        str | None,
        typer.Option(
            "--forget",
            help="Which folder to forget, or a file that names single pictures; default: the first.",
        ),
    ] = None,
) -> None:
    """Write a commented sweep file for what is found in a folder of pictures."""
    from pareto_unlearn.first_sweep import Kind, look_at, sweep_name, write_sweep
    from pareto_unlearn.whole_files import write_bytes_whole

    chosen = choose(Kind, kind, "KIND")
    if chosen is Kind.FOLDER and path is None:
        raise typer.BadParameter("init folder needs the PATH of a folder of pictures")
    if chosen is Kind.DIGITS and (path or forget):
        raise typer.BadParameter("init digits knows neither PATH nor --forget: its images are embedded")
    found = None if path is None else look_at(path)
    name = sweep_name(chosen, found)
    target = out or Path(f"{name}.yaml")
    if target.exists():
        raise typer.BadParameter(f"{target} is there already; remove it, or name another file with -o")
    text = write_sweep(chosen, name, found, forget)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_whole(target, text.encode())
    print(target)
    seen = "" if found is None else f"found {found.describe()}; "
    print(f"{seen}next: {command_line('validate', target)}", file=sys.stderr)


@app.command(epilog=epilog("report"))
def report(
    runs: RunPaths,
    out: Annotated[
        str | None,
        typer.Option("--out", help="File to write; default: report.html in the run, a table to stdout."),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="Write a paper's table instead of the report, several runs side by side: paper1 or paper2.",
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Format of the table: md, latex or csv.")] = "md",
    forget_images: Annotated[
        str | None,
        typer.Option(
            "--forget-images",
            help="Pictures of forget images in this report: shown, veiled (mosaics) or none; default: "
            "report.forget_images of the sweep file, or less if the run's page was written with less.",
        ),
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            "--pictures",
            metavar="NAME",
            help="A model whose pictures the page must hold, of a run with too many models for all; may be "
            "repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --table: print its numbers as JSON.")] = False,
    watch: cli_watch.WatchReport = False,
) -> None:
    """Write the HTML report of a run again, or a table in the form of the papers, from the store alone."""
    if watch and table is not None:
        raise typer.BadParameter("--watch goes with the report, not with --table")
    from pareto_unlearn.report import ForgetImages, Layout, TextFormat, make_table, table_values, write_report

    if as_json and (table is None or out is not None):
        raise typer.BadParameter("--json goes with --table and without --out")
    if as_json:
        print_json(table_values(runs, choose(Layout, str(table), "--table")))
    elif table is not None:
        _put(make_table(runs, choose(Layout, table, "--table"), choose(TextFormat, form, "--format")), out)
    elif len(runs) > 1:
        raise typer.BadParameter(f"expected one run without --table, found {len(runs)}")
    else:
        mode = None if forget_images is None else choose(ForgetImages, forget_images, "--forget-images")
        wanted = pictures or ()
        print(
            cli_watch.watch_report(runs[0], out, mode, pictures=wanted)
            if watch
            else write_report(runs[0], out, mode, pictures=wanted)
        )


@app.command(epilog=epilog("compare"))
def compare(
    runs: RunPaths,
    form: Annotated[str, typer.Option("--format", help="Output format: text, md or csv.")] = "text",
    split: Annotated[str, typer.Option("--split", help="Which images: train or heldout.")] = "train",
    out: Annotated[str | None, typer.Option("--out", help="File to write; default: stdout.")] = None,
    html: Annotated[
        str | None,
        typer.Option("--html", help="Write a page instead: the fronts in one chart, and where they differ."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: differences of their sweep files, hypervolumes in one box, loss and completeness."""
    from pareto_unlearn.report import (
        ComparisonFormat,
        Split,
        comparison_values,
        make_comparison,
        write_comparison_page,
    )

    chosen = choose(Split, split, "--split")
    if as_json and (html is not None or out is not None):
        raise typer.BadParameter("--json goes without --html and --out")
    if html is not None:
        print(write_comparison_page(runs, html))
    elif as_json:
        print_json(comparison_values(runs, chosen))
    else:
        _put(make_comparison(runs, choose(ComparisonFormat, form, "--format"), chosen), out)


app.command(name="ls", epilog=epilog("ls"))(cli_watch.list_trials)
app.command(epilog=epilog("status"))(cli_watch.status)
app.command(epilog=epilog("track"))(cli_watch.track)
app.add_typer(cli_watch.store_app)
app.command(epilog=epilog("pick"))(cli_finished.pick)
app.command(epilog=epilog("export"))(cli_finished.export)
app.command(epilog=epilog("verify"))(cli_finished.verify)
app.command(name="purge-forget", epilog=epilog("purge-forget"))(cli_finished.purge_forget)
app.command(name="eval", epilog=epilog("eval"))(cli_finished.evaluate)
app.command(epilog=epilog("audit"))(cli_finished.audit)


@app.command(epilog=epilog("doctor"))
def doctor(
    file: Annotated[Path | None, typer.Argument(help="The sweep file (YAML) that needs weights.")] = None,
    override: Overrides = None,
    weights: Weights = None,
    allow_import: AllowImport = False,
    as_json: AsJson = False,
) -> None:
    """Look at this machine and the weights on it: what to run first on a new one.

    Of a sweep that has begun it also reads every file of its run.

    Exit code 8 if a needed weights file is missing or any is wrong, 9 if the machine lacks something, 6 if
    the run is damaged.

    It also warns of a Ray cluster on another machine that is used without a token.
    """
    from pareto_unlearn.errors import MachineError, StoreError, WeightsError
    from pareto_unlearn.finished.doctor import examine, examine_run
    from pareto_unlearn.finished.machine import examine_machine

    config = None if file is None else _read(file, override, False, allow_import)
    if config is not None:
        _warn_of_cluster(config)
    machine = examine_machine("runs" if config is None else config.run.storage)
    stored = [] if config is None else examine_run(config)
    findings = [*machine, *stored, *examine(config, weights)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print("\n".join(_findings_in_words(findings)))
    troubled = {finding.kind for finding in findings if finding.is_trouble}
    codes = {"weights": WeightsError, "machine": MachineError, "run": StoreError}
    if first := next((kind for kind in codes if kind in troubled), None):
        raise typer.Exit(codes[first].exit_code)


def _findings_in_words(findings: "Sequence[Finding]") -> "Iterator[str]":
    for one in findings:
        if one.is_right or one.is_trouble:
            state = "ok     " if one.is_right else "wrong  " if one.is_there else "missing"
            use = one.kind if one.kind != "weights" else "needed" if one.is_needed else "unused"
            yield f"{state} {use} {one.name}: {one.detail}"
    if rest := [one.name for one in findings if not one.is_right and not one.is_trouble]:
        yield f"{len(rest)} files of published metrics are not here and not needed: {', '.join(rest)}"


def _warn_of_cluster(config: "SweepConfig") -> None:
    from pareto_unlearn.sweep.cluster import open_cluster

    address = open_cluster(config.run) if config.run.executor != "local" else None
    if address is not None:
        print(
            f"warning: the Ray cluster at {address} is used without a token: whoever reaches its ports can "
            "run any code there. Start it with RAY_AUTH_MODE=token, and give its token here in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token",
            file=sys.stderr,
        )


@app.command(epilog=epilog("schema"))
def schema() -> None:
    """Print the JSON Schema of sweep files, by which editors complete keys and explain them.

    Example: pareto-unlearn schema > sweep.schema.json, and as the first line of a sweep file beside it:
    # yaml-language-server: $schema=sweep.schema.json
    """
    from pareto_unlearn.config import make_json_schema

    print_json(make_json_schema())


@app.command(name="check-family", epilog=epilog("check-family"))
def check_family(
    name: Annotated[
        str, typer.Argument(help="A family, or my_model.py:FAMILY with --allow-import.", show_default=False)
    ],
    allow_import: AllowImport = False,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Its size; default: the one to try out, or the first.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Its weights; default: builtin ones, or random.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a family of models keeps its promises; exit code 1 where it does not."""
    from pareto_unlearn import conformance

    found = []
    for one in conformance.check_family(
        name, variant=variant, checkpoint=checkpoint, allow_import=allow_import
    ):
        found.append(one)
        if not as_json:
            print(f"{'pass' if one.passed else 'FAIL'}  {one.expected}: {one.found}")
    if as_json:
        print_json([asdict(one) for one in found])
    raise typer.Exit(0 if all(one.passed for one in found) else 1)


@app.command(epilog=epilog("train"))
def train(
    what: Annotated[
        str,
        typer.Argument(
            help="A sweep file, or the name of an embedded model: digits_mae or digits_classifier.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="The file to write; default with a sweep file: its model.checkpoint (or with "
            "--leave-out-forget its objective.reference), where no file may be yet.",
            show_default=False,
        ),
    ] = None,
    out_option: Annotated[Path | None, typer.Option("--out", help="The same as OUT.")] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Seed of initial weights and batches; default: the sweep's, or 0."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            help="Training steps; default: the usual number of the model, which published sizes lack.",
        ),
    ] = None,
    leave_out_forget: Annotated[
        bool, typer.Option("--leave-out-forget", help="Train a sweep's model on its retain images alone.")
    ] = False,
    override: Overrides = None,
    allow_import: AllowImport = False,
) -> None:
    """Train the model of a sweep, or an embedded model, from scratch; the same seed gives the same file.

    An interrupted training of a sweep's model is continued by the same command.
    """
    from pareto_unlearn.pretraining.runs import TRAINERS
    from pareto_unlearn.whole_files import write_bytes_whole

    target = out or out_option
    if what not in TRAINERS:
        if not Path(what).is_file():
            raise typer.BadParameter(f"expected a sweep file or one of {', '.join(TRAINERS)}, found {what!r}")
        config = _read(Path(what), override, False, allow_import)
        _train_of_sweep(config, target, leave_out_forget, steps, seed)
        return
    if target is None or override or leave_out_forget:
        raise typer.BadParameter(f"{what} needs OUT, and knows neither --leave-out-forget nor overrides")
    chosen = {} if steps is None else {"steps": steps}
    content = TRAINERS[what](seed=seed or 0, report=_print_loss, **chosen)
    write_bytes_whole(target, content)
    print(f"{target} sha256 {hashlib.sha256(content).hexdigest()}")


def _train_of_sweep(
    config: "SweepConfig",
    out: Path | None,
    leave_out_forget: bool,
    steps: int | None,
    seed: int | None,
) -> None:
    from pareto_unlearn.catalogue.families import require_steps

    require_steps(config.model.row, config.model.variant, steps)  # before torch is loaded
    from pareto_unlearn.pretraining.runs import default_file, train_sweep_model

    target = out or default_file(config, leave_out_forget=leave_out_forget)
    digest = train_sweep_model(
        config, target, leave_out_forget=leave_out_forget, steps=steps, seed=seed, report=_print_loss
    )
    print(f"{target} sha256 {digest}")


def _train_command(file: Path, override: list[str] | None, allow_import: bool) -> str:
    """Return the command that trains the model of a sweep with the same overrides, to be copied."""
    overrides = [part for one in override or [] for part in ("-o", one)]
    return command_line("train", file, *overrides, allow_import=allow_import)


def _print_loss(step: int, loss: float) -> None:
    print(f"step {step}: loss {loss:.5f}", file=sys.stderr)


def _read(file: Path, override: list[str] | None, smoke: bool, allow_import: bool) -> "SweepConfig":
    from pareto_unlearn.config import as_smoke, load_config

    config = load_config(file, override or [], allow_import=allow_import)
    return as_smoke(config) if smoke else config


def _put(text: str, out: str | None) -> None:
    """Print a table, or write it to ``out`` and print that path."""
    if out is None:
        print(text, end="")
        return
    from pareto_unlearn.report import write_out

    write_out(out, text)
    print(out)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)
    ] = False,
) -> None:
    """Unlearn images from an image-to-image model: a menu of models with proof, from one sweep file."""
    if version:
        print(__version__)
        raise typer.Exit(0)


def main() -> None:
    """Run the command line; an error that a user can fix ends with its exit code, without a traceback."""
    with plain_streams():
        _run()


def _run() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        require_address_space()
        app()
    except ParetoUnlearnError as error:
        print(f"pareto-unlearn: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, MemoryError, ImportError, RuntimeError) as error:
        explained = explain_machine(error)
        if explained is None:
            raise
        print(f"pareto-unlearn: {explained}", file=sys.stderr)
        sys.exit(explained.exit_code)
    except KeyboardInterrupt:
        print("pareto-unlearn: interrupted; start the same command again to continue", file=sys.stderr)
        sys.exit(130)
