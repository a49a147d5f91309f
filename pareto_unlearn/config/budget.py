"""Turns a budget of steps into the steps of the path, or of every trial where each starts from the original.

The path's scan, the lowest boundary and the steps of ``hold`` are paid first. Baselines and the trial that
resists relearning are not part of a front and not counted.
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
"""Numbers of steps, by the path of the key that holds each."""


def count_front_steps(config: SweepConfig, slots: int | None) -> int:
    """Return the number of steps that one seed's front takes from start to end.

    With one slot, this is the number of its gradient pairs.

    Args:
        config: the resolved sweep.
        slots: number of trials that run at a time; None: no limit.
    """
    solver = config.solver
    highest, lowest = (solver.steps_of(Phase.BOUNDARY, role) for role in (Role.HIGHEST, Role.LOWEST))
    if solver.start == "path":
        highest += len(solver.path.scan) * solver.path.scan_steps
    first = highest + lowest if slots == 1 else max(highest, lowest)
    return first + _count_turns(config, slots) * solver.steps_of(Phase.EPSILON, None)


def known_slots(run: RunSection) -> int | None:
    """Return how many trials run at a time; None where only the cluster knows that."""
    return 1 if run.executor == "local" else run.max_concurrent


def spend_budget(config: SweepConfig, document: Document) -> SweepConfig:
    """Return the sweep with its budget replaced by the steps that it buys; unchanged without a budget.

    Args:
        config: the sweep that was read from the document.
        document: shows which numbers of steps are written out, and where.

    Raises:
        ConfigError: steps are given beside the budget, the slots are not known, or the budget is too small.
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
        text = (
            "expected run.max_concurrent, the number of trials at a time, beside it, found nothing (null); "
            "set run.max_concurrent, or give total_steps"
        )
        raise join_problems([FileProblem(document.place_of(path), path, text)])
    steps = _share_out(config, size, slots)
    if not _is_enough(config, steps):
        raise join_problems([FileProblem(document.place_of(path), path, _too_small(config, size, slots))])
    data = _replaced(document.data, ("solver", "budget"), {})
    for keys, count in steps.items():
        data = _replaced(data, keys, count)
    return SweepConfig.model_validate(data)


def _share_out(config: SweepConfig, size: int, slots: int) -> Steps:
    """Return the steps that ``size`` steps of each slot buy; a larger budget never buys fewer of any kind."""
    if config.solver.start == "original":
        turns = math.ceil(2 / slots) + _count_turns(config, slots)
        return {("solver", "steps"): size // turns}
    section, lowest = config.solver.path, config.solver.steps_of(Phase.BOUNDARY, Role.LOWEST)
    paid = _count_turns(config, slots) * config.solver.hold.steps + (lowest if slots == 1 else 0)
    return {("solver", "path", "steps"): _longest_path(section, size - paid)}


def _longest_path(section: PathSection, limit: float) -> int:
    """Return the largest number of steps of a path that fits a limit with its scan; 0 if no path does."""
    scans = len(section.scan)
    most = int(limit / (1.0 + scans * section.scan_length)) + scans + 1
    costs = ((steps, steps + scans * section.scan_steps_of(steps)) for steps in range(most, 0, -1))
    return next((steps for steps, cost in costs if cost <= limit), 0)


def _count_turns(config: SweepConfig, slots: int | None) -> int:
    """Return the largest number of epsilons that one slot solves, one after another."""
    return sum(1 if slots is None else math.ceil(count / slots) for count in config.epsilon.rounds)


def _least_steps(config: SweepConfig) -> Steps:
    """Return the fewest steps that make sense.

    A path must be long enough to average its weights, and a solve for its averages to forget their start.
    """
    solver = config.solver
    solve = round(1.0 / (1.0 - solver.average))
    if solver.start == "original":
        return {("solver", "steps"): solve}
    path = max(math.ceil(1.0 / solver.path.average), FEWEST_CHECKPOINTS)
    return {("solver", "path", "steps"): path}


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
    """Return the smallest positive number that fits; all larger numbers must fit too."""
    low, high = 0, 1
    while not fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _steps_beside(config: SweepConfig, document: Document, budget: str) -> list[FileProblem]:
    """Return a problem for every number of steps that the document gives but the budget decides."""
    keys: list[KeyPath] = [("solver", "path", "steps")]
    if config.solver.start == "original":
        keys.append(("solver", "steps"))
    given = {key: _value_at(document.data, key) for key in keys}
    return [
        FileProblem(
            document.place_of(key),
            key,
            f"expected nothing beside {budget}, which decides {dotted(key)}, found {found(value)}; remove "
            "one of them",
        )
        for key, value in given.items()
        if value is not None
    ]


def _value_at(section: object, keys: KeyPath) -> object:
    for key in keys:
        section = section.get(key) if isinstance(section, dict) else None
    return section


def _replaced(section: object, keys: KeyPath, value: object) -> dict[str | int, object]:
    """Return a copy of nested sections with one value replaced; missing sections are created."""
    copy = dict(section) if isinstance(section, dict) else {}
    copy[keys[0]] = value if len(keys) == 1 else _replaced(copy.get(keys[0]), keys[1:], value)
    return copy
