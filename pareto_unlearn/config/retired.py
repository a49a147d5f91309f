"""Keys of former releases: a new sweep file is told what to do, and a run that has them stays readable."""

from typing import Any

from pareto_unlearn.config.wording import KeyPath
from pareto_unlearn.config.yaml_source import Document, FileProblem

RETIRED: dict[KeyPath, str] = {
    ("solver", "branch"): "every epsilon is mixed from the path's checkpoints, and solver.hold trains it on",
    ("solver", "path", "warm_up"): "the path's step size has a course of its own",
    ("solver", "path", "hold"): "path.descent and path.stay divide the path",
}
"""By path, what took the place of the key."""


def refuse_retired(document: Document) -> None:
    """Turn the document's keys of former releases into problems that say what took their place."""
    for path, successor in RETIRED.items():
        if _take(document.data, path):
            text = f"no longer a key: {successor}; remove it"
            document.problems.append(FileProblem(document.place_of(path), path, text))


def drop_retired(document: Document) -> None:
    """Leave out the document's keys of former releases: it describes a run that was made with them."""
    for path in RETIRED:
        _take(document.data, path)


def _take(data: Any, path: KeyPath) -> bool:
    """Remove a key; return whether it was there."""
    for key in path[:-1]:
        data = data.get(key) if isinstance(data, dict) else None
    if not isinstance(data, dict) or path[-1] not in data:
        return False
    del data[path[-1]]
    return True
