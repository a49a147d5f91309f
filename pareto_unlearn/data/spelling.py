"""Names of files and classes in the two ways that Unicode spells an accented letter.

macOS writes ``e`` and an accent (NFD) where people and other systems write one letter (NFC). A name that is
not there as it is written stands for the only one that reads the same.
"""

import unicodedata
from collections.abc import Iterable


def as_stored(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the names in the spelling of ``known``; what is not among them, or is so twice, stays."""
    stored = set(known)
    wanted = list(names)
    if all(name in stored for name in wanted):
        return wanted
    spelled: dict[str, list[str]] = {}
    for name in stored:
        spelled.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return [name if name in stored else _only(name, spelled) for name in wanted]


def _only(name: str, spelled: dict[str, list[str]]) -> str:
    alike = spelled.get(unicodedata.normalize("NFC", name), [])
    return alike[0] if len(alike) == 1 else name
