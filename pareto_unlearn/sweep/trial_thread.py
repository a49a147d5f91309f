"""A trial at work on a worker of Ray, in a thread that never waits for the driver.

Of its progress the newest is kept until somebody asks.
"""

import os
import threading
from collections import deque
from dataclasses import asdict
from typing import Any

import ray

from pareto_unlearn.errors import MachineError
from pareto_unlearn.records import ScanProgress
from pareto_unlearn.sweep.gauges import show_record, show_trial
from pareto_unlearn.sweep.losses import KEEPS_MEMORY
from pareto_unlearn.sweep.task import Task
from pareto_unlearn.sweep.worker import Answer, execute

ANSWER, SCAN, STAGE, STEP = "answer", "scan", "stage", "step"
"""In news: the answer of a trial that ended; how far a path is with its step size; what else it does, in
words; a step taken."""
NODE, PROCESS = "node", "worker"
"""In all news: where the trial runs."""

News = dict[str, Any]


def _is_step(news: News | BaseException) -> bool:
    return isinstance(news, dict) and STEP in news


def _check_memory() -> None:
    """Raise MachineError if this process keeps memory of the GPU from a trial that it solved before."""
    from pareto_unlearn.trial import release_gpu  # imports torch

    if not release_gpu():
        raise MachineError(f"this process {KEEPS_MEMORY}")


class TrialThread:
    """Runs a trial from its making on; the last news of it is the answer, all others are progress."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._mail: deque[News | BaseException] = deque()
        self._arrived = threading.Condition()
        threading.Thread(target=self._solve, name="trial", daemon=True).start()

    def next_news(self) -> News:
        """Wait for news and return them, with the node and the process of the trial.

        Raises:
            BaseException: what ended the trial without an answer.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: self._mail)
            news = self._mail.popleft()
        if isinstance(news, BaseException):
            raise news
        return news | {NODE: ray.get_runtime_context().get_node_id(), PROCESS: os.getpid()}

    def _solve(self) -> None:
        task = self._task

        def on_progress(step: int, f1: float, f2: float) -> None:
            values = {"f1": f1, "f2": f2, "steps_done": float(step)}
            show_trial(task.sweep, task.slot, task.spec, values)
            self._post({STEP: step, "f1": f1, "f2": f2})

        try:
            _check_memory()
            show_trial(task.sweep, task.slot, task.spec, {"epsilon": task.spec.epsilon, "steps_done": 0.0})
            answer: Answer = execute(task.assignment, on_progress, self._on_scan, self._on_stage)
            if answer.record is not None:
                show_record(task.sweep, task.slot, answer.record)
            self._post({ANSWER: answer.to_text()})
        except BaseException as error:  # noqa: BLE001 - it must reach the driver, whatever it is
            self._post(error)

    def _on_scan(self, progress: ScanProgress) -> None:
        self._post({SCAN: asdict(progress)})

    def _on_stage(self, doing: str) -> None:
        self._post({STAGE: doing})

    def _post(self, news: News | BaseException) -> None:
        with self._arrived:
            if self._mail and _is_step(self._mail[-1]) and _is_step(news):
                self._mail.pop()
            self._mail.append(news)
            self._arrived.notify()
