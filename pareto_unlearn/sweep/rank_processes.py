"""The processes of a trial that is solved by several ranks: started by its worker, on the same machine.

A rank gets its assignment through a pipe and ends when the pipe does, however its worker ended. A rank that
dies first ends the trial with ``RankLostError``: no row, and another try.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_unlearn.config import RunSection
from pareto_unlearn.errors import MachineError, RankLostError
from pareto_unlearn.records import Phase, TrialSpec
from pareto_unlearn.sweep.losses import RANK_LOST

if TYPE_CHECKING:
    from pareto_unlearn.trial import Ranks

UNSHARED = (Phase.ORIGINAL, Phase.CONTROL)
"""Trials without a solve: one process measures the original, or trains a control from scratch."""
LOOK_SECONDS = 0.05
NOTICE_SECONDS = 5.0
"""Until the end of a process is seen by its parent, after a call of the others failed for it."""
STUCK_SECONDS = 30.0
"""Until a worker that does not notice the death of a rank is taken to wait for it on its GPU for ever."""


@contextmanager
def started_ranks(
    assignment: Mapping[str, Any], section: RunSection, spec: TrialSpec, cache: Path
) -> Iterator["Ranks"]:
    """Start the other ranks of a trial and join them as rank 0; they have ended afterwards.

    Args:
        assignment: of the trial, in plain values.
        section: says how many ranks there are.
        spec: the trial; trials without a solve have one rank.
        cache: folder of the run's memory-mapped files on this machine.

    Raises:
        RankLostError: a rank died before the trial was solved.
    """
    from pareto_unlearn.trial import ALONE, joined_ranks  # imports torch

    if section.ranks == 1 or spec.phase in UNSHARED:
        yield ALONE
        return
    with tempfile.TemporaryDirectory(prefix="pareto-unlearn-ranks-", ignore_cleanup_errors=True) as folder:
        others: list[subprocess.Popen[bytes]] = []
        is_over = threading.Event()
        try:
            for rank in range(1, section.ranks):
                task = {"assignment": assignment, "cache": str(cache), "rank": rank, "folder": folder}
                others.append(_start(task, Path(folder)))
            if section.gpus_per_trial > 0:
                threading.Thread(target=_end_if_stuck, args=(others, is_over), daemon=True).start()
            _await(others, Path(folder))
            with joined_ranks(0, section.ranks, Path(folder), on_gpu=section.gpus_per_trial > 0) as ranks:
                yield ranks
        except RuntimeError as error:
            if (lost := _find_lost(others, NOTICE_SECONDS)) is None:
                raise
            raise _explain(*lost, section.ranks, Path(folder)) from error
        finally:
            is_over.set()
            for other in others:
                _end(other)


def _start(task: Mapping[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    """Start a rank: a new interpreter with the same search path, in a session that no terminal signals."""
    search = [path for path in sys.path if path]
    with _log_of(folder, task["rank"]).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pareto_unlearn.sweep.rank"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        )
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # it died at once, which is noticed below
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
    return process


def _await(others: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait until all ranks are about to join: a meeting with one that died would last for days.

    Raises:
        RankLostError: one died.
    """
    from pareto_unlearn.trial import mark_of  # imports torch

    while not all(mark_of(folder, rank).exists() for rank in range(1, len(others) + 1)):
        if (lost := _find_lost(others, LOOK_SECONDS)) is not None:
            raise _explain(*lost, len(others) + 1, folder)


def _log_of(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.log"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    process.kill()
    process.wait()


def _find_lost(others: Sequence[subprocess.Popen[bytes]], patience: float = 0.0) -> tuple[int, int] | None:
    """Return rank and exit code of a rank that failed, None if none has within some seconds."""
    deadline = time.monotonic() + patience
    while True:
        for rank, process in enumerate(others, start=1):
            if process.poll() not in (None, 0):
                return rank, int(process.returncode)
        if time.monotonic() >= deadline:
            return None
        time.sleep(LOOK_SECONDS)


def _explain(rank: int, code: int, size: int, folder: Path) -> RankLostError:
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    lines = _log_of(folder, rank).read_text(errors="replace").strip().splitlines()
    last = f"; its last words: {lines[-1][:200]}" if lines else ""
    return RankLostError(f"{RANK_LOST}: number {rank} of {size} ended {how}{last}")


def _end_if_stuck(others: Sequence[subprocess.Popen[bytes]], is_over: threading.Event) -> None:
    """End this process if a rank died and nobody noticed: calls between GPUs wait for a dead one for ever."""
    while not is_over.wait(1.0):
        if _find_lost(others) is not None:
            if not is_over.wait(STUCK_SECONDS):
                sys.stderr.write(f"{RANK_LOST}, and this process waits for it: it ends too\n")
                os._exit(MachineError.exit_code)
            return
