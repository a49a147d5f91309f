"""A trial as Ray Tune runs it on a worker: a class, so that the dashboard names the trial that it solves."""

from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from pareto_unlearn.sweep.task import Task
from pareto_unlearn.sweep.trial_thread import ANSWER, TrialThread


class SweepTrial(Trainable):
    """Runs the trial of its config, a ``Task``; its last result is the answer, all others progress."""

    _name = "a trial that did not start"

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Return what a trial reserves on one node."""
        return PlacementGroupFactory([config["resources"]])

    def setup(self, config: dict[str, Any]) -> None:
        """Start the trial."""
        task = Task.from_config(config)
        self._name, self._thread = task.process_name, TrialThread(task)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial in this process; the one before has ended."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next news of the trial."""
        news = self._thread.next_news()
        return news | {"done": ANSWER in news}

    def __repr__(self) -> str:
        return self._name
