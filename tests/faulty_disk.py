"""A disk whose n-th changing call fails, is cut short or ends the process, as in SQLite's tests.

``faulty_disk.c`` stands before libc, so that writes of torch, safetensors and NumPy count like Python's own.
"""

import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHORT, KILL = -1, -2


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th call; ``lasting``: and at all later ones, as on a disk that is full."""

    name: str
    what: int
    lasting: bool = False


FAULTS = (
    Fault("full disk", errno.ENOSPC, lasting=True),
    Fault("one bad sector", errno.EIO),
    Fault("short write", SHORT),
    Fault("killed", KILL),
)


@dataclass(frozen=True)
class Ended:
    """How a verb ended, and how many calls changed files below the folder."""

    code: int
    out: str
    err: str
    calls: int


class FaultyDisk:
    """Runs verbs on a disk with faults; the process that does so is started once."""

    def __init__(self, folder: Path) -> None:
        library = folder / "faulty_disk.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faulty_disk.c", "-ldl"], check=True
        )
        with (folder / "server.txt").open("w") as said:
            self._server = subprocess.Popen(
                [sys.executable, HERE / "faulty_server.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": f"{HERE}:{HERE.parent}"},
                text=True,
            )

    def call(self, folder: Path, arguments: list[Any], nth: int = 0, fault: Fault = FAULTS[0]) -> Ended:
        """Run a verb in a folder, whose n-th call below it meets the fault; 0: none does."""
        order = {"folder": str(folder), "arguments": [str(one) for one in arguments], "nth": nth}
        order |= {"what": fault.what, "lasting": int(fault.lasting)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._server.communicate()
