"""The bank: checkpoints of a path or of a rival's course, taken and measured while it goes on."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from pareto_unlearn.catalogue.methods import is_course
from pareto_unlearn.config import BankSection, SweepConfig
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.records import BankEntry
from pareto_unlearn.solver import EpsilonSolver, FlatParameters, prune

SCAN_FILE = "scan.json"
FEWEST = 3
WAY_HOME = (0.15, 0.3, 0.5, 0.75)
"""Shares of the original in the mixtures that a bank ends with."""
VALUES = "values"
"""The one tensor of a checkpoint's file: the averaged weights of the trained parameters, as one vector."""


class Costs(NamedTuple):
    """Raw f1, f2, and f1 of what epsilon bounds (the mean, or the worst class)."""

    f1: float
    f2: float
    level: float


def predict_bank_state_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Return the size of one checkpoint, but for a header of a few hundred bytes."""
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def count_checkpoints(section: BankSection, parameters: Sequence[nn.Parameter]) -> int:
    """Return how many checkpoints a path takes: at most ``bank.checkpoints``, in ``bank.max_bytes``.

    Raises:
        ConfigError: fewer than three fit.
    """
    return count_fitting(section, predict_bank_state_bytes(parameters))


def count_fitting(section: BankSection, size: int) -> int:
    """Return how many checkpoints of ``size`` bytes a path takes; see ``count_checkpoints``."""
    fits = section.max_bytes // size
    if fits < FEWEST:
        raise ConfigError(
            f"solver.bank.max_bytes: found {section.max_bytes}, but one checkpoint of the path takes {size} "
            f"bytes and {FEWEST} are the fewest to mix epsilons from: allow {FEWEST * size} or more, or set "
            "solver.start: original"
        )
    return min(section.checkpoints, fits)


def check_bank(config: SweepConfig, model: ImageToImage) -> None:
    """Refuse a path, or a course of a rival, whose checkpoints do not fit into ``solver.bank.max_bytes``.

    Raises:
        ConfigError: names the size of a checkpoint and the bytes allowed.
    """
    if config.solver.start == "path" or any(is_course(one.method) for one in config.baselines):
        shared = config.objective.shared_parameters == "trained"
        count_checkpoints(config.solver.bank, model.trainable(config.objective.space, shared=shared))


@dataclass(slots=True)
class BankKeeper:
    """Takes the checkpoints of a path at the planned steps.

    Args:
        is_due: tells after a number of steps whether to take a checkpoint.
        measure: costs of the model as it stands.
        save: keeps the file of a checkpoint, by step.
        raw_epsilon: raw epsilon after a number of steps; after the last, that of the last. None without one.
        learning_rate: of the path.
        entries: those taken so far.
    """

    is_due: Callable[[int], bool]
    measure: Callable[[], Costs]
    save: Callable[[int, bytes], None]
    raw_epsilon: Callable[[int], float | None]
    learning_rate: float
    entries: list[BankEntry] = field(default_factory=list)

    def take(self, solver: EpsilonSolver) -> None:
        """Take a checkpoint if one is due; the model's weights are as before afterwards."""
        step = solver.step_count
        if not self.is_due(step) or any(entry.step >= step for entry in self.entries):
            return
        self._keep(step, averaged_values(solver), measure_averaged(solver, self.measure))

    def extend_towards(self, original: Float[Tensor, " p"], solver: EpsilonSolver) -> None:
        """Add mixtures of the last weights and the original's, for as long as their f2 falls.

        A path may end well below the original; where the way home is free of a hump, epsilons on it are as
        good as others. The mixtures count as checkpoints of the steps after the last. The model holds the
        last of them afterwards.
        """
        last = self.entries[-1] if self.entries else None
        if last is None or last.step != solver.step_count:
            return
        values, f2 = averaged_values(solver), last.f2
        for place, share in enumerate(WAY_HOME, start=1):
            mixed = values.lerp(original, share)
            solver.flat.load(mixed)
            costs = self.measure()
            if not costs.f2 < f2:
                return
            self._keep(last.step + place, mixed, costs)
            f2 = costs.f2

    def add(self, models: Iterable[Float[Tensor, " p"]], flat: FlatParameters, after: int) -> None:
        """Add models that the solve did not pass; they count as checkpoints of the steps after ``after``.

        Args:
            models: flat weights.
            flat: the model's parameters; they hold the last of the models afterwards.
            after: a number of steps.
        """
        for place, values in enumerate(models, start=1):
            flat.load(values)
            self._keep(after + place, values, self.measure())

    def _keep(self, step: int, values: Float[Tensor, " p"], costs: Costs) -> None:
        content = pack_values(values)
        self.save(step, content)
        self.entries.append(
            BankEntry(
                step=step,
                epsilon=self.raw_epsilon(step),
                f1=costs.f1,
                f2=costs.f2,
                level=costs.level,
                learning_rate=self.learning_rate,
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )

    def listing(self) -> bytes:
        """Return the file of a committed path: its non-dominated checkpoints by rising level, as JSON."""
        return json.dumps([asdict(entry) for entry in prune(self.entries)], indent=1).encode()

    @property
    def lowest_level(self) -> float:
        """The lowest level of a checkpoint, NaN if none is finite."""
        return min((entry.level for entry in prune(self.entries)), default=math.nan)

    def choose_end(self, limit: float) -> BankEntry | None:
        """Return the checkpoint that stands for the highest boundary; None if none is finite.

        It is the one with the smallest f2 whose raw level is at most the limit, or of none the lowest level:
        of all checkpoints that have arrived at the floor, the one that was trained there longest.
        """
        kept = prune(self.entries)
        arrived = [entry for entry in kept if entry.level <= limit]
        return arrived[-1] if arrived else next(iter(kept), None)


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


def pack_values(values: Float[Tensor, " p"]) -> bytes:
    """Return the file of one checkpoint."""
    return save_safetensors({VALUES: values.detach().cpu().contiguous()})


def unpack_values(content: bytes) -> Float[Tensor, " p"]:
    """Return the weights in the file of one checkpoint, on the CPU."""
    return load_safetensors(content)[VALUES]


def spread_rows(count: int, limit: int) -> Int[Tensor, " n"]:
    """Return at most ``limit`` row numbers, evenly spread over ``count`` rows."""
    return torch.linspace(0, count - 1, min(count, limit)).round().long()
