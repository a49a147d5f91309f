"""One unlearned model out of a run, in the form in which the original's code reads it."""

import hashlib
from pathlib import Path

from safetensors.torch import load as load_safetensors

from pareto_unlearn.config import parse_config
from pareto_unlearn.config.smoke import SMOKE
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import export_model, export_to_hub
from pareto_unlearn.records import MODEL_FILE, TrialRecord
from pareto_unlearn.store import RunStore
from pareto_unlearn.whole_files import write_bytes_whole

__all__ = ["export_trial"]


def export_trial(
    store: RunStore, record: TrialRecord, out: Path, *, hub: bool = False, allow_import: bool = False
) -> str:
    """Write the model of a trial as the original's file holds it: its keys, their order, types and wrapper.

    Args:
        store: the run.
        record: a trial that left a model.
        out: the file; its name ends as the published one does (.pth, .ckpt), or in .safetensors.
        hub: write it, and its settings beside it, as transformers loads them where it knows the family.
        allow_import: run the code of the file that the run's family may be.

    Returns:
        The SHA-256 of the file.

    Raises:
        ConfigError: the folder is missing, or a smoke run's file does not say what it is.
        StoreError: the checkpoint is damaged.
        WeightsError: the original's file, which tells the form, is missing.
    """
    config = parse_config(
        store.read_text("sweep.yaml"), f"{store.path}/sweep.yaml", allow_import=allow_import, stored=True
    )
    named = out.parent if hub else out
    if config.smoke and SMOKE.lower() not in named.name.lower():
        raise ConfigError(
            f"{named}: expected a name with `{SMOKE}` in it, since the weights come from a {SMOKE} run "
            f"and are worth nothing; name it {named.with_name(f'{SMOKE}-{named.name}')}"
        )
    if hub:
        named.mkdir(exist_ok=True)
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: expected a folder that exists, found none at {out.absolute().parent}")
    weights = store.read_checkpoint(record)[MODEL_FILE]
    is_written = hub and export_to_hub(out.parent, config.model, config.task, load_safetensors(weights))
    if not is_written and config.model.row.exports_as_stored:
        write_bytes_whole(out, weights)
    elif not is_written:
        export_model(out, config.model, config.task, load_safetensors(weights))
    with out.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
