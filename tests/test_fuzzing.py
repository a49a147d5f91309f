"""Whatever a file holds, a verb ends with what it should say or with one of our own errors, never otherwise.

One damage after another, each drawn from its number, to every kind of file that a stranger, a disk or an
editor can have spoiled. After each, the verbs that read the file must end in time, within two gigabytes, with
an exit code of ours and with a text that has no traceback and steers no terminal; and where they end well,
what they give is what the undamaged file gave.
"""

import json
import resource
import shutil
import signal
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import yaml
from command_line import Done, call
from mutations import changed, changed_json, damaged
from PIL import Image
from safetensors.torch import save_file
from small_sweep import QUICKSTART, SMALL, run_of
from test_file_sweeps import make_imagenet, make_places
from tiny_families import PATCHES, build

from pareto_unlearn import whole_files
from pareto_unlearn.config import TaskSection
from pareto_unlearn.data.reading import FORMATS, read_image
from pareto_unlearn.errors import ParetoUnlearnError
from pareto_unlearn.records import PixelFormat

OURS = {0, 2, 4} | {kind.exit_code for kind in ParetoUnlearnError.__subclasses__()} - {9}
"""Not 1, which is a bug of ours, and not 9: a damaged file is no reason to run out of memory."""
LONGEST_SECONDS = 20
MOST_BYTES = 2 * 2**30
TINY = (
    "model={family: mae, variant: tiny, checkpoint: random}", "task={kind: center, patches: 8}",
    "data.train_per_class=4", "data.heldout_per_class=2",
)  # fmt: skip

Call = tuple[list[object], Callable[[Done], bool]]
"""Arguments of a verb, and whether what it gave when it ended well is right."""


def any_end(done: Done) -> bool:
    return True


def options(*keys: str) -> list[object]:
    return [part for key in keys for part in ("-o", key)]


def without_mixtures(rows: str) -> list[dict[str, object]]:
    """Return the rows of ``ls`` without the model that turning the dial has added."""
    return [row for row in json.loads(rows) if row["method"] != "interpolated"]


class Ground:
    """What is damaged: a finished run, copied for every damage, and small folders of data."""

    def __init__(self, finished: Path, work: Path) -> None:
        self.finished, self.work = finished, work
        self.run = work / "runs" / finished.name
        self.imagenet = make_imagenet(work / "imagenet")
        self.places = make_places(work / "places")
        self.copy_run()
        self.good = {name: call(*self.verb(name)).stdout for name in ("ls", "table", "export", "dial")}
        self.good_info = json.loads((finished / "run.json").read_text())

    def copy_run(self) -> Path:
        shutil.rmtree(self.work / "runs", ignore_errors=True)
        shutil.copytree(self.finished.parent, self.work / "runs")
        return self.run

    def write(self, name: str, content: bytes) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def verb(self, name: str, run: Path | None = None) -> list[object]:
        run, out = run or self.run, self.work / "out.safetensors"
        return {
            "ls": ["ls", run, "--json"],
            "table": ["report", run, "--table", "paper2", "--format", "csv"],
            "report": ["report", run, "--out", self.work / "report.html"],
            "compare": ["compare", run, run],
            "pick": ["pick", run],
            "export": ["export", run, out, "--force", "--trial", "highest"],
            "dial": ["export", run, out, "--force", "--epsilon", "0.4"],
            "resume": [
                "sweep",
                QUICKSTART,
                *options(*SMALL, "run.executor=local", f"run.storage={run.parent}"),
            ],
        }[name]

    def calls(self, *names: str) -> list[Call]:
        """Return verbs on the copied run, whose output must be that of the undamaged one."""
        return [(self.verb(name), self.judge(name)) for name in names]

    def judge(self, name: str) -> Callable[[Done], bool]:
        if name == "resume":
            return lambda done: (
                without_mixtures(call(*self.verb("ls")).stdout) == json.loads(self.good["ls"])
                and json.loads((self.run / "run.json").read_text()) == self.good_info
            )
        return (lambda done: done.stdout == self.good[name]) if name in self.good else any_end


def two_classes(layout: str, root: Path, forget: str = "n01440764", retain: str = "n01443537") -> str:
    return f"data={{dataset: {layout}, root: {root}, forget_classes: [{forget}], retain_classes: [{retain}]}}"


