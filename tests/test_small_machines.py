"""Little memory, a home that is read-only, paths at the limit: one sentence each, and the right code."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call
from small_sweep import QUICKSTART, TINIEST

from pareto_unlearn.errors import explain_machine

ROOT = Path(__file__).parent.parent


def command(*arguments: object, address_space: int | None = None, **environment: str) -> tuple[int, str]:
    """Run a verb in a process of its own; return its exit code and what it said."""

    def limit() -> None:
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    done = subprocess.run(
        # No bytecode: a process without memory would leave half a module for all later imports.
        [sys.executable, "-B", "-m", "pareto_unlearn", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limit,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("megabytes", [150, 600])
def test_too_little_memory_to_load_anything_is_one_sentence(megabytes):
    code, said = command("validate", QUICKSTART, address_space=megabytes * 2**20)
    assert (code, said.count("\n")) == (9, 1), said
    assert "ulimit -v" in said


def test_memory_that_gives_out_in_torch_or_a_library_is_the_machines_fault():
    lost = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
    unloaded = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    for error in (lost, unloaded, MemoryError()):
        assert "ulimit -v" in str(explain_machine(error))
    for error in (RuntimeError("shape '[2]' is invalid"), ImportError("No module named 'x'")):
        assert explain_machine(error) is None


@pytest.mark.nightly
def test_a_home_that_cannot_be_written_to_is_one_sentence_before_anything_runs(tmp_path):
    options = [part for one in (*TINIEST, f"run.storage={tmp_path}") for part in ("-o", one)]
    code, said = command("sweep", QUICKSTART, *options, HOME="/proc")
    assert (code, "Traceback" in said) == (9, False), said
    assert said.splitlines()[-1].startswith("pareto-unlearn: Ray does not start: ")
    assert "~/.ray" in said
    assert not list(tmp_path.rglob("*.parquet"))


DEEP = ("/" + "/".join(["x" * 100] * 41))[:4080]
"""A path that the system just takes, but not with anything behind it."""
LONG = "/" + "x" * 4079


@pytest.mark.parametrize("path", [DEEP, LONG], ids=["deep", "long"])
@pytest.mark.parametrize(
    ("verb", "codes"),
    [("ls", (3,)), ("report", (3,)), ("compare", (3,)), ("pick", (3,)), ("audit", (3,)), ("sweep", (3,)),
     ("doctor", (3,)), ("validate", (3,)), ("storage", (3,)), ("checkpoint", (3, 8)), ("root", (3,))],
)  # fmt: skip
def test_a_path_of_4080_characters_is_one_sentence(verb, codes, path, tmp_path):
    arguments = {
        "compare": ["compare", path, path],
        "storage": ["sweep", QUICKSTART, "-o", "run.executor=local", "-o", f"run.storage=/proc{path[:4000]}"],
        "checkpoint": ["validate", QUICKSTART, "-o", f"model.checkpoint={path}"],
        "root": ["validate", QUICKSTART, "-o", f"data={{dataset: folder, root: {path}}}"],
    }
    done = call(*arguments.get(verb, [verb, path]))
    assert done.returncode in (*codes, 9), done.stderr
    last = re.sub(r"^(reading weights|pictures |hole ).*\n", "", done.stderr, flags=re.MULTILINE)
    assert last.startswith("pareto-unlearn: ") or "Error: " in last
