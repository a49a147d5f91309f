"""Takes what a run keeps of the pictures to forget out of it, and says what stays."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from pareto_unlearn.analysis.picking import HIDDEN
from pareto_unlearn.catalogue.audits import AUDIT
from pareto_unlearn.config.yaml_source import read_document
from pareto_unlearn.errors import ParetoUnlearnError
from pareto_unlearn.records import HAS_MODEL
from pareto_unlearn.store import RunStore, StoredRun, open_run

__all__ = ["Purged", "purge_forget"]

FORGET = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What was removed, and what of the images stays in the run or outside of it, in words."""

    pictures: int
    cache_bytes: int
    remains: tuple[str, ...]


def purge_forget(run_path: str) -> Purged:
    """Remove the pictures, inputs, targets and features of the images to forget from a run.

    The caches are made again by whatever needs them next, from the images where they lie. The report has to
    be written anew. Models, numbers and the list of images stay.

    Raises:
        ConfigError: there is no such run.
        RunLockedError: a sweep is writing to the run.
        StoreError: a file of pictures is damaged.
    """
    store = RunStore.open(run_path)
    with store.lock():
        pictures = store.drop_pictures(FORGET)
        freed = _clear_cache(store)
    remains = tuple(_remains(open_run(run_path)))
    return Purged(pictures=pictures, cache_bytes=freed, remains=remains)


def _clear_cache(store: RunStore) -> int:
    """Empty the folder of memory-mapped arrays, without following links, and return its bytes."""
    folder = store.cache_dir()
    freed = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return freed


def _remains(run: StoredRun) -> Iterator[str]:
    """Yield a line for everything that still tells or shows the images."""
    yield "manifest.csv: names and SHA-256 of the images; the run cannot be continued or measured without it"
    if (named := _rows_that_name_images(run)) > 0:
        yield f"metrics: {named} rows of the audit that name single images"
    shown = [one.label for one in run.records if _shows_the_images(one.completeness, one.state)]
    if shown:
        yield f"checkpoints that still show the images: {', '.join(shown)}"
    yield "checkpoints that hide them: an attack may bring them back (docs/audit.md)"
    yield from _shared_pixels(run)
    yield "outside of the run: the images themselves, the original model, exported reports and models"
    yield "a model that is added later (export --epsilon) brings its pictures: purge again"


def _shared_pixels(run: StoredRun) -> Iterator[str]:
    """Yield a line for the folder of decoded pixels that the sweep file names, if it does or may do."""
    try:
        text = run.store.read_text("sweep.yaml")
        data = read_document(text, f"{run.path}/sweep.yaml").data.get("data")
    except ParetoUnlearnError as error:
        yield f"decoded pixels, if the sweep named a folder for them (data.cache_folder): {error}"
        return
    folder = data.get("cache_folder") if isinstance(data, dict) else None
    if folder is not None:
        yield (
            f"decoded pixels of all images in {folder} of every machine (data.cache_folder): remove it when "
            "no other run needs it"
        )


def _rows_that_name_images(run: StoredRun) -> int:
    table = run.store.table("metrics").to_pylist()
    return sum(row["protocol"] == AUDIT and " of " in row["metric"] for row in table)


def _shows_the_images(completeness: float | None, state: str) -> bool:
    return state in HAS_MODEL and (completeness is None or not completeness >= HIDDEN)
