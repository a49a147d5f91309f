"""Which models of a run have been measured, by the rows of its table ``metrics``."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pareto_unlearn.store.run_store import RunStore


class Wanted(NamedTuple):
    """Rows of a protocol and of one of some metrics; of any metric where none is named."""

    protocol: str
    metrics: Collection[str]


def find_measured(store: RunStore, wanted: Mapping[str, Wanted]) -> dict[str, frozenset[str]]:
    """Return the ids of the trials that have a row of what is wanted, by its name.

    Raises:
        StoreError: a file is damaged or of a newer schema.
    """
    rows = store.table("metrics").select(["trial_id", "protocol", "metric"])
    return {name: _trials_with(rows, one) for name, one in wanted.items()}


def _trials_with(rows: pa.Table, wanted: Wanted) -> frozenset[str]:
    chosen = rows.filter(pc.equal(rows["protocol"], pa.scalar(wanted.protocol)))
    if wanted.metrics:
        chosen = chosen.filter(pc.is_in(chosen["metric"], pa.array(list(wanted.metrics))))
    return frozenset(str(trial_id) for trial_id in pc.unique(chosen["trial_id"]).to_pylist())
