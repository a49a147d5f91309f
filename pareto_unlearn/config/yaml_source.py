"""Reads YAML text as plain values and the place of every key; does not know what a sweep is.

It reads a smaller language than PyYAML, because each feature left out has spoiled somebody's result: PyYAML
alone reads ``1e-4`` as text, ``no`` as false, ``0123`` as 83 and ``1:30`` as 90, and keeps the last of two
equal keys. Anchors, aliases and tags are refused, because a few lines of aliases can name billions of values.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pareto_unlearn.config.wording import KeyPath, dotted, found, quoted
from pareto_unlearn.errors import ConfigError

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

LARGEST_FILE_BYTES = 1_000_000
_DEEPEST = 20
_MOST_VALUES = 50_000
_LARGEST_INT = 2**63
_OVERRIDE_ORDER = 10**9

_TAG = "tag:yaml.org,2002:"
_REFUSED = "refused"
_RESOLVERS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """The place where a value is written; ``order`` sorts the lines of the file before the overrides."""

    order: int
    text: str

    @property
    def is_override(self) -> bool:
        """Whether the value comes from the command line."""
        return self.order >= _OVERRIDE_ORDER


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A problem of the sweep file and its place."""

    place: Place
    path: KeyPath
    text: str

    def __str__(self) -> str:
        return (
            f"{self.place.text}: {dotted(self.path)}: {self.text}"
            if self.path
            else f"{self.place.text}: {self.text}"
        )


def join_problems(problems: Iterable[FileProblem]) -> ConfigError:
    """Return one error with the texts of all problems, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: problem.place)
    return ConfigError("\n".join(str(problem) for problem in ordered))


@dataclass(slots=True)
class Document:
    """The values of a sweep file, to which overrides are applied.

    ``refused`` holds the paths of values that could not be read. ``data`` has None there, and checks of
    ``data`` skip these paths, since ``problems`` has an entry for them already.
    """

    data: dict[str, Value]
    places: dict[KeyPath, Place]
    problems: list[FileProblem] = field(default_factory=list)
    refused: set[KeyPath] = field(default_factory=set)

    def place_of(self, path: KeyPath) -> Place:
        """Return the place of the value, or of the nearest section around it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def is_refused(self, path: KeyPath) -> bool:
        """Return whether the value, or a section around it, could not be read."""
        return any(path[:length] in self.refused for length in range(len(path) + 1))


class _Loader(yaml.SafeLoader):
    """Composes nodes; anchors, aliases and tags become nodes whose tag is ``_REFUSED``."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)
    depth = 0
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            return _refused_node(event, f"alias *{event.anchor}", "write the value out here")
        trouble = None
        if event.anchor is not None:
            trouble = _refused_node(
                event, f"anchor &{event.anchor}", "write the value out where it is needed"
            )
        if getattr(event, "tag", None) is not None:
            trouble = _refused_node(
                event, f"tag {event.tag}", "remove it; values are told apart by how they look"
            )
        event.anchor = event.tag = None
        self.depth += 1
        self.count += 1
        if self.depth > _DEEPEST or self.count > _MOST_VALUES:
            message = f"more than {_DEEPEST} levels deep, or more than {_MOST_VALUES:,} values"
            raise yaml.composer.ComposerError(None, None, message, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return trouble or node


class _Dumper(yaml.SafeDumper):
    """Quotes text by the rules of ``_Loader``, so that written values are read back equal."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _write_list(dumper: _Dumper, items: list[object]) -> yaml.Node:
    on_one_line = not any(isinstance(item, list | dict) for item in items)
    return dumper.represent_sequence(f"{_TAG}seq", items, flow_style=on_one_line)


_Dumper.add_representer(list, _write_list)
for _name, _pattern in _RESOLVERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), None)


def _refused_node(event: Any, what: str, advice: str) -> yaml.Node:
    text = f"YAML {quoted(what)} is not supported: {advice}"
    return yaml.ScalarNode(_REFUSED, text, event.start_mark, event.end_mark)


def looks_like_number(text: str) -> bool:
    """Return whether the text would be a number without quotes."""
    return re.fullmatch(f"{_RESOLVERS['int']}|{_RESOLVERS['float']}", text) is not None


