"""The salt that keys the commitments to a run's images in evidence files."""

import re
import secrets

from pareto_unlearn.errors import StoreError
from pareto_unlearn.store.run_store import RunStore

SALT_FILE = "evidence-salt.txt"
"""It stays in the run: whoever has it can try out whether an image is in a set."""


def add_salt(store: RunStore) -> None:
    """Give a run its salt, once. A sweep does so, since an export only reads a run."""
    if read_salt(store) is None:
        store.write_text(SALT_FILE, secrets.token_hex(32) + "\n")


def read_salt(store: RunStore) -> str | None:
    """Return the salt of a run, 64 hexadecimal digits; None in a run of an earlier version.

    Raises:
        StoreError: the file holds something else.
    """
    try:
        text = store.read_text(SALT_FILE).strip()
    except StoreError:
        return None
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise StoreError(
            f"{store.path}: expected 64 hexadecimal digits in {SALT_FILE}, found other text; remove the file"
        )
    return text
