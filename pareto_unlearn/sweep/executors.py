"""What an executor is, and the executor that runs trials in this process."""

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from pareto_unlearn.errors import RankLostError
from pareto_unlearn.records import ScanProgress, TrialRecord, TrialSpec
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.sweep.losses import Cause, Loss, Losses
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import Assignment, execute

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told what happens in a sweep; its methods must not raise."""

    def on_start(self, spec: TrialSpec) -> None:
        """A trial starts."""
        ...

    def on_progress(self, spec: TrialSpec, step: int, f1: float, f2: float) -> None:
        """A trial took steps; f1 and f2 are those of its last mini-batch."""
        ...

    def on_scan(self, spec: TrialSpec, progress: ScanProgress) -> None:
        """A path looks for its step size, before its first step."""
        ...

    def on_stage(self, spec: TrialSpec, doing: str) -> None:
        """A trial does something else than steps, such as reading images; in words."""
        ...

    def on_end(self, spec: TrialSpec, record: TrialRecord) -> None:
        """A trial is committed."""
        ...


class Executor(Protocol):
    """Runs trials until the planner has none left."""

    def run(self, planner: Planner, observer: Observer) -> int | None:
        """Ask ``planner`` for trials and execute them until it is finished or a signal stops the sweep.

        Returns:
            The number of the signal; None if the sweep finished or was stopped by Ctrl-C.
        """
        ...


@contextmanager
def terminable() -> Iterator[list[int]]:
    """Make SIGTERM end a sweep as gracefully as Ctrl-C does.

    Enter it after Ray was started: Ray sets a handler of its own. An exception raised by a handler would
    break Ray's internals, so the signal is passed on as SIGINT, from which Tune and Python both unwind
    cleanly. Shells start the background jobs of a script with SIGINT ignored, and SIGTERM would be lost
    there; so SIGINT gets Python's handler once SIGTERM has come.

    Yields:
        A list that holds the signal's number once it was received.
    """
    received: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    try:
        previous = signal.signal(signal.SIGTERM, pass_on)
    except ValueError:  # not in the main thread, which alone may set handlers
        yield received
        return
    try:
        yield received
    except KeyboardInterrupt:
        if not received:
            raise
    finally:
        signal.signal(signal.SIGTERM, previous)


class LocalExecutor:
    """Runs one trial at a time in this process: for tests, debugging, and machines without Ray."""

    def run(self, planner: Planner, observer: Observer) -> int | None:
        """Execute trials one after the other; see ``Executor``."""
        with terminable() as received:
            losses = Losses(planner.config.run.max_failures, lambda: (), time.monotonic)
            while not isinstance(assignment := planner.next_trial(()), NoTrial):
                try:
                    self._run_one(assignment, planner, observer)
                except RankLostError as error:
                    self._lose(assignment.spec, str(error), losses, planner, observer)
        return received[0] if received else None

    def _run_one(self, assignment: Assignment, planner: Planner, observer: Observer) -> None:
        spec = assignment.spec
        observer.on_start(spec)
        answer = execute(
            assignment,
            lambda step, f1, f2: observer.on_progress(spec, step, f1, f2),
            lambda progress: observer.on_scan(spec, progress),
            lambda doing: observer.on_stage(spec, doing),
        )
        if (record := planner.take(spec, answer)) is not None:
            observer.on_end(spec, record)

    def _lose(
        self, spec: TrialSpec, reason: str, losses: Losses, planner: Planner, observer: Observer
    ) -> None:
        """Let a trial run again of which a process died; after too many times it gets a row that says so."""
        logger.warning("trial %s (%s): %s", spec.trial_id, spec.label, reason)
        if (given_up := losses.add(spec.trial_id, Loss(Cause.PROCESS, reason))) is not None:
            observer.on_end(spec, planner.commit_lost(spec, given_up))
