"""Runs trials on long-lived actors of Ray Core: for trials of seconds, each seen by name in Ray's tools.

A trial that was planned stands in a line. An actor is started for each that finds none free, and takes the
first of the line once it has its place on a node: so a trial waits for whichever comes first, an actor that
gets free or a node that joins. Imported after Ray's environment is set.
"""

import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayError

from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.sweep.cluster import COUNT_EVERY_SECONDS
from pareto_unlearn.sweep.planned_work import PlannedWork
from pareto_unlearn.sweep.pool_worker import PoolWorker
from pareto_unlearn.sweep.ray_executor import is_main_thread
from pareto_unlearn.sweep.task import Task, describe_trial
from pareto_unlearn.sweep.trial_thread import ANSWER

WORKER = ray.remote(PoolWorker)
IDLE_SECONDS = 60.0
"""For how long an actor without a trial keeps its place: a new one takes seconds, and others may want it."""
UNREAD_NEWS = 1
"""How many news an actor sends ahead; those that follow wait there, where newer steps replace older ones."""


@dataclass(slots=True, eq=False)
class _Member:
    """An actor of the pool: it starts (``coming``), solves a task (``news``), or is free since ``since``."""

    actor: Any
    made_for: Task
    since: float
    coming: Any = None
    task: Task | None = None
    news: Any = None


def run_pool(work: PlannedWork) -> None:
    """Solve trials until nothing is left or the user stops.

    Raises:
        ConfigError: no trial could be placed for too long.
    """
    pool = Pool(work)
    while True:
        work.wait()
        with _noted_interrupt() as interrupts:
            pool.serve(interrupts)
        if interrupts or not work.is_paused:
            return


@contextmanager
def _noted_interrupt() -> Iterator[list[int]]:
    """Let SIGINT be noted and not raised, which could hit Ray anywhere; a second one is raised.

    Yields:
        A list that holds the signal's number once it was received.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not is_main_thread() or before is signal.SIG_IGN:
        yield noted
        return

    def note(number: int, _: FrameType | None) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(slots=True)
class Pool:
    """The actors of a sweep and the line of trials that none has taken yet."""

    work: PlannedWork
    line: deque[Task] = field(default_factory=deque)
    members: list[_Member] = field(default_factory=list)
    _names: Counter[str] = field(default_factory=Counter)
    _ask_at: float = 0.0

    def serve(self, interrupts: list[int]) -> None:
        """Solve trials until none is left, none can be placed, planning fails, or something interrupts.

        No actor is left afterwards.
        """
        try:
            while not interrupts and not self.work.planner.has_ended():
                self._fill_line()
                self._hand_out()
                if not self.work.live:
                    return
                self._listen()
        finally:
            for member in list(self.members):
                self._dismiss(member)
            self.line.clear()

    def _fill_line(self) -> None:
        """Line up all trials that may run: asked after an end, and every second for what time changes."""
        if time.monotonic() < self._ask_at:
            return
        while not isinstance(task := self.work.next_task(), NoTrial):
            self.line.append(task)
        self._ask_at = time.monotonic() + COUNT_EVERY_SECONDS

    def _hand_out(self) -> None:
        """Give free actors what stands in the line, start as many as are missing, dismiss the idle."""
        for member in self.members:
            if member.coming is None and member.task is None and self.line:
                self._begin(member, self.line.popleft())
        coming = [member.made_for.spec.trial_id for member in self.members if member.coming is not None]
        missing = len(self.line) - len(coming)
        unserved = [task for task in self.line if task.spec.trial_id not in coming]
        for task in unserved[: max(missing, 0)]:
            self._start(task)
        now = time.monotonic()
        for member in list(self.members):
            if member.task is None and not self.line and now - member.since > IDLE_SECONDS:
                self._dismiss(member)

    def _start(self, task: Task) -> None:
        name = task.process_name
        self._names[name] += 1
        count = self._names[name]
        actor: Any = WORKER.options(
            name=name if count == 1 else f"{name} ({count})",
            num_cpus=task.resources["CPU"],
            num_gpus=task.resources["GPU"],
            memory=task.resources.get("memory"),
        ).remote(name)
        self.members.append(_Member(actor, task, time.monotonic(), coming=actor.is_up.remote()))

    def _begin(self, member: _Member, task: Task) -> None:
        member.task = task
        member.news = member.actor.solve.options(
            name=describe_trial(task.spec),
            num_returns="streaming",
            _generator_backpressure_num_objects=UNREAD_NEWS,
        ).remote(task.to_config())
        self.work.started(task.spec.trial_id)

    def _listen(self) -> None:
        """Wait for news, at most a second, and take one from each actor that has any."""
        waited = {member.coming or member.news: member for member in self.members}
        waited.pop(None, None)
        if ray.wait(list(waited), timeout=COUNT_EVERY_SECONDS)[0]:
            for ready in ray.wait(list(waited), num_returns=len(waited), timeout=0)[0]:
                self._hear(waited[ready])

    def _hear(self, member: _Member) -> None:
        try:
            if member.coming is not None:
                ray.get(member.coming)
                self._has_come(member)
                return
            news = ray.get(next(member.news))
        except RayError as error:
            self._lose(member, str(error))
            return
        key = (member.task or member.made_for).spec.trial_id
        if ANSWER not in news:
            self.work.heard(key, news)
            return
        self.work.ended(key, news)
        self._ask_at = 0.0
        member.task, member.news, member.since = None, None, time.monotonic()
        if not member.made_for.is_reused:
            self._dismiss(member)

    def _has_come(self, member: _Member) -> None:
        """Give an actor that has its place now the trial that it was started for, if that waits still."""
        member.coming, member.since = None, time.monotonic()
        if member.made_for in self.line:
            self.line.remove(member.made_for)
            self._begin(member, member.made_for)

    def _lose(self, member: _Member, error: str) -> None:
        """Count the loss of an actor for its trial; of one that did not come up, for the trial that waits."""
        self._dismiss(member)
        task = member.task
        if task is None and self.line:
            task = member.made_for if member.made_for in self.line else self.line[0]
            self.line.remove(task)
        if task is not None:
            self.work.failed(task.spec.trial_id, error)
            self._ask_at = 0.0

    def _dismiss(self, member: _Member) -> None:
        """End an actor: at once if it works or has no place yet; a free one ends by itself when forgotten."""
        self.members.remove(member)
        if member.coming is not None or member.task is not None:
            ray.kill(member.actor)
