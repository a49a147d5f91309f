"""The note in a run of the model that was picked: ``pick`` writes it, the report and the evidence read it."""

import json
from collections.abc import Mapping

from pareto_unlearn.errors import StoreError
from pareto_unlearn.store.run_store import RunStore

PICK_FILE = "pick.json"


def write_pick(store: RunStore, note: Mapping[str, object]) -> None:
    """Keep a note in a run, in place of an older one.

    Raises:
        OSError: the run cannot be written to.
    """
    store.write_text(PICK_FILE, json.dumps(note, indent=2, ensure_ascii=False) + "\n")


def read_pick(store: RunStore) -> dict[str, object] | None:
    """Return the note of a run; None without one, and empty if the file holds anything else."""
    try:
        note = json.loads(store.read_text(PICK_FILE))
    except StoreError:
        return None
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}