def to_yaml(data: object) -> str:
    """Return plain values as YAML, in the order given; ``read_document`` reads them back equal."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def read_text(path: Path) -> str:
    """Return the text of a sweep file.

    Raises:
        ConfigError: the file is missing, a directory, unreadable, larger than 1 MB, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: expected a sweep file (YAML), found no such file; check the path"
        ) from error
    except IsADirectoryError as error:
        raise ConfigError(
            f"{path}: expected a sweep file (YAML), found a directory; name a file in it"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{quoted(str(path), 200)}: expected a readable sweep file: {error}") from error
    if len(content) > LARGEST_FILE_BYTES:
        raise ConfigError(
            f"{path}: expected a sweep file of at most 1 MB, found more; is this the right file?"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: expected UTF-8 text, found the byte 0x{content[error.start]:02x}; save the file "
            "as UTF-8"
        ) from error


def read_document(text: str, name: str) -> Document:
    """Return the values of a YAML text whose top level is a mapping, and the problems of single values.

    Args:
        text: the YAML text.
        name: the name of the text in errors, usually its path.

    Raises:
        ConfigError: the text is not YAML, or its top level is not a mapping.
    """
    try:
        node = _compose(text)
    except _SyntaxError as error:
        raise ConfigError(f"{name}:{error.line}: {error}") from error
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null"):
        raise ConfigError(
            f"{name}: expected a mapping with `name:`, `model:` and `data:`, found an empty file"
        )

    def place(line: int) -> Place:
        return Place(line, f"{name}:{line}")

    document = Document({}, {(): place(_line(node))})
    value = _plain(node, (), document, place)
    if document.is_refused(()):
        raise ConfigError(str(document.problems[0]))
    if not isinstance(value, dict):
        raise ConfigError(
            f"{name}:{_line(node)}: expected a mapping of keys at the top level, found {found(value)}"
        )
    document.data = value
    return document


def apply_override(document: Document, text: str, number: int) -> None:
    """Apply one override ``key.path=value`` to the document; if it is wrong, add to ``problems``.

    Missing sections along the path are created. A list is replaced as a whole, never by item.
    """
    place = Place(_OVERRIDE_ORDER + number, f"-o {quoted(text, 200)}")
    key, equals, value_text = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        document.problems.append(FileProblem(place, (), "expected key.path=value, such as solver.steps=50"))
        return
    try:
        node = _compose(value_text)
    except _SyntaxError as error:
        document.problems.append(FileProblem(place, parts, str(error)))
        return
    section = _section_for(document, parts, place)
    if section is None:
        return
    for path in [path for path in document.places if path[: len(parts)] == parts]:
        del document.places[path]
    document.places[parts] = place
    section[parts[-1]] = None if node is None else _plain(node, parts, document, lambda _line: place)


def _section_for(document: Document, parts: tuple[str, ...], place: Place) -> dict[str, Value] | None:
    """Return the mapping that holds the last of ``parts``; None, with a new problem, if there is none."""
    section = document.data
    for length, part in enumerate(parts[:-1], start=1):
        inner = section.get(part)
        if inner is None:
            inner = section[part] = {}
            document.places[parts[:length]] = place
        if not isinstance(inner, dict):
            text = f"expected a section, found {found(inner)}; override `{dotted(parts[:length])}` as a whole"
            document.problems.append(FileProblem(place, parts[:length], text))
            return None
        section = inner
    return section


class _SyntaxError(Exception):
    """Text that is not YAML, with the line where reading stopped."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _SyntaxError(
            f"expected text, found the control character {error.character:#04x}", line
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise _SyntaxError(_explained(error), line) from error


def _explained(error: yaml.MarkedYAMLError) -> str:
    text = f"not valid YAML: {error.problem or error.context}"
    if error.problem and error.context:
        start = "" if error.context_mark is None else f" that starts on line {error.context_mark.line + 1}"
        text = f"not valid YAML: {error.context}{start}, {error.problem}"
    if "'\\t'" in text:
        text += "; indent with spaces, not tabs"
    if "mapping values are not allowed" in text:
        text += "; put text that holds `: ` in quotes, and check the indentation"
    return quoted(text, 300)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _plain(node: yaml.Node, path: KeyPath, document: Document, place: Callable[[int], Place]) -> Value:
    """Return a node as plain values; add the place of each value, and its problems, to the document."""
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document, place)
    if isinstance(node, yaml.SequenceNode):
        items: list[Value] = []
        for index, item in enumerate(node.value):
            document.places[(*path, index)] = place(_line(item))
            items.append(_plain(item, (*path, index), document, place))
        return items
    if node.tag == _REFUSED:
        _refuse(document, place(_line(node)), path, node.value)
        return None
    try:
        return _scalar(node)
    except OverflowError as error:
        _refuse(document, place(_line(node)), path, str(error))
        return None


def _refuse(document: Document, place: Place, path: KeyPath, text: str) -> None:
    document.problems.append(FileProblem(place, path, text))
    document.refused.add(path)


def _mapping(
    node: yaml.MappingNode, path: KeyPath, document: Document, place: Callable[[int], Place]
) -> dict[str, Value]:
    result: dict[str, Value] = {}
    first_line: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _REFUSED:
            text = (
                "expected a plain word as key, found something else; put text with braces or brackets in "
                "quotes"
            )
            document.problems.append(FileProblem(place(line), path, text))
            if path:  # refusing the empty path would end the check of all other sections
                document.refused.add(path)
            continue
        key = key_node.value
        if key in first_line:
            first = "" if place(line).is_override else f", first on line {first_line[key]}"
            document.problems.append(
                FileProblem(place(line), (*path, key), f"key given twice{first}; keep one of them")
            )
            continue
        first_line[key] = line
        document.places[(*path, key)] = place(line)
        result[key] = _plain(value_node, (*path, key), document, place)
    return result


def _scalar(node: yaml.Node) -> Value:
    """Return the value of a scalar.

    Raises:
        OverflowError: an integer does not fit 64 bits.
    """
    text = str(node.value)
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        if len(text) > len(str(_LARGEST_INT)) + 1 or not -_LARGEST_INT <= int(text) < _LARGEST_INT:
            raise OverflowError(f"expected an integer that fits 64 bits, found `{quoted(text)}`")
        return int(text)
    if kind == "float":
        # Adding zero turns -0.0 into 0.0: equal values must have equal hashes.
        return float(re.sub(r"^([-+]?)\.(?=[a-zA-Z])", r"\1", text)) + 0.0
    return text
