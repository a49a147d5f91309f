"""The run directory and its reader: committed results in Parquet, checkpoints with manifests, one lock."""

from pareto_unlearn.store.extractors import read_extractors, record_extractors
from pareto_unlearn.store.folders import find_run, find_runs
from pareto_unlearn.store.health import Fault, check_run, compact_run, open_damaged, repair_run
from pareto_unlearn.store.measured import Wanted, find_measured
from pareto_unlearn.store.pick_note import PICK_FILE, read_pick, write_pick
from pareto_unlearn.store.run import StoredRun, open_run
from pareto_unlearn.store.run_store import RunStore
from pareto_unlearn.store.salt import add_salt, read_salt

__all__ = [
    "PICK_FILE",
    "Fault",
    "RunStore",
    "StoredRun",
    "Wanted",
    "add_salt",
    "check_run",
    "compact_run",
    "find_measured",
    "find_run",
    "find_runs",
    "open_damaged",
    "open_run",
    "read_extractors",
    "read_pick",
    "read_salt",
    "record_extractors",
    "repair_run",
    "write_pick",
]
