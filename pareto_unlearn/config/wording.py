"""Words for keys and values in errors about a sweep file; knows neither YAML nor the schema."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

KeyPath = tuple[str | int, ...]

_LONGEST_QUOTE = 60


def dotted(path: KeyPath) -> str:
    """Return a path as people write it, such as ``baselines[1].weights``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return quoted(text, longest=200) if not text.isprintable() else text


def quoted(text: str, longest: int = _LONGEST_QUOTE) -> str:
    """Return text as one printable line; a text longer than ``longest`` is cut and ends in ``...``."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def found(value: object) -> str:
    """Return a value of a sweep file with its kind in words, for ``expected ..., found ...``."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f"the text `{quoted(value)}`"
    return "a mapping of keys" if isinstance(value, dict) else "a list"


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """Return ``; did you mean `x`?`` with the most similar choice, or an empty text if none is similar."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(str(word).lower(), by_lower, n=1)
    return f"; did you mean `{by_lower[near[0]]}`?" if near else ""


def joined(words: Sequence[str]) -> str:
    """Return the words as ``a, b and c``."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def one_of(choices: Sequence[str], value: object) -> str:
    """Return `expected one of ..., found ...` with the choice that is nearest to the value."""
    expected = f"one of {listed(choices)}" if len(choices) > 1 else listed(choices)
    advice = "" if value is None else did_you_mean(value, choices)
    return f"expected {expected}, found {found(value)}{advice}"


def listed(choices: Iterable[str]) -> str:
    """Return the choices as `` `a`, `b` ``."""
    return ", ".join(f"`{choice}`" for choice in choices)
