"""Sweeps on Ray, each started as a user starts it: a command in a session of its own, with its Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from small_sweep import QUICKSTART, SMALL
from waiting import run_process, wait_until

Process = subprocess.Popen[str]
Start = Callable[..., Process]

RAY_GAVE_UP = "The current node timed out during startup"
"""What Ray says 30 seconds after its start, a deadline nobody can set: under load, another try may help."""
TRIES = 10
TRIALS_OF_A_POOL = (b"ray::Phase I", b"ray::original", b"ray::baseline")
"""How the title of a process begins that solves a trial in a pool: with the name of the task."""


def sweep_command(storage: Path, *overrides: str) -> list[str]:
    arguments = [argument for override in overrides for argument in ("-o", override)]
    return [
        sys.executable,
        "-m",
        "pareto_unlearn",
        "sweep",
        str(QUICKSTART),
        "-o",
        f"run.storage={storage}",
        *arguments,
    ]


def committed(storage: Path) -> dict[str, int]:
    """Committed trial parts and when each was written."""
    return {
        part.name: part.stat().st_mtime_ns
        for part in (storage / "quickstart" / "trials").glob("part-*.parquet")
    }


@contextmanager
def sessions() -> Iterator[Start]:
    """Give what starts commands in sessions of their own; what is left of these is killed in the end."""
    started: list[Process] = []

    def begin(*command: str) -> Process:
        started.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        )
        return started[-1]

    try:
        yield begin
    finally:
        for process in started:
            end_session(process)
            process.stdout.close()
            process.stderr.close()


def members_of(driver: int) -> dict[int, bytes]:
    """Return pids and titles of what lives in a driver's session: itself, and all of its Ray."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            same_session = os.getsid(int(entry.name)) == driver
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except (ProcessLookupError, FileNotFoundError):
            continue
        if same_session and title:  # that of a zombie is empty
            found[int(entry.name)] = title
    return found


def is_worker(title: bytes) -> bool:
    """Return whether a process of this title solves and commits trials."""
    return title.startswith((b"ray::SweepTrial", *TRIALS_OF_A_POOL))


def workers_of(driver: int) -> list[int]:
    """Return pids of the processes that solve and commit trials of a driver."""
    return [pid for pid, title in members_of(driver).items() if is_worker(title)]


def end_session(process: Process) -> None:
    """Kill all that is left of a driver's session, by pid: Ray outlives its driver by a minute."""
    while left := members_of(process.pid):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    if process.poll() is None:
        process.communicate()


def in_phase_one(storage: Path) -> bool:
    """A boundary trial has kept a resume state and none is committed."""
    checkpoints = storage / "quickstart" / "checkpoints"
    return any(checkpoints.glob("*/.resume-*/MANIFEST.json"))


def between_the_phases(storage: Path) -> bool:
    """Both boundary trials are committed."""
    return len(committed(storage)) >= 2


def in_phase_two(storage: Path) -> bool:
    """Some epsilon trial is committed beside boundaries."""
    return len(committed(storage)) >= 4


def start_until(moment: Callable[[Path], bool], start: Start, storage: Path, *overrides: str) -> Process:
    """Start a small sweep and return its driver at that moment."""
    for _ in range(TRIES):
        process = start(*sweep_command(storage, *SMALL, *overrides))
        try:
            wait_until(lambda: moment(storage), process)
        except AssertionError as error:
            if RAY_GAVE_UP not in str(error):
                raise
        else:
            return process
    raise AssertionError(f"stalled: Ray did not start in {TRIES} tries")


def run_to_the_end(storage: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep on Ray and return what it said."""
    for _ in range(TRIES):
        done = run_process(sweep_command(storage, *overrides))
        if RAY_GAVE_UP not in done.stderr:
            break
    return done
