"""The smallest parts of the page: escaped text, markers, state badges, legends, the frame of a section."""

import html
from collections.abc import Iterable

from pareto_unlearn.records import TrialState
from pareto_unlearn.report.marks import look, svg_mark
from pareto_unlearn.report.solution import Solution
from pareto_unlearn.report.words import (
    STATE_MARKS,
    STATE_MEANINGS,
)


def text(value: object) -> str:
    """Return text that is safe between tags and in quoted attributes."""
    return html.escape(str(value), quote=True)


def mark(solution: Solution) -> str:
    """Return the marker of a solution."""
    style = look(solution)
    return svg_mark(style.symbol, style.colour)


def state_badge(state: TrialState, label: str) -> str:
    """Return a state with its sign as HTML; its meaning shows on hover."""
    return (
        f'<span class="state state-{text(state.lower())}" title="{text(STATE_MEANINGS.get(state, ""))}">'
        f'<span aria-hidden="true">{STATE_MARKS.get(state, "")}</span> {text(label)}</span>'
    )


def legend(entries: Iterable[tuple[str, str, str]], attributes: str = "") -> str:
    """Return a legend of (symbol, colour, words) as HTML; ``attributes`` go into its tag."""
    items = "".join(f"<li>{svg_mark(symbol, colour)} {text(words)}</li>" for symbol, colour, words in entries)
    return f'<ul class="legend"{attributes}>{items}</ul>'


def command(line: str) -> str:
    """Return a command with a button that copies it."""
    return (
        f'<div class="take-out"><code class="command">{text(line)}</code> '
        '<button type="button" class="action" data-copy aria-live="polite">Copy</button></div>'
    )


def section(identifier: str, title: str, lead: str, body: str) -> str:
    """Return a section of the page; lead and body are HTML already."""
    said = f'<p class="lead">{lead}</p>' if lead else ""
    return (
        f'<section id="{identifier}" aria-labelledby="{identifier}-title">'
        f'<h2 id="{identifier}-title">{title}</h2>{said}{body}</section>'
    )
