"""A searcher for Ray Tune that keeps no state: what comes next is planned from results that lie elsewhere.

It knows Ray Tune and nothing of this package, so that any sweep whose results are its own files can use it:
a finished run warm-starts the next one, a grid resumes without repeats, and Tune's own experiment state is
never read. Each trial has a key of the caller's; the ids of Tune are forgotten with the Tuner.

A trial that fails ends for Tune (``FailureConfig(max_failures=0)``). Whether it is handed out again is for
``Work`` to say, who is told the error: Tune counts every failure alike, that of a lost node too.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.search import Searcher


class ExhaustedError(Exception):
    """No trial is left to hand out, or none can be placed now and none runs."""


class Work(Protocol):
    """Plans trials. An exception that leaves a method, but for ``ExhaustedError``, would abort the Tuner."""

    def next(self, live: Collection[str]) -> tuple[str, dict[str, Any]] | None:
        """Return the key and the config of the next trial, None to be asked again later.

        Args:
            live: keys of the trials that were handed out and have not ended.

        Raises:
            ExhaustedError: the search ends, once those that run have ended.
        """
        ...

    def ended(self, key: str, result: Mapping[str, Any]) -> None:
        """Take the last result of a trial that ended without an error."""
        ...

    def failed(self, key: str, error: str) -> None:
        """Take the text of the error that ended a trial."""
        ...


def _without_state(_: object) -> dict[str, Any]:
    """Return an empty state to pickle: Tune saves these objects to a file that is never read."""
    return {}


class StoreSearcher(Searcher):
    """Passes Tune's requests for trials on to ``Work``."""

    __getstate__ = _without_state

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work
        self._keys: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of the next trial; None makes Tune ask again later, FINISHED ends the search."""
        try:
            planned = self._work.next(tuple(self._keys.values()))
        except ExhaustedError:
            return Searcher.FINISHED  # type: ignore[return-value]  # Ray annotates it wrongly: it is text
        if planned is None:
            return None
        self._keys[trial_id], config = planned
        return config

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass on the last result. Of a failure Tune tells no reason here: ``fail`` brings it."""
        if not error and (key := self._keys.pop(trial_id, None)) is not None:
            self._work.ended(key, result or {})

    def fail(self, trial_id: str, error: str) -> None:
        """Pass on the text of a trial's error."""
        if (key := self._keys.pop(trial_id, None)) is not None:
            self._work.failed(key, error)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing; Tune requires the method."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing; see ``save``."""


class FailureCallback(Callback):
    """Brings the searcher the errors of trials, which Tune tells to callbacks alone."""

    __getstate__ = _without_state

    def __init__(self, searcher: StoreSearcher) -> None:
        self._searcher = searcher

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed."""
        self._searcher.fail(trial.trial_id, _error_of(trial))


def _error_of(trial: Trial) -> str:
    """Return the text of a trial's last error; ``trial.get_error`` finds none before the next upload."""
    file = trial.error_file
    lines = Path(file).read_text().splitlines() if file else []
    starts = [number for number, line in enumerate(lines) if line.startswith("Failure # ")]
    return "\n".join(lines[starts[-1] + 1 :] if starts else lines)
