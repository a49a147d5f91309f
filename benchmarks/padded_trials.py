"""The command line of this package with trials of a given time: each is solved, and waits for the rest.

    PADDED_SECONDS=30 PADDED_LOG=FILE python benchmarks/padded_trials.py sweep FILE ...

Only ``run_trial`` is changed, in the processes that this one starts as well. All else is as in any sweep:
loading, commits, answers. Writes a line of JSON per trial: when it began and ended, and
what its process had spent of the processor's time by then.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PADDED = "pareto_unlearn.trial"
RAY_HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Where a worker of Ray finds the name of a function to call first."""


def install() -> None:
    """Change ``run_trial`` once its module is imported: an import at once would hide what imports cost."""
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - Python dictates the signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != PADDED:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            module.run_trial = _padded(module.run_trial)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _padded(run_trial: Callable[..., Any]) -> Callable[..., Any]:
    seconds, log = float(os.environ["PADDED_SECONDS"]), Path(os.environ["PADDED_LOG"])

    def run(*arguments: Any) -> Any:
        begun, spent = time.time(), time.process_time()
        result = run_trial(*arguments)
        worked = time.time() - begun
        time.sleep(max(0.0, seconds - worked))
        with log.open("a") as file:
            line = {"begun": begun, "worked": worked, "ended": time.time()}
            file.write(json.dumps(line | {"process": os.getpid(), "cpu": spent}) + "\n")
        return result

    return run


def main() -> None:
    """Run the command line."""
    os.environ[RAY_HOOK] = "padded_trials.install"
    folder = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    install()
    from pareto_unlearn.cli import main as run

    run()


if __name__ == "__main__":
    main()
