"""Finds the row of a family by its name: of this package, of an installed package, or of a single file.

An installed package names its row as an entry point of the group ``pareto_unlearn.families``; the module that
its ``adapter`` names is imported only when a model is built. A file is code that is run, so it is read only
where the caller allows that; what was read stays known to the process.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from pareto_unlearn.catalogue.families import FAMILIES, FamilyRow
from pareto_unlearn.errors import ConfigError

__all__ = ["GROUP", "absolute_name", "family_names", "find_family", "is_family_file", "load_adapter"]

GROUP = "pareto_unlearn.families"

_FILE = re.compile(r"(.+\.py):([A-Za-z_]\w*)", re.DOTALL)
_BUILT_IN: Mapping[str, FamilyRow] = {row.name: row for row in FAMILIES}
_of_files: dict[str, FamilyRow] = {}


def family_names() -> list[str]:
    """Return the families of this package, then those of installed packages."""
    return [*_BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - _BUILT_IN.keys())]


def is_family_file(name: str) -> bool:
    """Tell whether a name means a single file, as in ``my_model.py:FAMILY``."""
    return _FILE.fullmatch(name) is not None


def absolute_name(name: str) -> str:
    """Return the name with the absolute path of its file; other names as they are."""
    return ":".join(_split(name)) if is_family_file(name) else name


def find_family(name: str, *, allow_import: bool = False) -> FamilyRow:
    """Return the row of a family.

    Args:
        name: of this package or of an entry point, or ``FILE.py:NAME``; a relative path starts at the working
            directory.
        allow_import: run the code of the file that ``name`` means.

    Raises:
        ConfigError: there is no such family, it is no family, or its file may not be run.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if not is_family_file(name):
        return _of_entry_point(name)
    if allow_import:
        _of_files[absolute_name(name)] = _read_file(name)
    known = _of_files.get(absolute_name(name))
    if known is None:
        raise ConfigError(
            f"expected --allow-import beside a family of a file, found `{name}` without it: the code of that "
            "file is run with your rights, so read it first"
        )
    return known


def load_adapter(row: FamilyRow) -> object:
    """Import the module of a family and return what it defines."""
    module, _, attribute = row.adapter.partition(":")
    return getattr(importlib.import_module(module), attribute or "FAMILY")


def _split(name: str) -> tuple[str, str]:
    path, _, attribute = name.rpartition(":")
    return str(Path(path).absolute()), attribute


@cache
def _of_entry_point(name: str) -> FamilyRow:
    points = entry_points(group=GROUP, name=name)
    if len(points) != 1:
        raise ConfigError(f"expected one installed family called {name}, found {len(points)}")
    point: EntryPoint = next(iter(points))
    try:
        row = point.load()
    except Exception as error:  # whatever the code of another package raises
        raise ConfigError(
            f"{name}: loading `{point.value}` raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(row, FamilyRow) or row.name != name or not row.adapter:
        raise ConfigError(
            f"{name}: expected `{point.value}` to be a FamilyRow of that name with an adapter, "
            f"found {row!r:.99}"
        )
    return row


def _read_file(name: str) -> FamilyRow:
    """Run a file, unless the same content was run before, and return the row of its family."""
    path, attribute = _split(name)
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"expected the file of a family, found none that can be read: {error}") from error
    digest = sha256(source).hexdigest()
    known = _of_files.get(f"{path}:{attribute}")
    if known is not None and known.source_sha256 == digest:
        return known
    module = _run(path, source, digest)
    row = getattr(getattr(module, attribute, None), "row", None)
    if not isinstance(row, FamilyRow):
        raise ConfigError(
            f"{path}: expected `{attribute}` to be a Family with a row, found "
            f"{getattr(module, attribute, 'nothing of that name')!r:.200}"
        )
    return replace(row, adapter=f"{module.__name__}:{attribute}", source_sha256=digest)


def _run(path: str, source: bytes, digest: str) -> ModuleType:
    """Return the module of exactly these bytes, under a name that other code can import."""
    spec = importlib.util.spec_from_file_location(f"pareto_unlearn_family_{digest[:16]}", path)
    if spec is None:
        raise ConfigError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except ModuleNotFoundError as error:
        del sys.modules[module.__name__]
        raise ConfigError(
            f"{path}: it imports {error.name}, which is not found; only installed packages and the folders "
            "of PYTHONPATH are looked through, not that of the file. Install it in this environment, "
            f"or set PYTHONPATH={Path(path).parent} if {error.name} lies beside the file"
        ) from error
    except Exception as error:  # whatever the code of a user raises
        del sys.modules[module.__name__]
        raise ConfigError(f"{path}: running it raised {type(error).__name__}: {error}") from error
    return module
