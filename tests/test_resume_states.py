"""When a solve keeps a state to resume from: after steps, or by time, at most 2 % of it."""

from itertools import pairwise
from pathlib import Path

import pytest
from small_sweep import QUICKSTART

from pareto_unlearn.config import SweepConfig, config_hash, dump_config, former_config_hashes, load_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep.checking import check_same_sweep
from pareto_unlearn.trial.resume import LARGEST_SHARE, LEAST_SECONDS, StateClock


class Time:
    """Seconds that pass when the test says so."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def spend(
    clock: StateClock, time: Time, saving_seconds: float, step_seconds: float, steps: int
) -> list[float]:
    """Return when states were saved in a solve that asks after every 50 steps."""
    saved = []
    for step in range(50, steps + 1, 50):
        time.seconds += 50 * step_seconds
        if clock.is_due(step, 50):
            with clock.saving():
                time.seconds += saving_seconds
            saved.append(time.seconds)
    return saved


@pytest.mark.parametrize("saving_seconds", [0.02, 2.0, 9.0])
@pytest.mark.parametrize("step_seconds", [0.01, 0.06, 10.0])
def test_saving_by_time_keeps_to_its_share_of_the_solve(saving_seconds, step_seconds):
    time = Time()
    clock = StateClock(None, state_bytes=round(200e6 * saving_seconds), now=time)
    saved = spend(clock, time, saving_seconds, step_seconds, 40_000)
    assert clock.spent == pytest.approx(len(saved) * saving_seconds)
    assert clock.spent <= LARGEST_SHARE * time.seconds
    # A state is due as soon as the share, the least pause and the next 50 steps allow.
    pause = max(saving_seconds / LARGEST_SHARE, LEAST_SECONDS + saving_seconds) + 50 * step_seconds
    assert len(saved) >= int(time.seconds / pause) - 1


def test_a_first_saving_that_took_longer_than_assumed_is_made_up_for():
    time = Time()
    clock = StateClock(None, state_bytes=1, now=time)
    saved = spend(clock, time, 4.0, 0.05, 20_000)
    assert clock.spent <= LARGEST_SHARE * time.seconds + 4.0
    assert min(after - before for before, after in pairwise(saved[1:])) >= 190.0


def test_states_after_steps_do_not_look_at_the_clock():
    time = Time()
    clock = StateClock(70, state_bytes=10**12, now=time)
    steps = [step for step in range(50, 400, 50) if clock.is_due(step, 50)]
    assert steps == [step for step in range(50, 400, 50) if step % 70 < 50] == [100, 150, 250, 300, 350]


def with_overrides(*overrides: str) -> SweepConfig:
    return load_config(QUICKSTART, list(overrides))


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path, "run")


def test_the_interval_of_states_may_be_changed_on_a_run(run):
    old, new = with_overrides("solver.checkpoint_every=7"), with_overrides("solver.checkpoint_every=null")
    run.write_text("sweep.yaml", dump_config(old))
    check_same_sweep(new, run, config_hash(old, "a"), "a")


@pytest.mark.parametrize("kept", [7, 200])
def test_a_run_whose_hash_holds_its_interval_is_continued_and_nothing_else_of_it_is_let_pass(run, kept):
    old, new = (
        with_overrides(f"solver.checkpoint_every={kept}"),
        with_overrides("solver.checkpoint_every=null"),
    )
    run.write_text("sweep.yaml", dump_config(old))
    hash_then = former_config_hashes(old, "a", old)[0]
    check_same_sweep(new, run, hash_then, "a")
    with pytest.raises(ConfigError, match="weights of the original"):
        check_same_sweep(new, run, hash_then, "b")
    other = with_overrides("solver.checkpoint_every=null", "solver.learning_rate=0.5")
    with pytest.raises(ConfigError, match=r"solver\.learning_rate"):
        check_same_sweep(other, run, hash_then, "a")


def test_hashes_of_runs_with_the_former_defaults_stay():
    config = with_overrides("solver.checkpoint_every=null")
    former = with_overrides("solver.checkpoint_every=200")
    assert {config_hash(config, "a")} == set(former_config_hashes(config, "a", former))
