"""Runs verbs in forked children of one process, which has loaded torch and the faulty disk.

Takes a JSON object a line on stdin, and answers with one on stdout; see ``faulty_disk.py``. The process
itself never calls torch, whose threads no child would have.
"""

import ctypes
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import plotly.graph_objects  # noqa: F401 - as below
import pytest
from command_line import call
from sklearn import datasets  # noqa: F401 - as below
from tiny_networks import write_tiny_inception

import pareto_unlearn.cli_finished
import pareto_unlearn.finished.audit
import pareto_unlearn.finished.rescore
import pareto_unlearn.finished.shipping
import pareto_unlearn.pretraining.runs
import pareto_unlearn.report
import pareto_unlearn.sweep
import pareto_unlearn.trial  # noqa: F401 - loaded once, not in every child


def run(order: dict[str, Any], answer: Path) -> None:
    """Run a verb whose n-th call fails, and write how it ended; the process ends here."""
    disk = ctypes.CDLL(None)
    disk.fault_seen.restype = ctypes.c_long
    os.chdir(order["folder"])
    disk.fault_arm(order["folder"].encode(), ctypes.c_long(order["nth"]), order["what"], order["lasting"])
    try:
        done = call(*order["arguments"])
        ended = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
    except BaseException:  # noqa: BLE001 - whatever came out of the verb is the finding
        ended = {"code": 1, "out": "", "err": traceback.format_exc()}
    answer.write_text(json.dumps(ended | {"calls": disk.fault_seen()}))
    os._exit(0)


def serve() -> None:
    """Answer orders until stdin ends; a child that was killed has no answer of its own."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        networks = Path(folder) / "networks"
        networks.mkdir()
        write_tiny_inception(networks, patch)
        patch.setenv("PARETO_UNLEARN_WEIGHTS", str(networks))
        answer = Path(folder) / "answer.json"
        for line in sys.stdin:
            answer.unlink(missing_ok=True)
            child = os.fork()
            if child == 0:
                run(json.loads(line), answer)
            _, status = os.waitpid(child, 0)
            killed = {"code": -os.waitstatus_to_exitcode(status), "out": "", "err": "", "calls": 0}
            sys.stdout.write((answer.read_text() if answer.exists() else json.dumps(killed)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    serve()
