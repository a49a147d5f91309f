"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere; all on stderr."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pareto_unlearn.catalogue.methods import is_course
from pareto_unlearn.config import SweepConfig, count_front_steps, known_slots
from pareto_unlearn.config.wording import joined
from pareto_unlearn.records import (
    BROKEN,
    Phase,
    RunInfo,
    ScanProgress,
    ScanRow,
    TrialRecord,
    TrialSpec,
    TrialState,
    ValidRange,
    name_bounded,
)
from pareto_unlearn.sweep.additions import Additions
from pareto_unlearn.sweep.forecast import (
    Pace,
    Task,
    UnderWay,
    seconds_left,
    steps_of,
    task_of,
    tasks_of,
    weight_of,
)
from pareto_unlearn.sweep.progress_file import ProgressFile, RunningTrial, SweepProgress

STATE_STYLES = {
    "DONE": "green",
    "INFEASIBLE": "yellow",
    "UNCONVERGED": "yellow",
    "DIVERGED": "red",
    "FAILED": "red",
}


ONCE = "once a run"
"""How words end that tell of work which later trials find done."""
ESTIMATE_SECONDS = 5.0
"""For how long an estimate of the time left holds, less the time that passes."""


@dataclass(slots=True)
class _Running:
    """A trial that runs; ``marked`` is when the steps ``taken`` were reported, those of its scan included.

    ``heard`` is when the first news of it came, and ``since`` when it began with what it is ``doing``. What
    it took that no other trial will take is in ``apart``, in seconds.
    """

    spec: TrialSpec
    started: float
    step: int = 0
    f1: float | None = None
    f2: float | None = None
    halfway: bool = False
    scan: ScanProgress | None = None
    scans_said: int = 0
    doing: str = ""
    taken: int = 0
    marked: float | None = None
    heard: float | None = None
    since: float = 0.0
    apart: float = 0.0

    @property
    def label(self) -> str:
        """The trial's name and, while it scans, which step size it tries."""
        return self.spec.label if self.scan is None else f"{self.spec.label}: {_describe_scan(self.scan)}"


@dataclass(frozen=True, slots=True)
class _Estimate:
    """Seconds left, as known at a time; ``is_least`` while no trial has ended."""

    seconds: float
    made: float
    is_least: bool


class ProgressDisplay:
    """Follows a sweep as an ``Observer``; use it as a context manager around the executor.

    Args:
        console: where to print.
        total: trials of the sweep.
        committed: how many of them are committed already.
        config: the sweep.
        waiting: how many trials of each purpose are left; None for all.
        file: where to keep what is known for others; None for nowhere.
        work: how much a trial does besides its steps, in any unit.
        additions: of trials that are committed and only measured further; they are not counted as trials.
        clock: seconds from any start.
    """

    def __init__(
        self,
        console: Console,
        *,
        total: int,
        committed: int,
        config: SweepConfig,
        waiting: Mapping[Task, int] | None = None,
        file: ProgressFile | None = None,
        work: Callable[[Task], float] = lambda _: 1.0,
        additions: Additions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._total, self._config = console, total, config
        self._done, self._broken = committed, 0
        self._running: dict[str, _Running] = {}
        self._waiting = Counter(tasks_of(config) if waiting is None else waiting)
        self._pace, self._slots = Pace(config, work), known_slots(config.run) or 1
        self._estimate: _Estimate | None = None
        self._file, self._now = file, clock
        self._additions = Additions() if additions is None else additions
        self._said: set[str] = set()
        self._started = clock()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        self._keep(urgent=True)

    def say(self, text: str | Text) -> None:
        """Print one line above the live table."""
        say(self._console, text)

    def on_start(self, spec: TrialSpec) -> None:
        """A trial starts, or starts again after its process died."""
        if spec.trial_id not in (*self._running, *self._additions.asked):
            self._waiting[task_of(spec)] -= 1
        self._running[spec.trial_id] = _Running(spec, self._now())
        self._slots = max(self._slots, len(self._running))
        if not self._console.is_terminal:
            self._say_of(spec, f"{spec.label}: started")
        self._keep(urgent=True)

    def on_stage(self, spec: TrialSpec, doing: str) -> None:
        """A trial does something else than steps; what no trial did before is said once."""
        running = self._hear(spec)
        running.doing, running.since = doing, self._now()
        if doing not in self._said and not self._console.is_terminal:
            self._say_of(spec, f"{spec.label}: {doing}")
        self._said.add(doing)
        self._keep(urgent=False)

    def on_progress(self, spec: TrialSpec, step: int, f1: float, f2: float) -> None:
        """A trial took steps."""
        running, steps = self._hear(spec), self._config.steps_of(spec)
        running.step, running.f1, running.f2, running.scan = step, f1, f2, None
        self._count(running, steps_of(self._config, task_of(spec)) - steps + step)
        halfway = step >= steps // 2 and not running.halfway
        running.halfway |= halfway
        if not self._console.is_terminal and halfway:
            self._say_of(spec, f"{spec.label}: step {step} of {steps}, f1 {f1:.4g}, f2 {f2:.3g}")
        self._keep(urgent=False)

    def on_scan(self, spec: TrialSpec, progress: ScanProgress) -> None:
        """A path looks for its step size; once it is found, what was tried is said on a terminal too."""
        running = self._hear(spec)
        if progress.rows:
            running.scan = None
            self._say_of(spec, f"{spec.label}: {_describe_scan_outcome(progress)}")
            return
        running.scan = progress
        self._count(running, (progress.place - 1) * progress.steps + progress.step)
        halfway = progress.step >= progress.steps // 2 and progress.place > running.scans_said
        if not self._console.is_terminal and halfway:
            running.scans_said = progress.place
            self._say_of(spec, f"{running.label}, step {progress.step} of {progress.steps}")
        self._keep(urgent=False)

    def on_end(self, spec: TrialSpec, record: TrialRecord) -> None:
        """A trial is committed."""
        running = self._running.pop(spec.trial_id, None)
        if spec.trial_id in self._additions.asked:
            self._say_of(spec, f"{spec.label}: {self._additions.outcome(spec.trial_id)}")
            self._keep(urgent=True)
            return
        if running is not None:
            self._pace.add_trial(task_of(spec), self._now() - running.started - running.apart)
        self._done += 1
        self._broken += record.state in BROKEN
        self._estimate = None
        outcome = f"{_outcome_of(record)} ({self._done} of {self._total} trials, {self._time_left()})"
        self._say_of(spec, spec.label, ": ", styled_state(record.state), f" {outcome}")
        self._keep(urgent=True)

    def snapshot(self) -> SweepProgress:
        """Return what is known now, for others to read."""
        estimate = self._estimated()
        return SweepProgress(
            written=time.time(),
            total=self._total,
            slots=self._slots,
            seconds_left=None if estimate is None else estimate.seconds,
            is_least=estimate is not None and estimate.is_least,
            running=tuple(self._describe(running) for running in self._running.values()),
        )

    def _describe(self, running: _Running) -> RunningTrial:
        step, steps = self._steps(running)
        scan = running.scan
        return RunningTrial(
            trial_id=running.spec.trial_id,
            label=running.spec.label,
            phase=name_phase(running.spec),
            seed=running.spec.seed,
            step=step,
            steps=steps,
            f1=running.f1,
            f2=running.f2,
            doing=running.doing if scan is None else _describe_scan(scan),
            seconds=self._now() - running.started,
        )

    def _hear(self, spec: TrialSpec) -> _Running:
        """Return a trial that there are news of, once it is known what is over that no other trial will take.

        That is the start of a process that solves others afterwards, and what is done once a run.
        """
        now = self._now()
        running = self._running.setdefault(spec.trial_id, _Running(spec, now))
        if running.heard is None:
            running.heard = now
            running.apart += now - running.started if self._config.run.reuse_workers else 0.0
        if running.doing.endswith(ONCE):
            running.apart += now - running.since
            running.since = now
        return running

    def _steps(self, running: _Running) -> tuple[int, int]:
        """Return the steps taken and all of them: of the trial, or of the short path that it follows."""
        if running.scan is not None:
            return running.scan.step, running.scan.steps
        return running.step, self._config.steps_of(running.spec)

    def _count(self, running: _Running, taken: int) -> None:
        """Learn what a step takes; loading, which comes before the first report, is no step."""
        now = self._now()
        if running.marked is not None and taken > running.taken:
            weight = weight_of(self._config, task_of(running.spec))
            self._pace.add_steps(weight * (taken - running.taken), now - running.marked)
        running.taken, running.marked, running.doing = taken, now, ""

    def _keep(self, *, urgent: bool) -> None:
        if self._file is not None and self._file.is_due(urgent=urgent):
            self._file.write(self.snapshot())

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
        for name in ("phase", "trial", "step", "", "f1", "f2"):
            table.add_column(name)
        for running in self._running.values():
            spec, (step, steps) = running.spec, self._steps(running)
            table.add_row(
                name_phase(spec),
                Text(running.label),
                f"{step}/{steps}",
                Text(running.doing) if running.doing else ProgressBar(total=steps, completed=step, width=20),
                "" if running.f1 is None else f"{running.f1:.4g}",
                "" if running.f2 is None else f"{running.f2:.3g}",
            )
        head = (
            f"{self._done} of {self._total} trials done, {len(self._running)} running, {self._broken} "
            f"broken, {self._time_left()}"
        )
        return Group(Text(head, style="bold"), table)

    def _time_left(self) -> str:
        if self._done >= self._total:
            return "nearly done"
        estimate = self._estimated()
        return describe_time_left(
            *(None, False) if estimate is None else (estimate.seconds, estimate.is_least)
        )

    def _estimated(self) -> _Estimate | None:
        """Return the time left by what the sweep's own steps and trials took; None while nothing is known."""
        now = self._now()
        if not self._pace.is_known:
            return None
        if self._estimate is None or now - self._estimate.made > ESTIMATE_SECONDS:
            running = [
                UnderWay(task_of(one.spec), one.taken, now - one.started)
                for one in self._running.values()
                if one.spec.trial_id not in self._additions.asked
            ]
            seconds = seconds_left(self._pace, (+self._waiting).elements(), running, self._slots)
            self._estimate = _Estimate(seconds, now, not self._pace.besides)
        estimate = self._estimate
        left = max(0.0, estimate.seconds - (now - estimate.made))
        return _Estimate(left, now, estimate.is_least)

    def _say_of(self, spec: TrialSpec, *parts: str | Text) -> None:
        clock = Text(f"{describe_duration(self._now() - self._started):>6}", style="dim")
        self.say(Text.assemble(clock, f" {name_phase(spec):9} ", *parts))


def describe_time_left(seconds: float | None, is_least: bool) -> str:
    """Return the time left in words; ``is_least`` if only the steps of trials are known."""
    if seconds is None:
        return "time left unknown yet"
    return f"{'at least' if is_least else 'about'} {describe_duration(seconds)} left"


def say(console: Console, text: str | Text) -> None:
    """Print one line without wrapping or colouring: paths and numbers must stay easy to copy and search.

    Brackets in a string are no markup: paths and names of strangers hold them. What is styled is a ``Text``.
    """
    console.print(Text(text) if isinstance(text, str) else text, highlight=False, soft_wrap=True)


def styled_state(state: TrialState) -> Text:
    """Return the state of a trial in its colour."""
    return Text(state, style=STATE_STYLES.get(state, "white"))


def describe_budget(config: SweepConfig, *, check_convergence: bool = False) -> str:
    """Return in words how many steps each trial takes, and one seed's front in all and from start to end."""
    solver = config.solver
    checks = "; a check takes twice the steps of the trial it checks" if check_convergence else ""
    checks = _hardened(config) + checks
    if solver.start == "original":
        return (
            f"every trial takes {solver.steps} steps from the original model"
            f"{_courses(config, f'but {_path_steps(config)}')}; {_front_steps(config)}{checks}"
        )
    held = solver.hold.steps
    epsilons = f"{held} to hold each epsilon" if held else "from which every epsilon is mixed"
    return (
        f"a path of {_path_steps(config)}, {epsilons}{_courses(config, 'as many')}, {solver.steps} for every "
        f"other trial; {_front_steps(config)}{checks}"
    )


def _hardened(config: SweepConfig) -> str:
    """Return a clause on the trial that resists relearning; empty without that trial."""
    section = config.solver.relearning
    if section is None:
        return ""
    often = "every step" if section.every == 1 else f"every {section.every} steps"
    return f"; hardened takes {section.steps} steps, with an attack {often}"


def _path_steps(config: SweepConfig) -> str:
    path = config.solver.path
    scan = len(path.scan) * path.scan_steps
    return f"{path.steps} steps{f' and {scan} to find its step size' if scan else ''}"


def _courses(config: SweepConfig, steps: str) -> str:
    """Return a clause on the baselines that leave a whole front; empty if there is none."""
    names = [baseline.name for baseline in config.baselines if is_course(baseline.name)]
    return f", {steps} for each front of {joined(names)}" if names else ""


def _front_steps(config: SweepConfig) -> str:
    total, slots = count_front_steps(config, 1), known_slots(config.run)
    text = f"one seed's front of {sum(config.epsilon.rounds)} epsilons takes {total:,} steps in all"
    if slots == 1:
        return f"{text}, one trial at a time"
    wall = count_front_steps(config, slots)
    if slots is None:
        return f"{text}, at least {wall:,} from start to end"
    return f"{text}, {wall:,} from start to end with {slots} trials at a time"


def describe_range(valid: ValidRange, info: RunInfo) -> Text:
    """Return the valid range in words: in raw f1, and as completeness once the scales are known.

    Both belong to what epsilon bounds: the mean, or with ``per_class`` the worst class.
    """
    name = name_bounded(info.bounded)
    text = f"valid epsilon range (seed {valid.seed}): {name} {valid.lower:.5g} to {valid.upper:.5g}"
    if info.scales is not None:
        ends = (info.scales.normalised_f1(valid.lower), info.scales.normalised_f1(valid.upper))
        text += f", {name.replace('f1', 'completeness')} {1 - ends[0]:.1%} to {1 - ends[1]:.1%}"
    named = {
        "lowest": "the lowest boundary",
        "path": f"a checkpoint of the path ({valid.reason})",
        "original": f"the original model ({valid.reason})",
    }
    return Text.assemble((text, "bold"), f"; the upper end is {named[valid.upper_source]}")


def _describe_scan(progress: ScanProgress) -> str:
    return f"finding the step size, {progress.place} of {progress.count} ({progress.learning_rate:.3g})"


def _describe_scan_outcome(progress: ScanProgress) -> str:
    """Return in words which step size a scan chose, and what every step size was worth."""
    tried = ", ".join(f"{row.learning_rate:.3g} ({_describe_worth(row)})" for row in progress.rows)
    if all(math.isnan(row.hypervolume) for row in progress.rows):
        return f"step size {progress.learning_rate:.3g} kept, as the scan chose none; hypervolumes: {tried}"
    edge = "; it lies at the edge of the scan" if progress.is_at_edge else ""
    return f"step size {progress.learning_rate:.3g} chosen by its hypervolume: {tried}{edge}"


def _describe_worth(row: ScanRow) -> str:
    return "not finite" if math.isnan(row.hypervolume) else f"{row.hypervolume:.3f}"


def name_phase(spec: TrialSpec | TrialRecord) -> str:
    """Return the phase of a trial in words."""
    return {Phase.BOUNDARY: "Phase I", Phase.EPSILON: "Phase II"}.get(spec.phase, str(spec.phase))


def _outcome_of(record: TrialRecord) -> str:
    if record.completeness is None:
        return record.reason
    return (
        f"completeness {as_percent(record.completeness)}, retained quality "
        f"{as_percent(record.retained_quality)}"
    )


def as_percent(value: float | None) -> str:
    """Return a ratio as a percentage, or empty text for None.

    Far outside the scale (a destroyed model) only the sign matters, so it becomes "< -999%" or "> 999%".
    """
    if value is None:
        return ""
    return f"{value:.1%}" if abs(value) < 10 else ("< -999%" if value < 0 else "> 999%")


def describe_duration(seconds: float) -> str:
    """Return a length of time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
