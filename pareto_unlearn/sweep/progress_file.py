"""``progress.json`` in a run: what its driver last knew of the trials that run, for those who look on.

Nothing is computed from it, and a run without it is whole. Trials that ended are in the store itself.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pareto_unlearn.errors import StoreError
from pareto_unlearn.store import RunStore
from pareto_unlearn.stored_fields import read_fields

PROGRESS_FILE = "progress.json"
SECONDS_BETWEEN = {True: 2.0, False: 15.0}
"""Between two writes of steps that were taken, by whether the run lies on a file system."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A trial that runs. ``f1`` and ``f2`` are those of its last mini-batch; ``doing`` is empty for steps.

    ``seconds`` are those since it started.
    """

    trial_id: str
    label: str
    phase: str
    seed: int
    step: int
    steps: int
    f1: float | None
    f2: float | None
    doing: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepProgress:
    """What a driver knows. ``written`` is in seconds since 1970.

    ``seconds_left`` is None while nothing was measured; with ``is_least`` no trial has ended yet, so that
    only steps were counted.
    """

    written: float
    total: int
    slots: int
    seconds_left: float | None
    is_least: bool
    running: tuple[RunningTrial, ...]


class ProgressFile:
    """Writes the progress of a sweep, not more often than it is of use.

    Args:
        store: the run; its lock is held.
        clock: seconds from any start.
    """

    def __init__(self, store: RunStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._written = -math.inf

    def is_due(self, *, urgent: bool) -> bool:
        """Return whether to write now; a start or an end of a trial is urgent."""
        return urgent or self._clock() - self._written >= SECONDS_BETWEEN[self._store.is_local]

    def write(self, progress: SweepProgress) -> None:
        """Write the progress; a fault of the disk is logged, since no result depends on it."""
        self._written = self._clock()
        try:
            self._store.write_text(PROGRESS_FILE, encode_progress(progress))
        except OSError as error:
            logger.warning("%s of %s could not be written: %s", PROGRESS_FILE, self._store, error)


def encode_progress(progress: SweepProgress) -> str:
    """Return the text of the file; a number that is not finite becomes null."""
    content = asdict(progress)
    content["running"] = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in one}
        for one in (trial.items() for trial in content["running"])
    ]
    return json.dumps(content, indent=1)


def read_progress(store: RunStore) -> SweepProgress | None:
    """Return what the last driver of a run wrote; None where there is nothing that can be read."""
    try:
        content = json.loads(store.read_text(PROGRESS_FILE))
        running = tuple(read_fields(RunningTrial, one) for one in content["running"])
        return read_fields(SweepProgress, content | {"running": running})
    except (StoreError, ValueError, TypeError, LookupError, AttributeError):
        return None
