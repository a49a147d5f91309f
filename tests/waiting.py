"""Waiting for what another process does: for a state, not for a number of seconds."""

import subprocess
import time
from collections.abc import Callable

STALLED_AFTER = 1200.0
"""Seconds after which a wait has stalled: far more than anything here takes on a loaded machine."""


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until the condition holds, which a process may bring about.

    Raises:
        AssertionError: the process has ended without it, or nothing happened for ``STALLED_AFTER`` seconds.
    """
    deadline = time.monotonic() + STALLED_AFTER
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended before the moment came: {process.communicate()}")
        assert time.monotonic() < deadline, f"stalled: waited {STALLED_AFTER:g} seconds for {condition}"
        time.sleep(0.02)


def run_process(command: list[object], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it printed and its exit code."""
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=STALLED_AFTER, **options)
