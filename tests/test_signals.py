"""How a sweep takes signals."""

import signal

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
