"""The arguments and options that several verbs of the command line share, and how their values are read."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import TrialRecord

Choice = TypeVar("Choice", bound=StrEnum)

SweepFile = Annotated[Path, typer.Argument(help="The sweep file (YAML).", show_default=False)]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke",
        help="Try the sweep out: the same code at tiny widths, with random weights and generated images.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-o", "--override", metavar="KEY=VALUE", help="Set a key of the sweep file, e.g. -o solver.steps=800."
    ),
]
RunPath = Annotated[str, typer.Argument(help="The run directory, e.g. runs/quickstart.", show_default=False)]
RunPaths = Annotated[
    list[str], typer.Argument(help="Run directories, e.g. runs/quickstart.", show_default=False)
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="FOLDER",
        help="Folder of the metrics' network weights; default: evaluate.weights, or PARETO_UNLEARN_WEIGHTS.",
    ),
]
AllowImport = Annotated[
    bool,
    typer.Option(
        "--allow-import",
        help="Run the code of the file that model.family names, as in my_model.py:FAMILY.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def choose(kind: type[Choice], value: str, option: str) -> Choice:
    """Return the member of ``kind`` that the value of an option names.

    Raises:
        typer.BadParameter: no member has that name.
    """
    if value not in list(kind):
        raise typer.BadParameter(f"{option}: expected one of {', '.join(kind)}, found {value!r}")
    return kind(value)


def parse_digests(values: Sequence[str]) -> dict[str, str]:
    """Return SHA-256 digests by file name, from the NAME=HEX values of ``--weights-sha256``.

    Raises:
        typer.BadParameter: a value has no ``=``.
    """
    pairs = [value.partition("=") for value in values]
    for value, (_, sign, _) in zip(values, pairs, strict=True):
        if not sign:
            raise typer.BadParameter(f"--weights-sha256: expected NAME=HEX, found {value!r}")
    return {name: digest for name, _, digest in pairs}


def find_record(records: Mapping[str, TrialRecord], trial: str) -> TrialRecord:
    """Return the record of the trial whose id starts with ``trial``.

    Raises:
        ConfigError: no trial or several trials have such an id, or the trial left no model.
    """
    found = [record for trial_id, record in records.items() if trial_id.startswith(trial)]
    if len(found) != 1:
        some = ", ".join(f"{record.trial_id} ({record.label})" for record in list(records.values())[:5])
        raise ConfigError(
            f"expected the id of one trial, found {len(found)} that start with {trial!r}; "
            f"this run has {some}, ..."
        )
    record = found[0]
    if record.checkpoint is None:
        raise ConfigError(
            f"trial {record.trial_id} ({record.label}) has no model: {record.state}, {record.reason}"
        )
    return record
