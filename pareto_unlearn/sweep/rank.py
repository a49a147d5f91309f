"""A rank of a trial but the first, as a process: ``python -m pareto_unlearn.sweep.rank``.

Its task comes as a line of JSON on standard input, which stays open for as long as the trial's worker lives.
It reads no store and writes nothing.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from pareto_unlearn.sweep.worker import Assignment, read_config


def main() -> None:
    """Solve a trial together with its worker, and end with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # for the worker, with which this process ends
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_worker, daemon=True).start()
    _solve(Assignment.from_plain(task["assignment"]), task)


def _solve(assignment: Assignment, task: dict[str, Any]) -> None:
    from pareto_unlearn.trial import Hooks, Trial, joined_ranks, load_material, run_trial  # imports torch

    config = read_config(assignment)
    size, on_gpu = config.run.ranks, config.run.gpus_per_trial > 0
    with joined_ranks(task["rank"], size, Path(task["folder"]), on_gpu=on_gpu) as ranks:
        ranks.wait()
        cache = Path(task["cache"])
        material = load_material(config, cache, assignment.targets_key, ranks=ranks)
        run_trial(Trial(config, assignment.spec, material), Hooks(), assignment.code_version)


def _end_with_worker() -> None:
    """Wait for the end of standard input, which comes when the worker is gone."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
