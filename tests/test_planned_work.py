"""What a sweep hands to Ray and makes of what comes back, without a cluster."""

import pytest
from small_sweep import small_sweep

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase, TrialRecord, TrialSpec, TrialState
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep.cluster import Cluster
from pareto_unlearn.sweep.losses import Losses
from pareto_unlearn.sweep.planned_work import PlannedWork
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.task import Task, describe_trial
from pareto_unlearn.sweep.trainable import SweepTrial
from pareto_unlearn.sweep.trial_thread import ANSWER
from pareto_unlearn.sweep.worker import Answer, Assignment

KILLED = "The actor died unexpectedly before finishing this task.\nIts worker process has died: SYSTEM_ERROR"
NODE_GONE = "The actor died unexpectedly before finishing this task.\nIts node has died. Node Id: 8f"


class Sweep:
    """A sweep of which nothing has run, on nodes and a clock that tests change."""

    def __init__(self, folder, *overrides: str) -> None:
        self.config = small_sweep(folder, "run.executor=tune", "run.max_failures=1", *overrides)
        self.now, self.cpus, self.ended = 0.0, [1, 1], []
        self.store = RunStore.create(str(folder), "fresh")
        spec = TrialSpec(trial_id="", phase=Phase.ORIGINAL, method="original", seed=0)
        template = Assignment(run_path="", config_text="", targets_key="", code_version="1", spec=spec)
        self.planner = Planner(self.config, self.store, "0" * 64, template)
        cluster = Cluster(
            self.config.run, print, False, self._nodes, lambda _: lambda: None, self._time, self._sleep
        )
        losses = Losses(self.config.run.max_failures, lambda: (), self._time)
        self.work = PlannedWork(self.planner, self, cluster, losses)

    def _nodes(self) -> list[dict]:
        return [{"Alive": True, "NodeID": str(i), "Resources": {"CPU": n}} for i, n in enumerate(self.cpus)]

    def _time(self) -> float:
        return self.now

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def start(self) -> Task:
        task = self.work.next_task()
        assert isinstance(task, Task)
        return Task.from_config(task.to_config())

    def on_start(self, spec: TrialSpec) -> None: ...
    def on_progress(self, spec: TrialSpec, step: int, f1: float, f2: float) -> None: ...
    def on_scan(self, spec: TrialSpec, progress: object) -> None: ...

    def on_end(self, spec: TrialSpec, record: TrialRecord) -> None:
        self.ended.append(record)


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return Sweep(tmp_path)


def test_as_many_trials_are_out_as_there_are_places_and_each_has_a_slot_of_its_own(sweep):
    first = sweep.start()
    second = sweep.start()
    assert (first.slot, second.slot) == (0, 1)
    assert first.resources == {"CPU": 1, "GPU": 0.0}
    assert sweep.work.next_task() is NoTrial.WAIT
    sweep.cpus.append(1)
    sweep.now += 2
    assert sweep.start().slot == 2


def test_trials_are_named_for_people(sweep):
    assert describe_trial(sweep.start().spec) == "Phase I, highest, seed 0"
    epsilon = TrialSpec(
        trial_id="",
        phase=Phase.EPSILON,
        method="epsilon_constraint",
        seed=3,
        epsilon=1,
        epsilon_fraction=0.098,
    )
    assert describe_trial(epsilon) == "Phase II, epsilon 9.8%, seed 3"
    assert SweepTrial.default_resource_request({"resources": {"CPU": 2.0}}).bundles == [{"CPU": 2.0}]


def test_a_trial_that_ends_without_an_answer_ends_the_sweep_and_is_not_planned_again(sweep):
    key = sweep.start().spec.trial_id
    sweep.work.ended(key, {"step": 3})
    assert "ended without an answer" in str(sweep.planner.error)
    assert sweep.work.next_task() is NoTrial.FINISHED


def test_a_refusal_ends_the_sweep_with_exit_3(sweep):
    key = sweep.start().spec.trial_id
    sweep.work.ended(key, {ANSWER: Answer(refusal="this node sees another run").to_text()})
    assert (type(sweep.planner.error), str(sweep.planner.error)) == (
        ConfigError,
        "this node sees another run",
    )


def test_a_trial_whose_worker_died_runs_again_until_its_retries_are_used_up(sweep):
    first = sweep.start().spec
    sweep.work.failed(first.trial_id, KILLED)
    again = sweep.start().spec
    assert again == first
    sweep.work.failed(again.trial_id, KILLED)
    (record,) = sweep.ended
    assert (record.trial_id, record.state) == (first.trial_id, TrialState.FAILED)
    assert record.is_fault_of_machine
    assert "the worker process died" in record.reason
    assert "it was tried 2 times" in record.reason
    assert sweep.start().spec.trial_id != first.trial_id


def test_a_trial_that_lost_its_node_waits_while_others_run_and_then_runs_again(sweep):
    first = sweep.start().spec
    for _ in range(3):
        sweep.work.failed(first.trial_id, NODE_GONE)
        other = sweep.start().spec
        assert other.trial_id != first.trial_id
        sweep.work.live.pop(other.trial_id)
        sweep.now += 60
        assert sweep.start().spec == first
    assert not sweep.ended


def test_an_out_of_memory_kill_is_counted_for_the_trial_of_the_process_that_it_names(sweep):
    first = sweep.start().spec
    second = sweep.start().spec
    for _ in range(2):
        for pid, spec in enumerate((first, second)):
            if spec.trial_id not in sweep.work.live:
                assert sweep.start().spec == spec
            sweep.work.heard(spec.trial_id, {"worker": 70 + pid, "node": "8f"})
        cause = RuntimeError(
            "Task was killed due to the node running low on memory (pid=71, memory used=9GB)"
        )
        error = RuntimeError("Tune aborted")
        error.__cause__ = cause
        sweep.work.aborted(error)
    (record,) = sweep.ended
    assert record.trial_id == second.trial_id
    assert "out of memory" in record.reason


def test_where_no_place_is_left_the_search_pauses_and_waits_outside_tune(sweep):
    key = sweep.start().spec.trial_id
    sweep.cpus.clear()
    sweep.now += 2
    assert sweep.work.next_task() is NoTrial.WAIT
    sweep.work.failed(key, NODE_GONE)
    assert sweep.work.next_task() is NoTrial.FINISHED
    assert sweep.work.is_paused
    with pytest.raises(ConfigError, match="the cluster has no node"):
        sweep.work.wait()
    sweep.cpus.append(1)
    sweep.work.wait()
    assert sweep.start().spec.trial_id == key
