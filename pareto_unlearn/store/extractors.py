"""The weight files that the metrics of a run were computed with: one file per name in the whole run."""

import json
from collections.abc import Mapping

from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.store.run_store import RunStore

EXTRACTORS_FILE = "extractors.json"


def read_extractors(store: RunStore) -> dict[str, str]:
    """Return the SHA-256 of every file by name; empty if no metric of the run needed a file."""
    try:
        text = store.read_text(EXTRACTORS_FILE)
    except StoreError:
        return {}
    return {str(name): str(digest) for name, digest in json.loads(text).items()}


def record_extractors(store: RunStore, found: Mapping[str, str]) -> None:
    """Record the files that are about to be used; only under the lock of the run.

    Raises:
        ConfigError: values of the run were computed with another file of that name.
    """
    known = read_extractors(store)
    for name, digest in found.items():
        if known.get(name, digest) != digest:
            raise ConfigError(
                f"{name}: the metrics of {store.path} were computed with the file of SHA-256 {known[name]}, "
                f"found {digest}; values of two files cannot be compared, so use the first"
            )
    if found.keys() - known.keys():
        store.write_text(EXTRACTORS_FILE, json.dumps({**known, **found}, indent=1, sort_keys=True))
