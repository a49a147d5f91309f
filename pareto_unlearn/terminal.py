"""What the command line prints on: streams and a console that show foreign text and never obey it."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from pareto_unlearn.foreign_text import plain, without_secrets

if TYPE_CHECKING:
    from rich.console import Console


class PlainStream:
    """A text stream in front of another one; all that is printed or logged goes through ``plain``.

    Rich writes its colours to the stream behind it, which it finds under ``rich_proxied_file``. Consoles of
    ``open_console`` clean what they show themselves.
    """

    def __init__(self, stream: TextIO, *, mask: bool) -> None:
        self.rich_proxied_file = stream
        self._mask = mask

    def write(self, text: str) -> int:
        """Write text, without what steers a terminal and, for messages, without secrets."""
        self.rich_proxied_file.write(plain(without_secrets(text) if self._mask else text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextmanager
def plain_streams() -> Iterator[None]:
    """Put a ``PlainStream`` before stdout and stderr; secrets are masked in messages, not in results."""
    before = sys.stdout, sys.stderr
    sys.stdout = PlainStream(sys.stdout, mask=False)
    sys.stderr = PlainStream(sys.stderr, mask=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def open_console(*, stderr: bool = False) -> "Console":
    """Return a console that shows texts as they are: no markup, no emoji codes, no control characters."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PlainConsole(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                shown = plain(without_secrets(segment.text) if stderr else segment.text)
                yield segment if segment.control else Segment(shown, segment.style)

    return PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)
