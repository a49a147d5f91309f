"""What a run that is there already spares a sweep, and what the sweep would still do to it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.store import RunStore, find_run
from pareto_unlearn.sweep.additions import Additions
from pareto_unlearn.sweep.checking import CheckedSweep, check_same_images, check_same_sweep
from pareto_unlearn.sweep.forecast import Task, task_of


@dataclass(frozen=True, slots=True)
class SoFar:
    """A run by now: ``left`` are the trials without a row, ``lacking`` says what its models lack."""

    exists: bool
    left: tuple[Task, ...]
    lacking: str = ""

    def to_plain(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {"exists": self.exists, "trials_left": len(self.left), "lacking": self.lacking}


def look_at_run(config: SweepConfig, checked: CheckedSweep, tasks: Sequence[Task]) -> SoFar:
    """Return what the run of a sweep holds already; where there is none, everything is left.

    Nothing is written.

    Args:
        config: the sweep.
        checked: what the checks read of it.
        tasks: the purpose of every trial of the sweep.

    Raises:
        ConfigError: the run belongs to another sweep or has other images.
        StoreError: a committed file is damaged.
    """
    store = find_run(config.run.storage, config.name)
    if store is None:
        return SoFar(exists=False, left=tuple(tasks))
    info = store.read_info()
    check_same_sweep(config, store, info.config_hash if info else None, checked.weights_sha256)
    check_same_images(store, checked.manifest, is_new=False)
    lacking = Additions.of_run(config, store, store.records().values()).describe()
    return SoFar(exists=True, left=tuple(tasks_left(store, tasks)), lacking=lacking)


def tasks_left(store: RunStore, tasks: Sequence[Task]) -> list[Task]:
    """Return the purpose of every trial that a run has no row of.

    Raises:
        StoreError: a committed file is damaged.
    """
    return list((Counter(tasks) - Counter(map(task_of, store.records().values()))).elements())
