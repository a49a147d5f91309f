"""The lines that a reader can copy: every command that this program prints is written here.

A line starts as this process was started: with ``uv run`` where uv started it, since ``pareto-unlearn`` is
then in an environment that only uv knows; plainly elsewhere (an activated environment, ``pip install``).
"""

import os
import shlex

_STARTED_BY_UV = "UV_RUN_RECURSION_DEPTH"
"""Set by ``uv run`` for what it starts, and by nothing else of uv."""


def command_line(*words: object, allow_import: bool = False) -> str:
    """Return a command of this program, quoted for a shell.

    Args:
        words: the verb and its arguments.
        allow_import: the command reads a family that is a file, which has to be allowed.
    """
    start = ["uv", "run", "pareto-unlearn"] if os.environ.get(_STARTED_BY_UV) else ["pareto-unlearn"]
    allow = ["--allow-import"] if allow_import else []
    return shlex.join([*start, *(str(word) for word in words), *allow])
