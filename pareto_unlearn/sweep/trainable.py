"""A trial as Ray Tune runs it on a worker: a class, so that the dashboard shows which trial an actor solves.

The trial runs in a thread and never waits for the driver: of its progress the newest is kept until Tune asks.
"""

import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.tune import PlacementGroupFactory, Trainable

from pareto_unlearn.records import ScanProgress, TrialSpec
from pareto_unlearn.sweep.gauges import show_record, show_trial
from pareto_unlearn.sweep.progress import name_phase
from pareto_unlearn.sweep.worker import Answer, Assignment, execute

ANSWER, SCAN, STAGE, STEP = "answer", "scan", "stage", "step"
"""In a result: the answer of a trial that ended; how far a path is with its step size; what else it does, in
words; a step taken."""


def describe_trial(spec: TrialSpec) -> str:
    """Return the name of a trial in the dashboard: "Phase II, epsilon 9.8%, seed 0"."""
    return f"{name_phase(spec)}, {spec.label}, seed {spec.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The config of a trial in Tune: an assignment, what it reserves, and how its numbers are shown.

    With ``is_reused``, the process solves other trials afterwards.
    """

    assignment: Assignment
    resources: Mapping[str, float]
    sweep: str
    slot: int
    is_reused: bool

    def to_config(self) -> dict[str, Any]:
        """Return the task as JSON-like values."""
        return {
            "assignment": self.assignment.to_plain(),
            "resources": dict(self.resources),
            "sweep": self.sweep,
            "slot": self.slot,
            "is_reused": self.is_reused,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Task":
        """Return the task whose ``to_config`` gave these values."""
        return cls(
            assignment=Assignment.from_plain(config["assignment"]),
            resources=config["resources"],
            sweep=config["sweep"],
            slot=config["slot"],
            is_reused=config["is_reused"],
        )

    @property
    def spec(self) -> TrialSpec:
        """The trial that was planned."""
        return self.assignment.spec


def _is_step(news: dict[str, Any] | BaseException) -> bool:
    return isinstance(news, dict) and STEP in news


class SweepTrial(Trainable):
    """Runs the trial of its config, a ``Task``; its last result is the answer, all others progress."""

    _task: Task | None = None

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Return what a trial reserves on one node."""
        return PlacementGroupFactory([config["resources"]])

    def setup(self, config: dict[str, Any]) -> None:
        """Start the trial."""
        self._task = Task.from_config(config)
        self._mail: deque[dict[str, Any] | BaseException] = deque()
        self._arrived = threading.Condition()
        threading.Thread(target=self._solve, args=(self._task,), name="trial", daemon=True).start()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial in this process; the one before has ended."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next news of the trial."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._mail)
            news = self._mail.popleft()
        if isinstance(news, BaseException):
            raise news
        return news | {"node": ray.get_runtime_context().get_node_id(), "worker": os.getpid()}

    def __repr__(self) -> str:
        if self._task is None:
            return "a trial that did not start"
        name = describe_trial(self._task.spec)
        # Ray asks once, when the process starts.
        return f"slot {self._task.slot}, from {name} on" if self._task.is_reused else name

    def _solve(self, task: Task) -> None:
        def on_progress(step: int, f1: float, f2: float) -> None:
            values = {"f1": f1, "f2": f2, "steps_done": float(step)}
            show_trial(task.sweep, task.slot, task.spec, values)
            self._post({STEP: step, "f1": f1, "f2": f2})

        try:
            show_trial(task.sweep, task.slot, task.spec, {"epsilon": task.spec.epsilon, "steps_done": 0.0})
            answer: Answer = execute(task.assignment, on_progress, self._on_scan, self._on_stage)
            if answer.record is not None:
                show_record(task.sweep, task.slot, answer.record)
            self._post({"done": True, ANSWER: answer.to_text()})
        except BaseException as error:  # noqa: BLE001 - it must reach the driver, whatever it is
            self._post(error)

    def _on_scan(self, progress: ScanProgress) -> None:
        self._post({SCAN: asdict(progress)})

    def _on_stage(self, doing: str) -> None:
        self._post({STAGE: doing})

    def _post(self, news: dict[str, Any] | BaseException) -> None:
        with self._arrived:
            if self._mail and _is_step(self._mail[-1]) and _is_step(news):
                self._mail.pop()
            self._mail.append(news)
            self._arrived.notify()
