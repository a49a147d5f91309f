"""How people name the trials of a run, and the line that takes a model out of it.

Every verb and the report go through here, so that what one of them prints the others understand.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from pareto_unlearn.commands import command_line
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import HAS_MODEL, TrialRecord

SHORT_DIGITS = 8
_LISTED = 6
_SEED_OF_LABEL = re.compile(r"^(?P<label>.*\S)\s*·\s*seed (?P<seed>\d+)$")
"""The report tells seeds apart in its labels; what is copied from it must be understood."""


def short_id(trial_id: str) -> str:
    """Return the first digits of a trial's id, as tables show them."""
    return trial_id[:SHORT_DIGITS]


def name_trial(record: TrialRecord, seeds: Iterable[int]) -> str:
    """Return a trial's label and id for people, with its seed where the run has several."""
    seed = f", seed {record.seed}" if len(set(seeds)) > 1 else ""
    return f"{record.label} ({short_id(record.trial_id)}{seed})"


def find_trial(records: Sequence[TrialRecord], name: str, seed: int | None = None) -> TrialRecord:
    """Return the trial with a model that a name means.

    Args:
        records: of a run.
        name: a label or role as tables show it (``highest``, ``epsilon 14.6%``, ``composite 0.3``), an id, or
            the first digits of an id. A label counts before an id.
        seed: of the trial; None where the name fits one trial only.

    Raises:
        ConfigError: the name fits no trial or several, or the trial left no model.
    """
    label, own_seed = _split_seed(name)
    wanted = own_seed if seed is None else seed
    fitting = [record for record in records if _plain(record.label) == _plain(label)]
    # Every id starts with an empty name.
    fitting = fitting or [record for record in records if label and record.trial_id.startswith(label.lower())]
    found = [record for record in fitting if wanted is None or record.seed == wanted]
    if len(found) != 1:
        raise ConfigError(_explain(records, name, wanted, fitting, found))
    if found[0].state not in HAS_MODEL:
        raise ConfigError(
            f"--trial: expected a trial that left a model, found {name_trial(found[0], [])}: "
            f"{found[0].state}, {found[0].reason}"
        )
    return found[0]


def export_command(
    run_path: str, record: TrialRecord, *, smoke: bool = False, allow_import: bool = False
) -> str:
    """Return the line that writes a trial's model to a file.

    Args:
        run_path: as the reader of the line can reach the run.
        record: the trial.
        smoke: the run only tried a sweep out, which the file's name must say.
        allow_import: the run's family is a file.
    """
    name = f"{'SMOKE-' if smoke else ''}{PurePosixPath(run_path).name}-{short_id(record.trial_id)}"
    words = "export", run_path, f"{name}.safetensors", "--trial", record.trial_id
    return command_line(*words, allow_import=allow_import)


def _split_seed(name: str) -> tuple[str, int | None]:
    match = _SEED_OF_LABEL.match(name.strip())
    return (name.strip(), None) if match is None else (match["label"], int(match["seed"]))


def _plain(label: str) -> str:
    """Return a label without what differs between tables: case, and the space before a percent sign."""
    return "".join(label.split()).casefold()


def _explain(
    records: Sequence[TrialRecord],
    name: str,
    seed: int | None,
    fitting: Sequence[TrialRecord],
    found: Sequence[TrialRecord],
) -> str:
    """Return why a name means no trial, and what to write instead."""
    seeds = {record.seed for record in records}
    if found:
        listed = ", ".join(name_trial(record, seeds) for record in found[:_LISTED])
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        several = sorted({record.seed for record in found})
        remedy = f"add --seed {several[0]}, or give an id" if len(several) > 1 else "give more of the id"
        return f"--trial: expected the name of one trial, found {name!r}, which fits {listed}{more}; {remedy}"
    if fitting:
        known = ", ".join(str(one) for one in sorted({record.seed for record in fitting}))
        return f"--trial: expected {name!r} of one of the seeds {known}, found --seed {seed}"
    with_model = [record for record in records if record.state in HAS_MODEL]
    near = difflib.get_close_matches(name, [record.label for record in with_model], n=_LISTED, cutoff=0.4)
    ranked = sorted(with_model, key=lambda record: near.index(record.label) if record.label in near else 99)
    listed = ", ".join(name_trial(record, seeds) for record in ranked[:_LISTED])
    return (
        "--trial: expected a label or role of a trial, its id or the first digits of it, found "
        f"{name!r}; this run has {listed or 'no trial with a model'}; `ls` lists them all"
    )
