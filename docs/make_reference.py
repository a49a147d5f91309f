"""Writes the two reference pages: the keys of sweep files from their schema, the verbs from the command line.

uv run python docs/make_reference.py

``tests/test_readme.py`` fails where a page is out of date.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main

from pareto_unlearn.cli import app
from pareto_unlearn.config import make_json_schema

FOLDER = Path(__file__).parent
REMAKE = (
    "Written by `uv run python docs/make_reference.py`; change the descriptions in the code, not this page.\n"
)

Schema = Mapping[str, Any]


def reference_of_keys() -> str:
    """Return the page of all keys of a sweep file."""
    schema = make_json_schema()
    parts = [
        "# Reference: keys of a sweep file\n",
        REMAKE,
        "A key is written as `solver.path.steps` here and after `-o`; in the file it stands in its sections. "
        "Only `name`, `model.family`, `model.checkpoint`, `data.dataset` and the images to forget must be "
        "given. Where a meaning says what `null` stands for, the key may be left out. `pareto-unlearn sweep "
        "FILE --print-config` shows what every key of a file comes to.\n",
    ]
    parts += _section("", schema, schema["$defs"])
    return "\n".join(parts)


def _section(path: str, section: Schema, known: Mapping[str, Schema]) -> Iterator[str]:
    """Yield the heading and table of a section, then those of the sections in it."""
    title = f"`{path}`" if path else "The top of the file"
    yield f"## {title}\n"
    yield f"{_sentence(section.get('description', ''))}\n"
    inner: list[tuple[str, str]] = []
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, value in section["properties"].items():
        key = f"{path}.{name}" if path else name
        inner += [(f"{key}{mark}", target) for mark, target in _targets(value, known)]
        meaning = value.get("description") or known[_target(value)].get("description", "")
        rows.append(f"| `{name}` | {_kind(value)} | {_default(value, key, section)} | {_cell(meaning)} |")
    yield "\n".join(rows) + "\n"
    for key, target in inner:
        yield from _section(key, known[target], known)


def _target(value: Schema) -> str:
    return str(value.get("$ref", "")).rpartition("/")[2]


def _targets(value: Schema, known: Mapping[str, Schema]) -> list[tuple[str, str]]:
    """Return the sections that a key may hold, with what tells them apart."""
    schedules = [_target(one) for one in value.get("oneOf", [])]
    if schedules:
        return [
            (f" ({known[one]['properties']['schedule']['const']})", one) for one in schedules if one in known
        ]
    options = [value, *value.get("anyOf", []), value.get("items", {})]
    options += [one for option in options for one in option.get("items", option).get("anyOf", [])]
    return list({("", _target(one)): None for one in options if _target(one)})


def _kind(value: Schema) -> str:
    """Return in words what a key takes; sections are named by the heading below."""
    if _target(value):
        return "section"
    if "oneOf" in value:
        return "section, by `schedule`"
    options = [one for one in value.get("anyOf", []) if one != {"type": "null"}]
    if any(_target(one) for one in options) and any("enum" in one or "const" in one for one in options):
        return "name or section"
    if options and "type" not in value:
        return " or ".join(dict.fromkeys(_kind(one) for one in options))
    return _plain_kind(value)


def _plain_kind(value: Schema) -> str:
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    kind = value.get("type")
    if kind == "array":
        several = [_kind(one) for one in value.get("prefixItems", [value.get("items", {})])]
        return f"list of {' and '.join(dict.fromkeys(several))}"
    words = {"boolean": "`true`, `false`", "object": "mapping", "string": "text"}
    return words.get(str(kind)) or f"{kind}{_bounds(value)}"


def _bounds(value: Schema) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [
        f"{sign} {value[name]}" for name, sign in signs.items() if name in value and value[name] != 2**31
    ]
    return f" {', '.join(found)}" if found else ""


def _default(value: Schema, key: str, section: Schema) -> str:
    if key.rpartition(".")[2] in section.get("required", []) and "const" not in value:
        return "required"
    if "default" not in value or "oneOf" in value:
        return ""
    text = _as_yaml(value["default"])
    return f"`{text}`"


def _as_yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_as_yaml(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_as_yaml(one)}' for name, one in value.items())}}}"
    return "null" if value is None else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def _sentence(text: str) -> str:
    flat = " ".join(text.split())
    return f"{flat[:1].upper()}{flat[1:]}".rstrip(".") + "."


def reference_of_verbs() -> str:
    """Return the page of all verbs with their arguments and options."""
    group = typer.main.get_command(app)
    commands: Mapping[str, Any] = getattr(group, "commands")  # noqa: B009 (click's type knows no groups)
    parts = [
        "# Reference: verbs of the command line\n",
        REMAKE,
        "In a clone of the repository every line starts with `uv run`. Results go to stdout, talk to stderr. "
        "[Exit codes](faults_and_resume.md#exit-codes) are the same for all verbs.\n",
    ]
    for name, command in commands.items():
        parts += _verb(name, command)
    return "\n".join(parts)


def _verb(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    words = [one.name.upper() if one.required else f"[{one.name.upper()}]" for one in arguments]
    usage = " ".join(["pareto-unlearn", name, *words, *(["[OPTIONS]"] if options else [])])
    yield f"## {name}\n"
    yield f"`{usage}`\n"
    yield "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n")) + "\n"
    if command.epilog:
        yield "\n".join(f"    {line.strip()}" for line in command.epilog.splitlines()[2:]) + "\n"
    rows = [f"| `{one.name.upper()}` | {_help_of(one)} |" for one in arguments]
    rows += [f"| {_names_of(one)} | {_help_of(one)} |" for one in options]
    if rows:
        yield "\n".join(["| argument or option | meaning |", "|---|---|", *rows]) + "\n"


def _names_of(option: Any) -> str:
    names = ", ".join(option.opts)
    if option.is_flag:
        return f"`{names}`"
    return f"`{names} {option.metavar or option.name.upper().replace('_', '-')}`"


def _help_of(parameter: Any) -> str:
    default = parameter.default
    is_shown = isinstance(default, str) and "default:" not in (parameter.help or "")
    return _cell(f"{parameter.help or ''}{f' Default: {default}.' if is_shown else ''}")


PAGES = {"reference_sweep_keys.md": reference_of_keys, "reference_verbs.md": reference_of_verbs}


def main() -> None:
    """Write both pages."""
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make())


if __name__ == "__main__":
    main()