def spoil(random: Random, path: Path, *, text: bool = False) -> None:
    """Damage a file: its bytes or, of a JSON file, one of its values."""
    content = path.read_bytes()
    is_json = path.suffix == ".json" and len(content) > 5
    path.write_bytes(
        changed_json(random, content)
        if is_json and random.random() < 0.5
        else damaged(random, content or b"\n", text=text or is_json)
    )


def sweep_bytes(ground: Ground, random: Random) -> list[Call]:
    shipped = random.choice(sorted(QUICKSTART.parent.glob("*.yaml")))
    file = ground.write("sweep.yaml", damaged(random, shipped.read_bytes(), text=True))
    verb = ["validate", file] if shipped == QUICKSTART else ["sweep", file, "--print-config"]
    return [(verb, any_end)]


def sweep_values(ground: Ground, random: Random) -> list[Call]:
    content = yaml.safe_load((ground.finished / "sweep.yaml").read_text())
    content = changed(random, content)
    text = yaml.safe_dump(content, allow_unicode=True).encode(errors="surrogatepass")
    return [(["validate", ground.write("sweep.yaml", text)], any_end)]


def overrides(ground: Ground, random: Random) -> list[Call]:
    text = random.choice((*SMALL, *TINY)).encode()
    text = damaged(random, text, text=True).replace(b"\0", b"").decode(errors="surrogateescape")
    return [(["validate", QUICKSTART, "-o", text], any_end)]


def class_lists(ground: Ground, random: Random) -> list[Call]:
    classes = sorted(path.name for path in (ground.imagenet / "train").iterdir())
    text = json.dumps({name: 99 + place for place, name in enumerate(classes)}).encode()
    file = ground.write("list.yaml", changed_json(random, text) if random.random() < 0.5 else
                        damaged(random, text, text=True))  # fmt: skip
    own = (
        f"data={{dataset: imagenet, root: {ground.imagenet}, class_list: {file}, class_rule: imagenet_r}}",
    )
    return [(["validate", QUICKSTART, *options(*own, *TINY)], any_end)]


def places_lists(ground: Ground, random: Random) -> list[Call]:
    root = ground.work / "places-damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(ground.places, root)
    spoil(random, random.choice(sorted(root.glob("*.txt"))), text=True)
    data = two_classes("places365", root, "/a/airfield", "/b/badlands")
    return [(["validate", QUICKSTART, *options(data, *TINY)], any_end)]


def manifests(ground: Ground, random: Random) -> list[Call]:
    spoil(random, ground.copy_run() / "manifest.csv", text=True)
    return ground.calls("ls", "table", "resume")


def run_json(ground: Ground, random: Random) -> list[Call]:
    spoil(random, ground.copy_run() / "run.json")
    return ground.calls("ls", "report", "compare", "pick", "dial", "resume")


def scales(ground: Ground, random: Random) -> list[Call]:
    run = ground.copy_run()
    spoil(random, random.choice([run / "scales.json", *run.glob("cache/*/scales.json")]))
    return ground.calls("resume")


def parts(ground: Ground, random: Random) -> list[Call]:
    spoil(random, random.choice(sorted(ground.copy_run().glob("*/*.parquet"))))
    return ground.calls("ls", "table", "report", "pick")


def checkpoints(ground: Ground, random: Random) -> list[Call]:
    spoil(random, random.choice(sorted(ground.copy_run().glob("checkpoints/*/*/*"))))
    return ground.calls("export", "dial")


def files_of_a_run(ground: Ground, random: Random) -> list[Call]:
    run = ground.copy_run()
    spoil(random, random.choice(sorted(file for file in run.rglob("*") if file.is_file())), text=True)
    return ground.calls("ls", "table", "report", "export", "dial", "resume")


def weights(ground: Ground, random: Random) -> list[Call]:
    model = build("mae", TaskSection(patches=PATCHES["mae"])).published_state()
    whole = ground.work / random.choice(("whole.pth", "whole.safetensors", "old.pth"))
    if not whole.exists():
        if whole.suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in model.items()}, whole)
        else:
            is_zip = whole.stem == "whole"
            torch.save({"model": model}, whole, _use_new_zipfile_serialization=is_zip)
    content = bytearray(whole.read_bytes())
    if random.random() < 0.5:  # the small part that says what the rest is
        at = 0 if whole.suffix == ".safetensors" or random.random() < 0.5 else len(content) - 20_000
        content[at : at + 20_000] = damaged(random, bytes(content[at : at + 20_000]))
    else:
        content = bytearray(damaged(random, bytes(content)))
    file = ground.write(f"damaged{whole.suffix}", bytes(content))
    own = f"model={{family: mae, variant: tiny, checkpoint: {file}}}"
    data = two_classes("imagenet", ground.imagenet)
    return [(["validate", QUICKSTART, *options(data, *TINY, own)], any_end)]


