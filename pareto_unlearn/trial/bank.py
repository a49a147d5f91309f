"""The bank: checkpoints of the path, taken and measured while it goes on, and the way to start from one."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Int
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from pareto_unlearn.config import BankSection, SweepConfig
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.records import BankEntry
from pareto_unlearn.solver import EpsilonSolver, prune

SCAN_FILE = "scan.json"
CONSTRAINT = "constraint."
"""Prefix of the constraint's own tensors in a state."""
KEPT = ("values", "first_moment", "second_moment")
"""What a checkpoint holds of the solver, each as long as the parameters; the values are the averaged ones."""

FEWEST = 3

Costs = tuple[float, float]


def predict_bank_state_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Return the size of one checkpoint, but for a header of a few hundred bytes."""
    return len(KEPT) * sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def count_checkpoints(section: BankSection, parameters: Sequence[nn.Parameter]) -> int:
    """Return how many checkpoints a path takes: at most ``bank.checkpoints``, in ``bank.max_bytes``.

    Raises:
        ConfigError: fewer than three fit.
    """
    size = predict_bank_state_bytes(parameters)
    fits = section.max_bytes // size
    if fits < FEWEST:
        raise ConfigError(
            f"solver.bank.max_bytes: found {section.max_bytes}, but one checkpoint of the path takes {size} "
            f"bytes and {FEWEST} are the fewest to branch off from: allow {FEWEST * size} or more, or set "
            "solver.start: original"
        )
    return min(section.checkpoints, fits)


def check_bank(config: SweepConfig, model: ImageToImage) -> None:
    """Refuse a path whose checkpoints would not fit into ``solver.bank.max_bytes``.

    Raises:
        ConfigError: names the size of a checkpoint and the bytes allowed.
    """
    if config.solver.start == "path":
        shared = config.objective.shared_parameters == "trained"
        count_checkpoints(config.solver.bank, model.trainable(config.objective.space, shared=shared))


@dataclass(slots=True)
class BankKeeper:
    """Takes the checkpoints of a path at the planned steps.

    Args:
        steps: after which to take a checkpoint.
        measure: raw f1 and f2 of the model as it stands.
        save: keeps the file of a checkpoint, by step.
        raw_epsilon: raw epsilon after a number of steps.
        learning_rate: of the path.
        entries: those taken so far.
    """

    steps: Sequence[int]
    measure: Callable[[], Costs]
    save: Callable[[int, bytes], None]
    raw_epsilon: Callable[[int], float]
    learning_rate: float
    entries: list[BankEntry] = field(default_factory=list)

    def take(self, solver: EpsilonSolver, constraint_state: Mapping[str, Tensor]) -> None:
        """Take a checkpoint if one is planned for this step; the model's weights are as before afterwards."""
        step = solver.step_count
        if step not in self.steps or any(entry.step >= step for entry in self.entries):
            return
        f1, f2 = measure_averaged(solver, self.measure)
        content = pack_state({**solver.state_dict(), "values": averaged_values(solver)}, constraint_state)
        self.save(step, content)
        digest = hashlib.sha256(content).hexdigest()
        self.entries.append(
            BankEntry(
                step=step,
                epsilon=self.raw_epsilon(step),
                f1=f1,
                f2=f2,
                learning_rate=self.learning_rate,
                sha256=digest,
            )
        )

    def listing(self) -> bytes:
        """Return the file a path is committed with: its non-dominated checkpoints by rising f1, as JSON."""
        return json.dumps([asdict(entry) for entry in prune(self.entries)], indent=1).encode()


def averaged_values(solver: EpsilonSolver) -> Tensor:
    """Return the averaged weights, or the last ones of a solve too short to average over."""
    state = solver.state_dict()
    return state.get("averaged_values", state["values"]).clone()


def measure_averaged(solver: EpsilonSolver, measure: Callable[[], Costs]) -> Costs:
    """Return raw f1 and f2 of the averaged weights; the model's own are in place again afterwards."""
    own = solver.flat.values.clone()
    solver.flat.load(averaged_values(solver))
    costs = measure()
    solver.flat.load(own)
    return costs


def pack_state(state: Mapping[str, Tensor], constraint_state: Mapping[str, Tensor]) -> bytes:
    """Return the file of one checkpoint."""
    kept = {name: state[name] for name in (*KEPT, "updates")}
    kept |= {CONSTRAINT + name: tensor for name, tensor in constraint_state.items()}
    return save_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()})


def start_from(content: bytes, solver: EpsilonSolver, constraint_state: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's weights, moments and the constraint's running state in place.

    Raises:
        ValueError: it does not fit the solver.
    """
    state = load_safetensors(content)
    for name, tensor in constraint_state.items():
        found = state.get(CONSTRAINT + name)
        if found is None or found.shape != tensor.shape:
            shape = "none" if found is None else tuple(found.shape)
            raise ValueError(
                f"the checkpoint does not fit: expected {name} of {tuple(tensor.shape)}, found {shape}"
            )
    solver.warm_start(state)
    for name, tensor in constraint_state.items():
        tensor.copy_(state[CONSTRAINT + name])


def spread_rows(count: int, limit: int) -> Int[Tensor, " n"]:
    """Return at most ``limit`` row numbers, evenly spread over ``count`` rows."""
    return torch.linspace(0, count - 1, min(count, limit)).round().long()
