"""Writes the versions that the tests ran with into pyproject.toml, between BEGIN TESTED and END TESTED.

    uv run python .ci/make_pins.py              after a change of a dependency: every other pin stays
    uv run python .ci/make_pins.py --upgrade    newest versions of everything; run the tests before committing

It resolves in an empty folder, so that no lock file and no environment has an influence, and it writes names,
versions and markers only: no hash, no address of a registry.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
BEGIN, END = "constraint-dependencies = [\n", "]\n# END TESTED"
EXPORT = (
    *("uv", "export", "--quiet", "--all-groups", "--all-extras"),
    *("--no-hashes", "--no-header", "--no-annotate", "--no-emit-project"),
)

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;@]+)(?: ; (?P<marker>.+))?")


def pins_of(export: str) -> list[str]:
    """Return the sorted pins of an export; a marker stays only where a package has several versions.

    Raises:
        ValueError: a line is something else than a package and its version.
    """
    lines = [line for line in export.splitlines() if line.strip()]
    found = [_LINE.fullmatch(line) for line in lines]
    for line, match in zip(lines, found, strict=True):
        if match is None:
            raise ValueError(f"expected NAME==VERSION or NAME==VERSION ; MARKER, found {line!r}")
    matches = [match for match in found if match is not None]
    versions = Counter(match["name"] for match in matches)
    matches.sort(key=lambda match: (match["name"], match["version"]))
    return [_pin(match, is_only=versions[match["name"]] == 1) for match in matches]


def with_pins(project: str, pins: list[str]) -> str:
    """Return the text of pyproject.toml with these pins in place of its own.

    Raises:
        ValueError: the text has no place for pins.
    """
    start, end = project.find(BEGIN), project.find(END)
    if start < 0 or end < start:
        raise ValueError(
            f"expected {BEGIN.strip()!r} and, below it, {END!r} in pyproject.toml; put them back"
        )
    lines = "".join(f'    "{pin}",\n' for pin in pins)
    return project[: start + len(BEGIN)] + lines + project[end:]


def resolve(project: str) -> str:
    """Return what uv exports for a pyproject.toml, resolved in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / PROJECT.name).write_text(project)
        done = subprocess.run(EXPORT, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def _pin(match: re.Match[str], *, is_only: bool) -> str:
    pin = f"{match['name']}=={match['version']}"
    return pin if is_only or match["marker"] is None else f"{pin}; {match['marker']}"


def main(arguments: list[str]) -> None:
    """Write the pins that the arguments ask for."""
    parser = argparse.ArgumentParser(description="Pin the versions that the tests run with.")
    parser.add_argument("--upgrade", action="store_true", help="drop the present pins first")
    project = PROJECT.read_text()
    start = with_pins(project, []) if parser.parse_args(arguments).upgrade else project
    PROJECT.write_text(with_pins(project, pins_of(resolve(start))))


if __name__ == "__main__":
    main(sys.argv[1:])
