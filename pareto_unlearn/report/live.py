"""What a page says while its sweep runs, and how long it waits before it is read again: only until then."""

from dataclasses import dataclass
from datetime import UTC, datetime

from pareto_unlearn.report.fragments import text

RELOAD_SECONDS = 15
"""Since the reader last touched the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """How far the sweep of a page is; ``written`` is in seconds since 1970, ``total`` None if unknown."""

    ended: int
    running: int
    total: int | None
    written: float

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        moment = datetime.fromtimestamp(self.written, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return (
            f"The sweep is running: {self.ended}{of} trials have ended, {self.running} run; "
            f"written at {moment}."
        )


def notice(live: Live | None) -> str:
    """Return the line above the page; empty for the page of a sweep that does not run."""
    if live is None:
        return ""
    return f'<p class="live" role="status">{text(str(live))} This page reads itself again.</p>'


def reload_without_script(live: Live | None) -> str:
    """Return what reads the page again where JavaScript is off; elsewhere the script does, and waits."""
    if live is None:
        return ""
    return f'<noscript><meta http-equiv="refresh" content="{RELOAD_SECONDS}"></noscript>\n'