def images(ground: Ground, random: Random) -> list[Call]:
    pixels = np.random.default_rng(random.randrange(2**32)).integers(0, 256, (40, 50, 3), np.uint8)
    image = Image.fromarray(pixels).convert(random.choice(("RGB", "L", "P", "1")))
    kind = random.choice(FORMATS)
    if kind in ("JPEG", "PPM"):  # which have no palette
        image = image.convert("RGB")
    root = ground.work / "images"
    if not root.exists():
        shutil.copytree(ground.imagenet, root)
    victim = root / "train" / "n01440764" / "n01440764_100.JPEG"
    image.save(victim, kind)
    victim.write_bytes(damaged(random, victim.read_bytes()))

    def is_read(done: Done) -> bool:
        read_image(victim, PixelFormat(channels=3, side=224, fit="crop", resample="bicubic"))
        return True

    data = (
        f"data={{dataset: imagenet, root: {root}, forget_classes: [n01440764], retain_classes: [n01443537]}}"
    )
    return [(["validate", QUICKSTART, *options(data, *TINY)], is_read)]


KINDS: dict[str, Callable[[Ground, Random], list[Call]]] = {
    kind.__name__: kind
    for kind in (
        sweep_bytes, sweep_values, overrides, class_lists, places_lists, manifests, run_json, scales, parts,
        checkpoints, files_of_a_run, weights, images,
    )
}  # fmt: skip


class TooLongError(BaseException):
    """Not an Exception, which the product might catch."""


@contextmanager
def bounded() -> Iterator[None]:
    """Let no call hang, and none take much memory."""

    def stop(*_: object) -> None:
        raise TooLongError(f"more than {LONGEST_SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def steers(text: str) -> bool:
    """Return whether a text does more to a terminal than to show letters and lines."""
    return any(
        letter in TURNS or (unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t")
        for letter in text
    )


def trouble_of(arguments: list[object], is_right: Callable[[Done], bool]) -> str | None:
    """Return what is wrong with how a verb ended, None for nothing."""
    whole_files._checked.clear()  # as in a new process
    try:
        with bounded():
            done = call(*arguments)
            if done.returncode == 0 and not is_right(done):
                return "ended well with something else than the undamaged file gives"
    except (Exception, TooLongError) as error:  # noqa: BLE001 - any of them is a fault
        return "".join(traceback.format_exception(error)[-4:])
    if done.returncode not in OURS:
        return f"exit code {done.returncode}: {done.stderr[-300:]}"
    if done.returncode and not done.stderr.strip():
        return f"exit code {done.returncode} without a word"
    if "Traceback" in done.stderr:
        return done.stderr[-1500:]
    return f"steers the terminal: {done.stderr[-400:]!a}" if steers(done.stdout + done.stderr) else None


def fuzz(ground: Ground, kind: str, numbers: range) -> Counter[int]:
    """Damage files of a kind; return how often which exit code came.

    Raises:
        AssertionError: all that went wrong; the number of a damage draws it again.
    """
    faults = []
    codes: Counter[int] = Counter()
    for number in numbers:
        for arguments, is_right in KINDS[kind](ground, Random(f"{kind} {number}")):
            codes[0] += 1
            if trouble := trouble_of(arguments, is_right):
                faults.append(f"{kind} {number}, {arguments[0]}: {trouble}")
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)
    return codes


@pytest.fixture(scope="module")
def ground(copy_small_sweep: Callable, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    config = copy_small_sweep(tmp_path_factory.mktemp("finished"))
    return Ground(Path(run_of(config).path), tmp_path_factory.mktemp("work"))


SLOW = ("run_json", "scales", "checkpoints", "files_of_a_run", "manifests", "weights")
"""Each takes a second or so, with every verb that reads the file."""


@pytest.mark.parametrize("kind", KINDS)
def test_few_damages(ground, kind):
    fuzz(ground, kind, range(1 if kind in SLOW else 5))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_many_damages(ground, kind):
    fuzz(ground, kind, range(5, 65) if kind in SLOW else range(5, 205))
