"""The arguments and options that several verbs of the command line share, and how their values are read."""

import json
import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

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
TrialName = Annotated[
    str | None,
    typer.Option(
        "--trial",
        metavar="NAME",
        help="A trial: its label or role as `ls` shows it (highest, 'epsilon 14.6%'), its id, or the first "
        "digits of it.",
    ),
]
TrialSeed = Annotated[
    int | None, typer.Option("--seed", help="Which seed's trial --trial means, if the run has several.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: object, *, on_one_line: bool = False) -> None:
    """Print a value as JSON that every reader takes; a number that is not finite becomes null.

    Args:
        value: of dicts, lists, tuples, texts and numbers, as ``dataclasses.asdict`` returns them.
        on_one_line: for a stream of values.
    """
    indent = None if on_one_line else 1
    print(json.dumps(_finite(value), indent=indent, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
