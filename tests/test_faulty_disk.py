"""Whichever call to the disk fails, no half file has a final name, and the same command then ends well.

The n-th call that writes, syncs, renames, links, truncates or makes a file or folder meets a fault, for n = 1
to the last one, for every verb that writes. See ``faulty_disk.py``.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from faulty_disk import FAULTS, KILL, SHORT, Ended, Fault, FaultyDisk
from safetensors import safe_open
from small_sweep import QUICKSTART, TINIEST, without_times

from pareto_unlearn.errors import MachineError
from pareto_unlearn.store import open_run

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

OPTIONS = [part for one in (*TINIEST, "run.executor=local", "run.storage=runs") for part in ("-o", one)]
RUN = "runs/quickstart"
VERBS: dict[str, list[object]] = {
    "sweep": ["sweep", QUICKSTART, *OPTIONS],
    "export": ["export", RUN, "model.safetensors", "--force", "--trial", "highest"],
    "export --epsilon": ["export", RUN, "mixed.safetensors", "--force", "--epsilon", "0.4"],
    "eval": ["eval", RUN, "--metrics", "fid", "--trial", "highest"],
    "report": ["report", RUN],
    "report --out": ["report", RUN, "--out", "page.html"],
    "audit": ["audit", RUN, "--quick", "--jobs", "1", "--trial", "highest"],
    "pick": ["pick", RUN],
    "train": ["train", QUICKSTART, "trained.safetensors", "--steps", "4", *OPTIONS],
}
"""Every verb that writes, in the folder of the runs."""


class Ground:
    """A finished run beside the results of every verb, made without a fault."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = FaultyDisk(folder)
        self.finished, self.work = folder / "finished", folder / "work"
        self.finished.mkdir()
        assert self.disk.call(self.finished, VERBS["sweep"]).code == 0
        self.calls: dict[str, int] = {}
        self.results: dict[str, object] = {}

    def start(self, verb: str) -> None:
        """Make the folder in which a verb starts: empty for a sweep, else with a finished run."""
        shutil.rmtree(self.work, ignore_errors=True)
        if verb == "sweep":
            self.work.mkdir()
        else:
            shutil.copytree(self.finished, self.work)

    def call(self, verb: str, nth: int = 0, fault: Fault = FAULTS[0]) -> Ended:
        return self.disk.call(self.work, VERBS[verb], nth, fault)

    def expect(self, verb: str) -> int:
        """Run a verb without a fault, once, and return its number of calls."""
        if verb not in self.calls:
            self.start(verb)
            ended = self.call(verb)
            assert ended.code == 0, ended.err
            self.calls[verb], self.results[verb] = ended.calls, self.result()
        return self.calls[verb]

    def result(self) -> object:
        """Return what counts of the folder: rows without times, and the bytes of models and tables."""
        rows = [without_times(record) for record in open_run(self.work / RUN).records]
        kept = ("attempt", "checkpoint")  # a fault may have cost an attempt
        models = {path.name: path.read_bytes() for path in self.work.glob("*.safetensors")}
        info = json.loads((self.work / RUN / "run.json").read_text())
        for name in ("started", "crc32"):  # a time, and the sum of a text that holds it
            del info[name]
        return [{key: row[key] for key in row if key not in kept} for row in rows], models, info


def trouble_in(folder: Path) -> Iterator[str]:
    """Yield every file with a final name that is not whole."""
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if any(part.startswith(".") or part.endswith(".part") for part in inside) or not path.is_file():
            continue
        try:
            READERS[path.suffix](path)
        except Exception as error:  # noqa: BLE001 - of many readers
            yield f"{'/'.join(inside)}: {type(error).__name__} {error}"


def read_weights(path: Path) -> None:
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            file.get_tensor(name)


READERS: dict[str, Callable[[Path], object]] = {
    ".parquet": pq.read_table,
    ".json": lambda path: path.name == "lock.json" or json.loads(path.read_text()),  # a message, or empty
    ".sums": lambda path: json.loads(path.read_text()),
    ".safetensors": read_weights,
    ".npy": np.load,
    ".yaml": lambda path: yaml.safe_load(path.read_text())["name"],
    ".html": lambda path: path.read_text().rindex("</html>"),
    ".csv": lambda path: path.read_text().rindex("\n", -1),
    ".lock": Path.read_bytes,
    ".md": lambda path: path.read_text().rindex("third party"),  # the last line of a card
    ".txt": lambda path: bytes.fromhex(path.read_text()),  # the salt
}
"""Each reads a file to its end as what its name says it is."""


def meet(ground: Ground, verb: str, nth: int, fault: Fault) -> str | None:
    """Let a verb meet a fault, then run it again; return what is wrong, None for nothing."""
    ground.start(verb)
    ended = ground.call(verb, nth, fault)
    if fault.what == KILL:
        right = ended.code == 9
    elif fault.what == SHORT:
        right = ended.code == 0
    else:
        ours = ended.err.startswith("pareto-unlearn: ") or "\npareto-unlearn: " in ended.err
        right = ended.code == 0 or (ended.code in (3, MachineError.exit_code) and ours)
    if not right or "Traceback" in ended.err:
        return f"exit code {ended.code}: {ended.err[-1500:]}"
    if half := list(trouble_in(ground.work)):
        return f"half files: {half}"
    stray = [path.name for path in ground.work.glob(".part-*")]
    if stray and fault.what != KILL:
        return f"left behind: {stray}"
    again = ground.call(verb)
    if again.code != 0:
        return f"the same command again: exit code {again.code}: {again.err[-1500:]}"
    if half := list(trouble_in(ground.work)):
        return f"half files after all: {half}"
    return None if ground.result() == ground.results[verb] else "other rows than without a fault"


def walk(ground: Ground, verb: str, step: int) -> Counter[str]:
    """Let every ``step``-th call of a verb meet one fault after the other; return how many met which.

    Raises:
        AssertionError: all that went wrong.
    """
    last = ground.expect(verb)
    met: Counter[str] = Counter()
    wrong = []
    for turn, nth in enumerate(range(1, last + 1, step)):
        fault = FAULTS[turn % len(FAULTS)]
        met[fault.name] += 1
        if trouble := meet(ground, verb, nth, fault):
            wrong.append(f"{verb}, call {nth} of {last}, {fault.name}: {trouble}")
    assert not wrong, f"{len(wrong)} of {sum(met.values())}\n" + "\n".join(wrong)
    return met


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("faulty"))
    try:
        yield made
    finally:
        made.disk.close()


SAMPLED = ("export", "pick")
"""A second each."""


@pytest.mark.slow
@pytest.mark.parametrize("verb", SAMPLED)
def test_some_calls_of_some_verbs(ground, verb):
    walk(ground, verb, 3)


@pytest.mark.nightly
@pytest.mark.parametrize("verb", VERBS)
def test_every_call_of_every_verb(ground, verb):
    walk(ground, verb, 1)
