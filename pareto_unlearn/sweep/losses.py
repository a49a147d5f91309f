"""What a sweep does about trials that ended without a row: retries, waits between them, and the last word.

A trial may fail ``run.max_failures`` times by itself. A lost node is no failure of the trial: it is tried
again, after growing waits, until it has made no step for an hour. Knows no Ray; errors of Ray are told by
their words.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum

from pareto_unlearn.records import MACHINE_FAULT

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 60.0
LOST_FOR_SECONDS = 3600.0
"""After which a trial is given up whose nodes were lost again and again before it took a step."""

KEEPS_MEMORY = "keeps memory of the GPU from the trial before it, so a fresh process solves this one"
"""What a process says that is used again and must not be."""

_MEMORY_WORDS = re.compile(r"low on memory|OutOfMemory")
_NODE_WORDS = re.compile(
    r"node (has died|died|was terminated|is dead|failed)|preempt|is unavailable|raylet died", re.IGNORECASE
)
RANK_LOST = "a rank of the trial died"
"""In the error of a trial of which one of several processes died."""
_PROCESS_WORDS = re.compile(r"actor (died|is dead)|worker (process )?(has )?(died|crashed)", re.IGNORECASE)
_CREATION_WORDS = "error raised in its creation task"
_COLOURS = re.compile(r"\x1b\[\d+m")
_PID = re.compile(r"\bpid[=:] ?(\d+)")


class Cause(StrEnum):
    """What ended a worker."""

    NODE = "lost node"
    MEMORY = "out of memory"
    PROCESS = "worker process"
    ERROR = "error of the worker"
    USED = "used process"


@dataclass(frozen=True, slots=True)
class Loss:
    """One end of a worker without a row: its cause, the reason in words, and the node it ran on, if known."""

    cause: Cause
    reason: str
    node: str | None = None


@dataclass(slots=True)
class _Suffered:
    """What a trial has suffered in this sweep; ``since`` counts from the first of the nodes lost in a row."""

    own: list[Loss] = field(default_factory=list)
    nodes_lost: int = 0
    since: float | None = None
    held_until: float = 0.0


def explain_loss(error: str, node: str | None) -> Loss:
    """Return what an error of Ray means, by its text: Tune keeps no more of it.

    Args:
        error: the text.
        node: id of the node that the trial was last heard of from.
    """
    if KEEPS_MEMORY in error:
        return Loss(Cause.USED, f"the process {KEEPS_MEMORY}", node)
    if _MEMORY_WORDS.search(error):
        return Loss(
            Cause.MEMORY,
            f"out of memory: Ray killed the worker to save its node ({_told(error)}); lower solver.batch, or "
            "set run.memory_bytes so that fewer trials share a node",
            node,
        )
    if _CREATION_WORDS not in error and _NODE_WORDS.search(error):
        return Loss(Cause.NODE, f"its node was lost ({_told(error)})", node)
    if RANK_LOST in error:
        told = next(line for line in reversed(_lines(error)) if RANK_LOST in line)
        return Loss(Cause.PROCESS, told[told.index(RANK_LOST) :], node)
    if _CREATION_WORDS not in error and _PROCESS_WORDS.search(error):
        return Loss(
            Cause.PROCESS,
            "the worker process died: it crashed or was killed, as the system does when memory ends "
            f"({_told(error)}); see the Ray logs of its node",
            node,
        )
    return Loss(Cause.ERROR, f"the worker could not run the trial: {_lines(error)[-1]}", node)


def pid_named_in(error: str) -> int | None:
    """Return the process that an error is about, None if it names none."""
    match = _PID.search(error)
    return None if match is None else int(match[1])


def _lines(error: str) -> list[str]:
    lines = (_COLOURS.sub("", line).strip() for line in error.splitlines())
    return [line[:300] for line in lines if line] or ["no reason was given"]


def _told(error: str) -> str:
    """Return the line of an error that says why, without the names of actors before it."""
    lines = _lines(error)
    told = [line for line in lines if not re.match(r"(class_name|actor_id|pid|name|namespace|ip):", line)]
    return told[1] if len(told) > 1 else told[0] if told else lines[0]


@dataclass(slots=True)
class Losses:
    """Counts the losses of every trial of a sweep.

    ``dead_nodes`` returns the ids of nodes that are known to be lost by now. A worker often dies seconds
    before its node is known to be: what looked like a failure of the trial then is none.
    """

    max_failures: int
    dead_nodes: Callable[[], Collection[str]]
    now: Callable[[], float]
    _trials: dict[str, _Suffered] = field(default_factory=dict)

    def add(self, trial_id: str, loss: Loss) -> str | None:
        """Count a loss; return None if the trial is to run again, the reason if it is given up."""
        trial = self._trials.setdefault(trial_id, _Suffered())
        if loss.cause is Cause.USED:
            return None  # Tune ends that process, and a fresh one never says so
        if loss.cause is Cause.NODE:
            return self._add_lost_node(trial, loss)
        trial.own.append(loss)
        dead = set(self.dead_nodes())
        own = [past for past in trial.own if past.cause is not Cause.PROCESS or past.node not in dead]
        if len(own) <= self.max_failures:
            return None
        return f"{MACHINE_FAULT}{loss.reason}; it was tried {_times(len(own))}"

    def _add_lost_node(self, trial: _Suffered, loss: Loss) -> str | None:
        now = self.now()
        trial.since = now if trial.since is None else trial.since
        if now - trial.since > LOST_FOR_SECONDS:
            return (
                f"{MACHINE_FAULT}{loss.reason}; it lost {trial.nodes_lost + 1} nodes in "
                f"{(now - trial.since) / 60:.0f} min without taking a step"
            )
        wait = min(FIRST_WAIT_SECONDS * 2.0**trial.nodes_lost, LONGEST_WAIT_SECONDS)
        trial.nodes_lost += 1
        trial.held_until = now + wait
        return None

    def moved(self, trial_id: str) -> None:
        """A trial took a step: what it lost before is forgiven, but for its own failures."""
        if (trial := self._trials.get(trial_id)) is not None:
            trial.nodes_lost, trial.since = 0, None

    def held(self) -> list[str]:
        """Return the ids of trials that wait before they run again."""
        now = self.now()
        return [trial_id for trial_id, trial in self._trials.items() if trial.held_until > now]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
