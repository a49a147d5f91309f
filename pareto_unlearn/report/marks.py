"""The markers of the methods, the same in Plotly figures and in the page's own legends.

Symbol and colour come from the catalogue. The shape alone tells the methods apart, so that no reader needs
the colours (Okabe-Ito, adjusted to 3:1 contrast on both themes). There are fewer colours than methods;
methods of the same colour have clearly different shapes. Stored methods that the catalogue does not know
share one marker.
"""

import math
from dataclasses import dataclass

from pareto_unlearn.catalogue.methods import METHODS, words_of
from pareto_unlearn.report.solution import Kind, Solution


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The marker of one method: Plotly symbol and colour (a CSS variable)."""

    symbol: str
    colour: str


_OTHER = Look(symbol="octagon", colour="var(--gray)")
_BOUNDARY = Look(symbol="star", colour="var(--blue)")


def look(solution: Solution) -> Look:
    """Return the marker of a solution: a star for a boundary, otherwise the marker of its method."""
    if solution.kind is Kind.BOUNDARY:
        return _BOUNDARY
    return method_look(solution.method)


def method_look(method: str) -> Look:
    """Return the marker of a method."""
    row = METHODS.get(method)
    return _OTHER if row is None else Look(symbol=row.symbol, colour=row.colour)


def method_title(solution: Solution) -> str:
    """Return the words of the legends for the method of a solution, or ``boundary``."""
    if solution.kind is Kind.BOUNDARY:
        return "boundary"
    row = METHODS.get(solution.method)
    return words_of(solution.method) if row is None else row.words


def _polygon(corners: int, radius: float, inner: float | None = None) -> str:
    """Return a regular polygon with a corner on top, or a star if there is an inner radius."""
    radii = [radius] if inner is None else [radius, inner]
    total = corners * len(radii)
    points = []
    for index in range(total):
        angle, size = 2.0 * math.pi * index / total, radii[index % len(radii)]
        points.append(f"{8.0 + size * math.sin(angle):.1f},{8.0 - size * math.cos(angle):.1f}")
    return f'<polygon points="{" ".join(points)}"/>'


# The outlines that no method has are spare ones for the next.
_SHAPES = {
    "circle": '<circle cx="8" cy="8" r="5"/>',
    "square": '<rect x="3.5" y="3.5" width="9" height="9"/>',
    "diamond": _polygon(4, 6.2),
    "triangle-up": '<path d="M8 2.5L14 13H2Z"/>',
    "triangle-down": '<path d="M8 13.5L2 3H14Z"/>',
    "triangle-left": '<path d="M2.5 8L13 2V14Z"/>',
    "triangle-right": '<path d="M13.5 8L3 2V14Z"/>',
    "triangle-ne": '<path d="M3 3H13V13Z"/>',
    "triangle-se": '<path d="M13 3V13H3Z"/>',
    "triangle-sw": '<path d="M3 3V13H13Z"/>',
    "triangle-nw": '<path d="M3 13V3H13Z"/>',
    "diamond-tall": '<path d="M8 1L12 8L8 15L4 8Z"/>',
    "diamond-wide": '<path d="M1 8L8 4L15 8L8 12Z"/>',
    "star-triangle-up": _polygon(3, 7.5, 2.4),
    "star-triangle-down": '<path d="M8 15.5L5.9 9.2L1.5 4.3L8 5.6L14.5 4.3L10.1 9.2Z"/>',
    "hexagon2": '<path d="M2 8L5 2.8H11L14 8L11 13.2H5Z"/>',
    "hexagram": _polygon(6, 7.0, 4.0),
    "star-diamond": _polygon(4, 7.5, 3.4),
    "star-square": '<path d="M2.7 2.7L8 5L13.3 2.7L11 8L13.3 13.3L8 11L2.7 13.3L5 8Z"/>',
    "star": _polygon(5, 7.5, 3.2),
    "pentagon": _polygon(5, 6.2),
    "hexagon": _polygon(6, 6.0),
    "octagon": _polygon(8, 6.0),
    "cross": '<path d="M6 2h4v4h4v4h-4v4H6v-4H2V6h4Z"/>',
    "arrow": '<path d="M13.5 2.5L11 13L8 8L3 5Z"/>',
    "hash": '<path d="M5.8 2V14M10.2 2V14M2 5.8H14M2 10.2H14"/>',
    "hourglass": '<path d="M3 2.5H13L3 13.5H13Z"/>',
    "bowtie": '<path d="M2.5 3V13L13.5 3V13Z"/>',
    "square-cross": '<path d="M3 3H7V7H3ZM9 3H13V7H9ZM3 9H7V13H3ZM9 9H13V13H9Z"/>',
    "circle-cross": '<path d="M7 7V2.5A5 5 0 0 0 2.5 7ZM9 7V2.5A5 5 0 0 1 13.5 7Z'
    'M7 9V13.5A5 5 0 0 1 2.5 9ZM9 9V13.5A5 5 0 0 0 13.5 9Z"/>',
    "asterisk": '<path d="M8 2V14M2 8H14M3.8 3.8L12.2 12.2M12.2 3.8L3.8 12.2"/>',
    "x": '<path d="M3 3L13 13M13 3L3 13"/>',
    "line-ew": '<path d="M1.5 8H14.5"/>',
    "line-ns": '<path d="M8 1.5V14.5"/>',
}
_OVERLAYS = {
    "-x": '<path d="M4.6 4.6L11.4 11.4M11.4 4.6L4.6 11.4"/>',
    "-dot": '<circle cx="8" cy="8" r="1"/>',
}

_WITHOUT_DOT = frozenset({"hourglass", "bowtie", "square-cross", "circle-cross"})
"""Symbols that Plotly knows open, but not with a dot."""


def unconverged_symbol(symbol: str) -> str:
    """Return the symbol of a model that did not converge, from that of its method.

    Methods whose symbol cannot have a dot share one.
    """
    return "asterisk-open" if symbol in _WITHOUT_DOT else f"{symbol}-open-dot"


def svg_mark(symbol: str, colour: str) -> str:
    """Return a Plotly symbol as a small SVG image within text, hidden from screen readers."""
    overlay = next((shape for name, shape in _OVERLAYS.items() if name in symbol), "")
    base = symbol
    for suffix in ("-open", "-dot", "-x"):
        base = base.replace(suffix, "")
    fill = "none" if "-open" in symbol else "currentColor"
    return (
        f'<svg class="mark" viewBox="0 0 16 16" aria-hidden="true" style="color:{colour}" '
        f'fill="{fill}" stroke="currentColor" stroke-width="1.5">'
        f"{_SHAPES.get(base, _SHAPES['octagon'])}{overlay}</svg>"
    )
