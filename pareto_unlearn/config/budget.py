"""What a budget of steps buys: a third for the path, the rest shared evenly by the branches.

Measured on the digits, nine epsilons, as the hypervolume of one front: of 2,400 steps in all, a path of 300 gave 0.759, 600
0.793, 800 0.809 and 1,200 0.808; of 800 steps from start to end on two slots, a path of 300 gave 0.857 and 450 gave 0.833.

The path's scan and the lowest boundary are paid first, since neither makes a point of the front: the third is one of what
they leave. Baselines are not part of a front and not counted.
"""

import math
from collections.abc import Callable, Mapping

from pareto_unlearn.config.schema import RunSection, SweepConfig
from pareto_unlearn.config.solver_section import PathSection
from pareto_unlearn.config.wording import KeyPath, dotted, found
from pareto_unlearn.config.yaml_source import Document, FileProblem, join_problems
from pareto_unlearn.records import Phase, Role

FEWEST_CHECKPOINTS = 3

Steps = Mapping[KeyPath, int]
"""Numbers of steps by the keys that hold them."""


def count_front_steps(config: SweepConfig, slots: int | None) -> int:
    """Return the steps from start to end of one seed's front; with one slot, those are its gradient pairs.

    Args:
        config: the sweep, resolved.
        slots: trials that run at a time; None: as many as there are.
    """
    solver = config.solver
    highest, lowest = (solver.steps_of(Phase.BOUNDARY, role) for role in (Role.HIGHEST, Role.LOWEST))
    if solver.start == "path":
        highest += len(solver.path.scan) * solver.path.scan_steps
    first = highest + lowest if slots == 1 else max(highest, lowest)
    return first + _count_turns(config, slots) * solver.steps_of(Phase.EPSILON, None)


def known_slots(run: RunSection) -> int | None:
    """Return how many trials run at a time; None where only the cluster knows."""
    return 1 if run.executor == "local" else run.max_concurrent


def spend_budget(config: SweepConfig, document: Document) -> SweepConfig:
    """Return the sweep with the steps its budget buys in the budget's place; without a budget, as it is.

    Args:
        config: what the document says.
        document: tells which steps are written out, and where.

    Raises:
        ConfigError: steps are given beside the budget, it needs to know the slots, or it is too small.
    """
    budget = config.solver.budget
    key = "total_steps" if budget.total_steps is not None else "wall_steps"
    size, path = getattr(budget, key), ("solver", "budget", key)
    if size is None:
        return config
    slots = 1 if key == "total_steps" else known_slots(config.run)
    beside = _steps_beside(config, document, dotted(path))
    if beside:
        raise join_problems(beside)
    if slots is None:
        text = "expected run.max_concurrent, the number of trials at a time, beside it, found nothing (null); set it, or give total_steps"
        raise join_problems([FileProblem(document.place_of(path), path, text)])
    steps = _share_out(config, size, slots)
    if not _is_enough(config, steps):
        raise join_problems([FileProblem(document.place_of(path), path, _too_small(config, size, slots))])
    data = _replaced(document.data, ("solver", "budget"), {})
    for keys, count in steps.items():
        data = _replaced(data, keys, count)
    return SweepConfig.model_validate(data)


def _share_out(config: SweepConfig, size: int, slots: int) -> Steps:
    """Return the steps that a budget of one slot after another buys; more of it never buys less of any."""
    if config.solver.start == "original":
        turns = math.ceil(2 / slots) + _count_turns(config, slots)
        return {("solver", "steps"): size // turns}
    section, lowest = config.solver.path, config.solver.steps_of(Phase.BOUNDARY, Role.LOWEST)
    scan = len(section.scan) * section.scan_length
    left = size - lowest if slots == 1 else size
    first = left * (1.0 + scan) / (3.0 + scan)
    if slots > 1:
        first = max(first, float(lowest))  # Phase I lasts that long anyway, so the path may use it
    branch = math.floor((left - first) / _count_turns(config, slots))
    return {("solver", "path", "steps"): _longest_path(section, first), ("solver", "branch", "steps"): branch}


def _longest_path(section: PathSection, limit: float) -> int:
    """Return the most steps of a path that takes no more than a limit with its scan; 0 where none does."""
    scans = len(section.scan)
    most = int(limit / (1.0 + scans * section.scan_length)) + scans + 1
    costs = ((steps, steps + scans * section.scan_steps_of(steps)) for steps in range(most, 0, -1))
    return next((steps for steps, cost in costs if cost <= limit), 0)


def _count_turns(config: SweepConfig, slots: int | None) -> int:
    """Return how many epsilons one slot solves, one after another, at most."""
    return sum(1 if slots is None else math.ceil(count / slots) for count in config.epsilon.rounds)


def _least_steps(config: SweepConfig) -> Steps:
    """Return the fewest steps that make sense: a path's weights are averaged, and a solve's averages forget their start."""
    solver = config.solver
    solve = round(1.0 / (1.0 - solver.average))
    if solver.start == "original":
        return {("solver", "steps"): solve}
    path = max(math.ceil(1.0 / solver.path.average), FEWEST_CHECKPOINTS)
    return {("solver", "path", "steps"): path, ("solver", "branch", "steps"): solve}


def _is_enough(config: SweepConfig, steps: Steps) -> bool:
    return all(steps[key] >= least for key, least in _least_steps(config).items())


def _too_small(config: SweepConfig, size: int, slots: int) -> str:
    least = _least(lambda larger: _is_enough(config, _share_out(config, larger, slots)))
    needs = " and ".join(f"{dotted(key)} {count}" for key, count in _least_steps(config).items())
    points = sum(config.epsilon.rounds)
    text = (
        f"expected at least {least}, found {found(size)}: with {points} epsilons it must buy at least {needs}"
    )
    if config.solver.start == "original":
        return text
    lowest = config.solver.steps_of(Phase.BOUNDARY, Role.LOWEST)
    return f"{text}, beside the path's scan and the lowest boundary, which takes {lowest} (solver.steps)"


def _least(fits: Callable[[int], bool]) -> int:
    """Return the smallest positive number that fits; all larger ones must fit too."""
    low, high = 0, 1
    while not fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _steps_beside(config: SweepConfig, document: Document, budget: str) -> list[FileProblem]:
    """Return a problem for every number of steps that the document gives although the budget decides it."""
    keys: list[KeyPath] = [("solver", "path", "steps"), ("solver", "branch", "steps")]
    if config.solver.start == "original":
        keys.append(("solver", "steps"))
    given = {key: _value_at(document.data, key) for key in keys}
    return [
        FileProblem(
            document.place_of(key),
            key,
            f"expected nothing beside {budget}, which decides {dotted(key)}, found {found(value)}; remove one of them",
        )
        for key, value in given.items()
        if value is not None
    ]


def _value_at(section: object, keys: KeyPath) -> object:
    for key in keys:
        section = section.get(key) if isinstance(section, dict) else None
    return section


def _replaced(section: object, keys: KeyPath, value: object) -> dict[str | int, object]:
    """Return a copy of nested values with one of them replaced; missing sections are made."""
    copy = dict(section) if isinstance(section, dict) else {}
    copy[keys[0]] = value if len(keys) == 1 else _replaced(copy.get(keys[0]), keys[1:], value)
    return copy
