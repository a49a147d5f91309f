"""Runs the sweep files of the papers' tables and of the ablations, and puts their results on a page.

    uv run python benchmarks/ablations.py docs/ablations.md [--folder FOLDER] [--only NAME ...]

The runs go to FOLDER (default: the working directory); a run that is complete there is not solved again.
Without ``--only`` all files of sweeps/ablations and sweeps/paper_tables.yaml are run: about forty sweeps of a
minute each.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from page_section import replace_section

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "sweeps" / "paper_tables.yaml", *sorted((ROOT / "sweeps" / "ablations").glob("*.yaml"))]
READS = ("pareto-unlearn compare ", "pareto-unlearn report ")
TITLE = (
    "# The papers' tables and ablations on the digits\n\nWhat `uv run python benchmarks/ablations.py "
    "docs/ablations.md` measured on two CPU cores, each run as its file has it.\n"
)


class Header(NamedTuple):
    """The parts of a sweep file's head comment: its reason, the commands that solve and those that read."""

    prose: str
    solve: str
    read: tuple[str, ...]


def main() -> None:
    """Run every selected file and write its section."""
    options = _parse()
    if not options.page.is_file():
        options.page.write_text(TITLE)
    for file in FILES:
        if not options.only or file.stem in options.only:
            replace_section(options.page, file.stem, _measure(file, options.folder))


def read_header(text: str) -> Header:
    """Return the parts of a header; its commands are the indented lines."""
    lines = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    prose = " ".join(line[2:] for line in lines if re.match(r"# \S", line))
    commands = [line[4:] for line in lines if line.startswith("#   ")]
    read = tuple(line for line in commands if line.startswith(READS))
    return Header(prose, "\n".join(line for line in commands if line not in read), read)


def _measure(file: Path, folder: Path) -> str:
    header = read_header(file.read_text())
    print(f"{file.stem}: {len(header.solve.splitlines())} lines of commands", file=sys.stderr)
    _shell(header.solve, folder)
    tables = "\n".join(_shell(f"{command} --format md", folder) for command in header.read)
    prose = header.prose.rstrip(":")
    return f"## {file.stem}\n\n{prose}.\n\n{tables.strip()}".replace("..\n", ".\n")


def _shell(commands: str, folder: Path) -> str:
    """Run shell commands of a header and return what they print, stopping at the first that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "sweeps"
    if link.is_symlink():
        link.unlink()
    if not link.exists():
        link.symlink_to(ROOT / "sweeps")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    shell = ["bash", "-euc", commands]
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        shell, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    return done.stdout


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("page", type=Path, help="page to write, such as docs/ablations.md")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the runs go")
    parser.add_argument("--only", nargs="+", choices=[file.stem for file in FILES], help="names of files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
