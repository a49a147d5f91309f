"""A process of the pool, as Ray Core runs it on a worker: without Ray Tune, whose import takes seconds."""

import os
from collections.abc import Iterator
from typing import Any

import ray

from pareto_unlearn.sweep.task import Task
from pareto_unlearn.sweep.trial_thread import ANSWER, News, TrialThread


class PoolWorker:
    """Solves trials one after the other.

    Args:
        name: what the dashboard shows; Ray asks once.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def is_up(self) -> tuple[str, int]:
        """Return the node and the process: what asks has waited until there was a place for them."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def solve(self, config: dict[str, Any]) -> Iterator[News]:
        """Run the trial of a ``Task`` and tell its news, at last its answer."""
        trial = TrialThread(Task.from_config(config))
        has_ended = False
        while not has_ended:
            news = trial.next_news()
            has_ended = ANSWER in news
            yield news

    def __repr__(self) -> str:
        return self._name
