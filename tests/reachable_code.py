"""Finds the definitions of the package that nothing but tests can reach, by reading its source.

A definition is a function, class or constant of a module, or a method of a class. It is reachable if the code
that a user can start names it (the commands, ``pareto_unlearn.__all__``, the scripts beside the package), or
if a reachable definition does. Names are followed through imports; methods are matched by their name alone.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "pareto_unlearn"
SCRIPTS = ("benchmarks", "examples")

LOOKED_UP = "FAMILY"
"""The name that the package looks up in modules which it imports by their path."""

CALLED_BY_LIBRARIES = {
    "forward",  # torch
    "default_resource_request",  # Ray, like the next eight
    "on_trial_complete",
    "on_trial_error",
    "on_trial_result",
    "on_trial_start",
    "reset_config",
    "setup",
    "stop_all",
    "suggest",
    "compose_node",  # PyYAML
    "ignore_aliases",
    "_repr_html_",  # notebooks
}

Key = tuple[str, str]
"""A module and a name in it; the name of a method is ``Class.method``."""


@dataclass
class Uses:
    """What a piece of code names: definitions of modules, and attributes of anything."""

    names: set[Key] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)


@dataclass
class Source:
    """A parsed module, and where the names that it imports come from."""

    module: str
    statements: list[ast.stmt]
    imported: dict[str, Key]


class Code:
    """All definitions below a folder that holds the package, and what each of them names."""

    def __init__(self, folder: Path) -> None:
        self.definitions: dict[Key, Uses] = {}
        self.started = Uses()
        self.sources = {one.module: one for one in read_sources(folder, PACKAGE)}
        for source in self.sources.values():
            for statement in source.statements:
                self._add(source, statement)
        for script in (one for name in SCRIPTS for one in read_sources(folder, name)):
            collect(script, script.statements, self.started)
        public = self.sources[PACKAGE].imported
        self.started.names |= {key for name, key in public.items() if not name.startswith("_")}

    def unreachable(self, allowed: Iterable[str] = ()) -> set[str]:
        """Return what nothing reachable names, as ``module.name`` without the package.

        What is allowed counts as started.
        """
        wanted = set(allowed)
        reached = {key for key in self.definitions if in_words(key) in wanted}
        uses, waiting = self.started, reached | self._named(self.started)
        while waiting:
            reached |= waiting
            uses = Uses(
                uses.names.union(*(self.definitions[key].names for key in waiting)),
                uses.attributes.union(*(self.definitions[key].attributes for key in waiting)),
            )
            waiting = (self._named(uses) | self._methods(reached, uses.attributes)) - reached
        # Methods of a class that is not reachable go without saying.
        return {in_words(key) for key in self.definitions.keys() - reached if owner(key) in {None, *reached}}

    def _named(self, uses: Uses) -> set[Key]:
        return {self._origin(key) for key in uses.names} & self.definitions.keys()

    def _origin(self, key: Key) -> Key:
        """Follow a name through the modules that pass it on, to the one that defines it."""
        passed = set()
        # A package that imports a module of its own would lead back to itself for ever.
        while key not in self.definitions and key[0] in self.sources and key not in passed:
            passed.add(key)
            key = self.sources[key[0]].imported.get(key[1], key)
        return key

    def _methods(self, reached: set[Key], attributes: set[str]) -> set[Key]:
        called = attributes | CALLED_BY_LIBRARIES
        methods = {key: key[1].rpartition(".")[2] for key in self.definitions if owner(key) in reached}
        return {key for key, name in methods.items() if name in called or name.startswith("__")}

    def _add(self, source: Source, statement: ast.stmt) -> None:
        """Enter what a statement defines; what runs while the module is imported counts as started."""
        match statement:
            case ast.FunctionDef(name=name):
                self._define(source, name, [statement], statement.decorator_list)
            case ast.ClassDef(name=name, body=body):
                methods = [node for node in body if isinstance(node, ast.FunctionDef)]
                others = [node for node in body if node not in methods]
                self._define(source, name, [*others, *statement.bases, *statement.decorator_list])
                for method in methods:
                    self._define(source, f"{name}.{method.name}", [method], method.decorator_list)
            case ast.Assign() | ast.AnnAssign():
                for name in assigned_names(statement):
                    self._define(source, name, [statement])
            case ast.Import() | ast.ImportFrom():
                pass
            case _:
                collect(source, [statement], self.started)

    def _define(
        self, source: Source, name: str, nodes: Iterable[ast.AST], decorators: Iterable[ast.expr] = ()
    ) -> None:
        key = source.module, name
        collect(source, nodes, self.definitions.setdefault(key, Uses()))
        # A decorator with arguments registers what it decorates: commands, validators.
        is_registered = any(isinstance(each, ast.Call) for each in decorators)
        if is_registered or name.startswith("__") or name == LOOKED_UP:
            self.started.names.add(key)


def read_sources(folder: Path, name: str) -> list[Source]:
    """Return the parsed modules of a folder."""
    return [_read(path, path.relative_to(folder)) for path in sorted((folder / name).rglob("*.py"))]


def _read(path: Path, place: Path) -> Source:
    tree, imported = ast.parse(path.read_text()), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    parts = place.with_suffix("").parts
    return Source(".".join(parts[:-1] if parts[-1] == "__init__" else parts), tree.body, imported)


def assigned_names(statement: ast.Assign | ast.AnnAssign) -> set[str]:
    """Return the names that an assignment of a module defines, but for ``__all__`` and the like."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return {name for name in names if not name.startswith("__")}


def collect(source: Source, nodes: Iterable[ast.AST], uses: Uses) -> None:
    """Add what nodes name, in strings too: annotations, ``getattr``, and what Ray is told by name."""
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        match node:
            case ast.Name(id=name):
                uses.names.add(source.imported.get(name, (source.module, name)))
            case ast.Constant(value=str(name)):
                uses.names.add(source.imported.get(name, (source.module, name)))
                uses.attributes.add(name)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                uses.attributes.add(attribute)
                uses.names.add((".".join(source.imported.get(name, ("", ""))), attribute))
            case ast.Attribute(attr=attribute):
                uses.attributes.add(attribute)
            case _:
                pass


def owner(key: Key) -> Key | None:
    """Return the class of a method."""
    module, (cls, dot, _) = key[0], key[1].partition(".")
    return (module, cls) if dot else None


def in_words(key: Key) -> str:
    """Return a definition as it is listed."""
    return ".".join(key).removeprefix(f"{PACKAGE}.")
