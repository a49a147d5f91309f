"""What a trial keeps while it runs, and the files from which another process goes on."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from pareto_unlearn.records import BankEntry, ScanRow
from pareto_unlearn.solver import EpsilonSolver, StepRow
from pareto_unlearn.stored_fields import read_fields
from pareto_unlearn.trial.problem import Problem

CONSTRAINT = "constraint."
"""Prefix of the constraint's own tensors in a state."""


@dataclass(slots=True)
class History:
    """Steps taken and, of a path, its scan and checkpoints so far, over all resumes.

    ``measured_images`` are those that the trial was measured on; None if an older release did not count them.
    """

    rows: list[StepRow] = field(default_factory=list)
    seconds: float = 0.0
    bank: list[BankEntry] = field(default_factory=list)
    scan: list[ScanRow] = field(default_factory=list)
    measured_images: int | None = 0


LARGEST_SHARE = 0.02
"""Of a solve's seconds, what saving states may take where it goes by time."""
LEAST_SECONDS = 5.0
"""Between two states that are saved by time: losing less is not worth a write."""
ASSUMED_BYTES_PER_SECOND = 200e6
"""Of a state's first saving, whose time is not known yet; packing, hashing and writing."""


@dataclass(slots=True)
class StateClock:
    """Tells when a state is due: after some steps, or by time, so that saving keeps to its share.

    Args:
        every: steps between two states; None for by time.
        state_bytes: size of a state.
        now: returns seconds.
    """

    every: int | None
    state_bytes: int
    now: Callable[[], float] = time.monotonic
    spent: float = field(default=0.0, init=False)
    _expected: float = field(init=False)
    _started: float = field(init=False)
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._expected = self.state_bytes / ASSUMED_BYTES_PER_SECOND
        self._started = self._last = self.now()

    def is_due(self, step: int, taken: int) -> bool:
        """Tell whether a state is due after ``step`` steps, ``taken`` of them since the last question."""
        if self.every is not None:
            return step % self.every < taken
        now = self.now()
        within_share = self.spent + self._expected <= LARGEST_SHARE * (now - self._started)
        return within_share and now - self._last >= LEAST_SECONDS

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure what is done inside the block: the saving of a state."""
        started = self.now()
        yield
        self._last = self.now()
        self._expected = self._last - started
        self.spent += self._expected


def pack_state_files(solver: EpsilonSolver, problem: Problem, history: History) -> dict[str, bytes]:
    """Return the files of the state a solve has reached."""
    rows = {
        "rows": [list(row) for row in history.rows],
        "seconds": history.seconds,
        "bank": [asdict(entry) for entry in history.bank],
        "scan": [asdict(row) for row in history.scan],
        "measured_images": history.measured_images,
    }
    state = solver.state_dict() | {CONSTRAINT + name: tensor for name, tensor in problem.state.items()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {"solver.safetensors": save_safetensors(state), "history.json": json.dumps(rows).encode()}


def state_clock(every: int | None, solver: EpsilonSolver, problem: Problem) -> StateClock:
    """Return the clock of a solve's states; it starts now."""
    tensors = (*solver.state_dict().values(), *problem.state.values())
    return StateClock(every, sum(tensor.nbytes for tensor in tensors))


def unpack_history(files: Mapping[str, bytes]) -> History:
    """Return the steps the stopping rule has already seen, and what a path had found by then."""
    history = json.loads(files["history.json"])
    return History(
        [StepRow(*row) for row in history["rows"]],
        history["seconds"],
        [read_fields(BankEntry, entry) for entry in history["bank"]],
        [read_fields(ScanRow, row) for row in history["scan"]],
        history.get("measured_images"),
    )


def restore(files: Mapping[str, bytes], problem: Problem, solver: EpsilonSolver) -> None:
    """Put weights, optimiser and the constraint's running state of a kept state in place."""
    state = load_safetensors(files["solver.safetensors"])
    for name, tensor in problem.state.items():
        tensor.copy_(state.pop(CONSTRAINT + name))
    solver.load_state_dict(state)
