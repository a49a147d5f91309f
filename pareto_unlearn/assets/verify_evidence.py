"""Checks the evidence beside an unlearned model. Needs Python 3.9 or later and nothing else.

    python verify_evidence.py model.evidence.json model.safetensors

tells whether the model is the file that the evidence speaks of, and whether the evidence is whole. Who was
given the salt and a file with the SHA-256 of every forget image, one a line, can open the commitment too:

    python verify_evidence.py model.evidence.json model.safetensors SALT_HEX DIGESTS_FILE

It cannot tell whether the numbers are true: whoever writes a file can write another. Exit code 0: all match.
"""

import hashlib
import hmac
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

PREDICATE_TYPE = "urn:pareto-unlearn:unlearning-evidence:v0.1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


class Check(NamedTuple):
    """One line of a verification."""

    name: str
    ok: bool
    detail: str


def canonical(statement: Any) -> bytes:
    """Return the only bytes in which a statement is written: no other spelling of the same values passes."""
    text = json.dumps(statement, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def seal(statement: dict[str, Any]) -> str:
    """Return the SHA-256 of a statement without its own seal, as 64 hexadecimal digits."""
    predicate = {name: value for name, value in statement["predicate"].items() if name != "seal"}
    return hashlib.sha256(canonical({**statement, "predicate": predicate})).hexdigest()


def commit(salt: str, digests: Iterable[str]) -> str:
    """Return the commitment to images: HMAC-SHA256, keyed by the salt, of their sorted SHA-256, one a line.

    Without the salt nobody can try out whether an image is among them, as with plain hashes.
    """
    return hmac.new(bytes.fromhex(salt), "\n".join(sorted(digests)).encode(), "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def read_statement(content: bytes) -> tuple[dict[str, Any], Check]:
    """Return the statement in an evidence file, empty if it is none, and whether it is whole."""
    try:
        statement = json.loads(content.decode())
        spelt = canonical(statement) == content
        known = (statement["_type"], statement["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
        told, found = statement["predicate"]["seal"], seal(statement)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {}, Check("evidence", False, f"the file is damaged: {error!r}"[:200])
    if not spelt or not known:
        return {}, Check("evidence", False, f"expected a {PREDICATE_TYPE} in its canonical form")
    return statement, Check("evidence", told == found, f"seal {told}")


def check_model(statement: dict[str, Any], model: Path) -> Check:
    """Return whether a file is the subject of a statement."""
    try:
        (subject,) = statement["subject"]
        expected, found = subject["digest"]["sha256"], file_digest(model)
    except (ValueError, KeyError, TypeError) as error:
        return Check("model file", False, f"the evidence names no file: {error!r}")
    other = "" if found == expected else f", the evidence has {expected}"
    return Check("model file", found == expected, f"sha256 {found}{other}")


def main(arguments: list[str]) -> int:
    """Print a line for every check and return the exit code."""
    statement, whole = read_statement(Path(arguments[0]).read_bytes())
    checks = [whole, check_model(statement, Path(arguments[1]))]
    if len(arguments) == 4 and statement:
        found = commit(arguments[2], Path(arguments[3]).read_text().split())
        checks.append(Check("forget set", found == statement["predicate"]["forget_set"]["commitment"], found))
    for check in checks:
        print("match   " if check.ok else "MISMATCH", check.name, check.detail)
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if len(sys.argv) in (3, 5) else __doc__)
