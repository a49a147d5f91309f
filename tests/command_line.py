"""The command line, called in this process: starting Python, torch and Ray anew takes seconds a call."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from pareto_unlearn.cli import main


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended, named as in ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


def call(*arguments: object) -> Done:
    """Run ``pareto-unlearn`` with these arguments to its end; what is a bug of it is raised here."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["pareto-unlearn", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())
