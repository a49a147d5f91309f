"""Sweeps on Ray, each started as a user starts it: a command in a session of its own, with its Ray."""

import os
import re
import signal
import socket
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


def raylets_of(node: Process) -> list[int]:
    """Return pids of the raylets in the session of a node: one, or none if it does not run now."""
    return [pid for pid, title in members_of(node.pid).items() if b"/raylet/raylet " in title]


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


SOON = (
    "RAY_health_check_initial_delay_ms=2000",
    "RAY_health_check_period_ms=1000",
    "RAY_health_check_failure_threshold=3",
)
"""Lets a head know of a lost node after seconds, not a quarter of a minute."""


def ray_start(*arguments: str) -> list[str]:
    """Return the command of a node that lives until its session is killed.

    No log is read and no autoscaler asked: each would be a process more beside those that must be up within
    fifteen seconds.
    """
    with socket.create_server(("", 0)) as server:
        free = server.getsockname()[1]
    return [
        str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats",
        "--object-store-memory=80000000", f"--dashboard-agent-listen-port={free}", "--min-worker-port=0",
        "--max-worker-port=0", "--include-log-monitor=false", *arguments,
    ]  # fmt: skip


class Nodes:
    """A head without a place for trials, and nodes with a place each, two unless told otherwise."""

    def __init__(self, start: Start, count: int = 2) -> None:
        self._start = start
        tries = (self._try_head() for _ in range(TRIES))
        self.address = next((address for address in tries if address), "")
        assert self.address, f"stalled: no head of Ray came up in {TRIES} tries"
        self.nodes = [self.join() for _ in range(count)]

    def _try_head(self) -> str | None:
        """Start a head and return its address; None if it gave up, as Ray does after 30 s under load."""
        options = ("--head", "--port=0", "--num-cpus=0", "--include-dashboard=false", "--no-monitor")
        command = ray_start(*options)
        head = self._start("env", *SOON, *command)
        found = (re.search(r"--address='(\S+)'", line) for line in head.stdout)
        return next((match[1] for match in found if match), None)

    def join(self, *arguments: str, **environment: str) -> Process:
        """Start another node, of one CPU unless told otherwise; put it among ``nodes`` to have it mended."""
        command = ray_start(f"--address={self.address}", *(arguments or ("--num-cpus=1",)))
        return self._start("env", *(f"{name}={value}" for name, value in environment.items()), *command)

    def join_surely(self, *arguments: str, **environment: str) -> Process:
        """Return another node once it has joined; one that gave up, as happens under load, is tried again."""
        for _ in range(TRIES):
            node = self.join(*arguments, **environment)
            if any("Ray runtime started" in line for line in node.stdout):
                return node
            end_session(node)
        raise AssertionError(f"stalled: no node joined in {TRIES} tries")

    def replace(self, place: int) -> None:
        """Kill all processes of a node at once, and let another join."""
        end_session(self.nodes[place])
        self.nodes[place] = self.join()

    def lose_raylet(self, place: int) -> None:
        """Kill the raylet of a node alone, and let another join; its workers notice by themselves."""
        for pid in raylets_of(self.nodes[place]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[place] = self.join()

    def up(self) -> list[int]:
        """Return the places of the nodes whose raylet runs."""
        return [place for place, node in enumerate(self.nodes) if raylets_of(node)]

    def mend(self) -> None:
        """Replace nodes that ended by themselves, as Ray's do on a machine that is too slow for them."""
        for place, node in enumerate(self.nodes):
            if node.poll() is not None:
                self.replace(place)

    def workers(self) -> list[int]:
        """Return the processes that solve trials."""
        return [pid for node in self.nodes for pid in workers_of(node.pid)]
