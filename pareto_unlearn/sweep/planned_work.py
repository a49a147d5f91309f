"""The trials of a sweep as work for Ray: what comes next, and what is made of news, answers and losses.

What hands them to Ray and brings their news is ``tune_executor`` or ``pool_executor``. Errors are kept and
logged, since an exception would abort Tune's loop.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pareto_unlearn.errors import MachineError, ParetoUnlearnError, explain_machine
from pareto_unlearn.records import TrialSpec
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.sweep.cluster import COUNT_EVERY_SECONDS, Cluster, resources_of
from pareto_unlearn.sweep.executors import Observer
from pareto_unlearn.sweep.gauges import show_sweep
from pareto_unlearn.sweep.losses import Loss, Losses, explain_loss, pid_named_in
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.task import Task
from pareto_unlearn.sweep.trial_thread import ANSWER, NODE, PROCESS, SCAN, STAGE, STEP
from pareto_unlearn.sweep.worker import Answer, scan_from_plain

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    """A trial that was handed out: the node and the process that it was last heard of from.

    ``slot`` is the smallest number that no other live trial has.
    """

    spec: TrialSpec
    slot: int
    node: str | None = None
    pid: int | None = None


@dataclass(slots=True)
class PlannedWork:
    """The trials of a planner, as many at a time as the cluster holds.

    ``is_paused`` is True once the search was ended for want of a place or because all that is left waits for
    another try: ``wait`` waits for that, and the search goes on.
    """

    planner: Planner
    observer: Observer
    cluster: Cluster
    losses: Losses
    is_paused: bool = False
    live: dict[str, _Live] = field(default_factory=dict)

    def wait(self) -> None:
        """Wait until a trial can be placed and one may run.

        Raises:
            ConfigError: no trial could be placed for too long.
        """
        self.is_paused = False
        self.cluster.wait()
        while (held := self.losses.held()) and self.planner.next_trial(held) is NoTrial.WAIT:
            self.cluster.sleep(COUNT_EVERY_SECONDS)

    def next_task(self) -> Task | NoTrial:
        """Hand out the next trial.

        Returns:
            Without a trial, WAIT to be asked again, FINISHED to end once those that run have ended.
        """
        try:
            if not self.planner.has_ended() and len(self.live) >= self.cluster.slots():
                return self._later()
            assignment = self.planner.next_trial([*self.live, *self.losses.held()])
        except (ParetoUnlearnError, OSError) as error:
            self._end(error)
            return NoTrial.FINISHED
        if assignment is NoTrial.WAIT:
            return self._later()
        if isinstance(assignment, NoTrial):
            return assignment
        taken = {trial.slot for trial in self.live.values()}
        slot = min(set(range(len(taken) + 1)) - taken)
        self.live[assignment.spec.trial_id] = _Live(assignment.spec, slot)
        self._show()
        config = self.planner.config
        return Task(
            assignment=assignment,
            resources=resources_of(config.run),
            sweep=config.name,
            slot=slot,
            is_reused=config.run.reuse_workers,
        )

    def started(self, key: str) -> None:
        """A trial starts on a worker."""
        if (trial := self.live.get(key)) is not None:
            self.observer.on_start(trial.spec)

    def heard(self, key: str, news: Mapping[str, Any]) -> None:
        """A trial took steps, or a path is on its way to find its step size."""
        if (trial := self.live.get(key)) is None:
            return
        trial.node, trial.pid = news.get(NODE), news.get(PROCESS)
        if SCAN in news:
            self.losses.moved(key)
            self.observer.on_scan(trial.spec, scan_from_plain(news[SCAN]))
        elif STAGE in news:
            self.losses.moved(key)
            self.observer.on_stage(trial.spec, news[STAGE])
        elif STEP in news:
            self.losses.moved(key)
            self.observer.on_progress(trial.spec, news[STEP], news["f1"], news["f2"])

    def ended(self, key: str, news: Mapping[str, Any]) -> None:
        """Count the answer in a trial's last news. Without one the sweep ends, or it would run for ever."""
        trial = self.live.pop(key)
        try:
            if ANSWER not in news:
                raise MachineError(
                    f"trial {key} ({trial.spec.label}) ended without an answer: expected its row in the last "
                    "news of it, found none; start the same command again"
                )
            record = self.planner.take(trial.spec, Answer.from_text(news[ANSWER]))
            if record is not None:
                self.observer.on_end(trial.spec, record)
        except (ParetoUnlearnError, OSError) as error:
            self._end(error)
        self._show()

    def failed(self, key: str, error: str) -> None:
        """Count the loss that an error tells. A trial that is given up gets a row with the reason."""
        trial = self.live.pop(key)
        self._lose(trial.spec, explain_loss(error, trial.node))

    def aborted(self, error: BaseException) -> None:
        """All live trials were aborted; what killed the process that the error names is that trial's loss."""
        live, self.live = self.live, {}
        text = "\n".join(str(one) for one in chain_of(error))
        pid = pid_named_in(text)
        for trial in live.values():
            if pid is not None and trial.pid == pid:
                self._lose(trial.spec, explain_loss(text, trial.node))

    def _lose(self, spec: TrialSpec, loss: Loss) -> None:
        logger.warning("trial %s (%s): %s", spec.trial_id, spec.label, loss.reason)
        try:
            given_up = self.losses.add(spec.trial_id, loss)
            if given_up is not None:
                self.observer.on_end(spec, self.planner.commit_lost(spec, given_up))
        except (ParetoUnlearnError, OSError) as problem:
            self._end(problem)
        self._show()

    def _show(self) -> None:
        show_sweep(self.planner.config.name, self.planner.rows, len(self.live))

    def _later(self) -> NoTrial:
        """Return WAIT while trials run; else end the search, in which nobody hears what the cluster does."""
        if self.live:
            return NoTrial.WAIT
        self.is_paused = True
        return NoTrial.FINISHED

    def _end(self, error: ParetoUnlearnError | OSError) -> None:
        logger.error("the sweep ends: %s", error)
        if isinstance(error, OSError):
            error = explain_machine(error) or MachineError(f"the store cannot be used: {error}")
        self.planner.error = error


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an error and those behind it, the first cause at the end."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain
