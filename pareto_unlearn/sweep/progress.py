"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere; all on stderr."""

import math
import time
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
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
    ValidRange,
    name_bounded,
)

STATE_STYLES = {
    "DONE": "green",
    "INFEASIBLE": "yellow",
    "UNCONVERGED": "yellow",
    "DIVERGED": "red",
    "FAILED": "red",
}


@dataclass(slots=True)
class _Running:
    spec: TrialSpec
    started: float
    step: int = 0
    f1: float | None = None
    f2: float | None = None
    halfway: bool = False
    scan: ScanProgress | None = None
    scans_said: int = 0

    @property
    def label(self) -> str:
        """The trial's name and, while it scans, which step size it tries."""
        return self.spec.label if self.scan is None else f"{self.spec.label}: {_describe_scan(self.scan)}"


class ProgressDisplay:
    """Follows a sweep as an ``Observer``; use it as a context manager around the executor."""

    def __init__(self, console: Console, *, total: int, committed: int, config: SweepConfig) -> None:
        self._console, self._total, self._config = console, total, config
        self._already, self._done, self._broken = committed, committed, 0
        self._running: dict[str, _Running] = {}
        self._started = time.monotonic()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line above the live table."""
        say(self._console, text)

    def on_start(self, spec: TrialSpec) -> None:
        """A trial starts, or starts again after its process died."""
        self._running[spec.trial_id] = _Running(spec, time.monotonic())
        if not self._console.is_terminal:
            self.say(f"{self._clock()} {_phase_name(spec):9} {spec.label}: started")

    def on_progress(self, spec: TrialSpec, step: int, f1: float, f2: float) -> None:
        """A trial took steps."""
        running = self._running.setdefault(spec.trial_id, _Running(spec, time.monotonic()))
        running.step, running.f1, running.f2, running.scan = step, f1, f2, None
        steps = self._config.steps_of(spec)
        halfway = step >= steps // 2 and not running.halfway
        running.halfway |= halfway
        if not self._console.is_terminal and halfway:
            self.say(
                f"{self._clock()} {_phase_name(spec):9} {spec.label}: step {step} of {steps}, f1 {f1:.4g}, "
                f"f2 {f2:.3g}"
            )

    def on_scan(self, spec: TrialSpec, progress: ScanProgress) -> None:
        """A path looks for its step size; once it is found, what was tried is said on a terminal too."""
        running = self._running.setdefault(spec.trial_id, _Running(spec, time.monotonic()))
        if progress.rows:
            running.scan = None
            self.say(
                f"{self._clock()} {_phase_name(spec):9} {spec.label}: {_describe_scan_outcome(progress)}"
            )
            return
        running.scan = progress
        halfway = progress.step >= progress.steps // 2 and progress.place > running.scans_said
        if not self._console.is_terminal and halfway:
            running.scans_said = progress.place
            self.say(
                f"{self._clock()} {_phase_name(spec):9} {running.label}, step {progress.step} of "
                f"{progress.steps}"
            )

    def on_end(self, spec: TrialSpec, record: TrialRecord) -> None:
        """A trial is committed."""
        self._running.pop(spec.trial_id, None)
        self._done += 1
        self._broken += record.state in BROKEN
        style = STATE_STYLES.get(record.state, "white")
        self.say(
            f"{self._clock()} {_phase_name(spec):9} {spec.label}: [{style}]{record.state}[/] "
            f"{_outcome_of(record)} ({self._done} of {self._total} trials, {self._time_left()})"
        )

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
        for name in ("phase", "trial", "step", "", "f1", "f2"):
            table.add_column(name)
        for running in self._running.values():
            spec, scan = running.spec, running.scan
            steps = self._config.steps_of(spec) if scan is None else scan.steps
            step = running.step if scan is None else scan.step
            table.add_row(
                _phase_name(spec),
                running.label,
                f"{step}/{steps}",
                ProgressBar(total=steps, completed=step, width=20),
                "" if running.f1 is None else f"{running.f1:.4g}",
                "" if running.f2 is None else f"{running.f2:.3g}",
            )
        head = (
            f"{self._done} of {self._total} trials done, {len(self._running)} running, {self._broken} "
            f"broken, {self._time_left()}"
        )
        return Group(Text(head, style="bold"), table)

    def _time_left(self) -> str:
        """Return an estimate from the pace of the trials that this driver ran itself."""
        fresh = self._done - self._already
        if fresh < 2 or self._done >= self._total:
            return "nearly done" if self._done >= self._total else "time left unknown yet"
        seconds = (time.monotonic() - self._started) / fresh * (self._total - self._done)
        return f"about {_duration(seconds)} left"

    def _clock(self) -> str:
        return f"[dim]{_duration(time.monotonic() - self._started):>6}[/]"


def say(console: Console, text: str) -> None:
    """Print one line without wrapping or colouring: paths and numbers must stay easy to copy and search."""
    console.print(text, highlight=False, soft_wrap=True)


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


def describe_range(valid: ValidRange, info: RunInfo) -> str:
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
    return f"[bold]{text}[/]; the upper end is {named[valid.upper_source]}"


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


def _phase_name(spec: TrialSpec) -> str:
    return {Phase.BOUNDARY: "Phase I", Phase.EPSILON: "Phase II"}.get(spec.phase, str(spec.phase))


def _outcome_of(record: TrialRecord) -> str:
    if record.completeness is None:
        return escape(record.reason)
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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
