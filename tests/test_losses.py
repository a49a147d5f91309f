"""What a sweep does about workers that ended without a row."""

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    WorkerCrashedError,
)

from pareto_unlearn.sweep.losses import LOST_FOR_SECONDS, Cause, Loss, Losses, explain_loss, pid_named_in

KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: SweepTrial\n\tpid: 71\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
)
NODE_GONE = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: SweepTrial\n"
    "The actor died because its node has died. Node Id: 8f"
)
OUT_OF_MEMORY = (
    "Task was killed due to the node running low on memory. Memory on the node (IP: 10.0.0.1, ID: ab) where "
    "the task (actor ID: cd, name=SweepTrial.__init__, pid=71, memory used=1.20GB) was running was 15GB"
)
CREATION = (
    "The actor died because of an error raised in its creation task, ray::SweepTrial.__init__() (pid=71)\n"
    "Traceback\n  import timm\nModuleNotFoundError: No module named 'timm'"
)


class Clock:
    now, dead = 0.0, ()

    def losses(self, max_failures: int = 2) -> Losses:
        return Losses(max_failures, lambda: self.dead, lambda: self.now)


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (NODE_GONE, Cause.NODE, "its node was lost (The actor died because its node has died. Node Id: 8f)"),
        (str(NodeDiedError("the node died")), Cause.NODE, "its node was lost"),
        (str(ActorUnavailableError("rpc", None)), Cause.NODE, "its node was lost"),
        (str(LocalRayletDiedError()), Cause.NODE, "its node was lost"),
        (KILLED, Cause.PROCESS, "(The actor is dead because its worker process has died. Worker exit"),
        (str(ActorDiedError()), Cause.PROCESS, "the worker process died"),
        (str(WorkerCrashedError()), Cause.PROCESS, "the worker process died"),
        (str(OutOfMemoryError(OUT_OF_MEMORY)), Cause.MEMORY, "run.memory_bytes"),
        (CREATION, Cause.ERROR, "could not run the trial: ModuleNotFoundError: No module named 'timm'"),
        ("", Cause.ERROR, "no reason was given"),
    ],
)
def test_causes_are_told_apart_and_each_has_words(error, cause, words):
    loss = explain_loss(error, "ab")
    assert loss.cause is cause
    assert words in loss.reason


def test_the_worker_that_an_out_of_memory_kill_names_is_found():
    assert pid_named_in(OUT_OF_MEMORY) == 71
    assert pid_named_in("nothing") is None


def test_a_trial_is_given_up_after_its_own_failures_with_the_last_reason():
    losses = Clock().losses(max_failures=1)
    assert losses.add("a", Loss(Cause.PROCESS, "crashed", "node")) is None
    assert losses.add("b", Loss(Cause.PROCESS, "crashed", "node")) is None
    given_up = losses.add("a", Loss(Cause.MEMORY, "out of memory", "node"))
    assert given_up == "fault of the machine: out of memory; it was tried 2 times"


def test_lost_nodes_use_up_no_retry_and_wait_longer_each_time():
    clock = Clock()
    losses = clock.losses(max_failures=0)
    waits = []
    for _ in range(6):
        assert losses.add("a", Loss(Cause.NODE, "its node was lost")) is None
        before = clock.now
        while losses.held() == ["a"]:
            clock.now += 1
        waits.append(clock.now - before)
    assert waits == [5, 10, 20, 40, 60, 60]
    assert losses.held() == []


def test_a_trial_that_moves_between_lost_nodes_is_never_given_up_but_one_that_does_not_is():
    clock = Clock()
    losses = clock.losses()
    for _ in range(5):
        clock.now += LOST_FOR_SECONDS
        losses.moved("a")
        assert losses.add("a", Loss(Cause.NODE, "its node was lost")) is None
    clock.now += LOST_FOR_SECONDS + 1
    assert "lost 2 nodes in 60 min without taking a step" in losses.add(
        "a", Loss(Cause.NODE, "its node was lost")
    )


def test_a_worker_that_died_with_its_node_is_forgiven_once_the_node_is_known_to_be_lost():
    clock = Clock()
    losses = clock.losses(max_failures=0)
    clock.dead = ("gone",)
    assert losses.add("a", Loss(Cause.PROCESS, "crashed", "gone")) is None
    assert losses.add("a", Loss(Cause.PROCESS, "crashed", "here")) is not None
