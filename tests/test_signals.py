"""How a sweep takes signals."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
from ray_sweeps import end_session, in_phase_one, sweep_command
from small_sweep import QUICKSTART, SMALL
from waiting import STALLED_AFTER, wait_until

from pareto_unlearn.config import load_config
from pareto_unlearn.sweep import ray_executor
from pareto_unlearn.sweep.executors import terminable


def test_sigterm_ends_a_sweep_that_a_script_started_in_the_background():
    """Such a job has SIGINT ignored, as which SIGTERM is passed on."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        reached = False
        with terminable() as received:
            signal.raise_signal(signal.SIGTERM)
            reached = True
        assert not reached
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, before)


def leave_as_ray_does(*_: object, **__: object) -> None:
    """Install the handler that Ray installs while it starts, and get SIGTERM before it is replaced."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    signal.raise_signal(signal.SIGTERM)


def test_sigterm_while_ray_starts_is_a_signal_and_leaves_no_handler_of_rays(monkeypatch):
    """Ray's own handler exits with 15; the sweep must end with 143, and later signals as without Ray."""
    monkeypatch.setattr(ray_executor, "start_ray", leave_as_ray_does)
    before = signal.getsignal(signal.SIGTERM)
    executor = ray_executor.RayExecutor(load_config(QUICKSTART).run, print)
    assert executor.run(None, None) == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.nightly
def test_a_background_sweep_of_a_script_ends_with_143_and_keeps_what_it_has(tmp_path):
    """The local executor, started with SIGINT ignored: what was computed is there to go on from."""
    command = sweep_command(tmp_path, *SMALL, "solver.steps=4000", "run.executor=local")
    script = f"{shlex.join(command)} & echo $!; wait $!; exit $?"
    shell = subprocess.Popen(
        ["sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        sweep = int(shell.stdout.readline())
        wait_until(lambda: in_phase_one(tmp_path), shell)
        os.kill(sweep, signal.SIGTERM)
        _, talk = shell.communicate(timeout=STALLED_AFTER)
    finally:
        end_session(shell)
    assert shell.returncode == 143, talk
    assert "start the same command again" in talk
    assert in_phase_one(tmp_path)
