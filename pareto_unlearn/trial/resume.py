"""What a trial keeps while it runs, and the files from which another process goes on."""

import json
from collections.abc import Mapping
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
