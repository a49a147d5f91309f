"""Calls without the checks of shapes that tests switch on, where they repeat what was checked before."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Check no shapes meanwhile: that takes most of the time of a step on a toy, or of a plan."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
