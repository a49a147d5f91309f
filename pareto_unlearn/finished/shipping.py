"""A model out of a run: which one it is, where it may be written, and the card and evidence beside it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pareto_unlearn.analysis.naming import export_command, find_trial
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT
from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.finished.card import CardFacts, write_card
from pareto_unlearn.finished.dial import dial
from pareto_unlearn.finished.evidence import make_evidence
from pareto_unlearn.finished.export import export_trial
from pareto_unlearn.finished.pick import PICK_FILE
from pareto_unlearn.records import HAS_MODEL, TrialRecord
from pareto_unlearn.store import RunStore, StoredRun, open_run
from pareto_unlearn.store.filesystem import LocalStorage

__all__ = ["Wanted", "beside", "ship"]

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".ckpt")
"""How files of ``torch.save`` end, by custom; the original's own ending is one too."""
ROUNDING = 0.0005
"""Half the last digit of an epsilon in a trial's label: closer than this, a label cannot tell two apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which model is to be shipped: that of a trial by its name, or the mixture at an epsilon.

    ``seed`` and ``method`` as in ``find_trial`` and ``dial``.
    """

    trial: str | None = None
    epsilon: float | None = None
    absolute: bool = False
    seed: int | None = None
    method: str = EPSILON_CONSTRAINT


def ship(
    run_path: str,
    out: Path,
    wanted: Wanted,
    *,
    force: bool = False,
    base_model: str | None = None,
    allow_import: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Write a model of a run to a file, its card and evidence beside it, and return the file's SHA-256.

    The evidence comes last: where it is, the other two are whole.

    Args:
        run_path: the run directory.
        out: the file; its name ends as the published one does, or in .safetensors.
        wanted: which model.
        force: write over files that are there.
        base_model: id of the original model on the Hugging Face Hub, for the card.
        allow_import: run the code of the file that the run's family may be.
        say: called with a line of text on what the model is.

    Raises:
        ConfigError: no such model, or nothing may be written there.
        RunLockedError: a sweep is writing to the run, and an epsilon is wanted.
        StoreError: a checkpoint is damaged.
        WeightsError: the original's file, which tells the form, is missing.
    """
    run = open_run(run_path)
    config = _config_of(run, allow_import)
    # Before the dial is turned: it takes seconds, and leaves a row in the run.
    _check_target(config, out, force)
    record = _choose(run, run_path, wanted, allow_import, say)
    digest = export_trial(RunStore.open(run_path), record, out, allow_import=allow_import)
    run = open_run(run_path)  # with the row that the dial may have added
    card, evidence = beside(out)
    facts = CardFacts(
        run=run,
        config=config,
        record=record,
        file=out.name,
        sha256=digest,
        evidence=evidence.name,
        base_model=base_model,
    )
    folder = LocalStorage(out.absolute().parent)
    folder.put(card.name, write_card(facts).encode())
    folder.put(evidence.name, make_evidence(run, config, record, (out.name, digest), _find_pick(run, record)))
    return digest


def beside(out: Path) -> tuple[Path, Path]:
    """Return the files of the card and of the evidence that lie beside a model."""
    return out.with_name(f"{out.stem}.card.md"), out.with_name(f"{out.stem}.evidence.json")


def _find_pick(run: StoredRun, record: TrialRecord) -> object:
    """Return the note of ``pick`` if it chose this model."""
    try:
        note = json.loads(run.store.read_text(PICK_FILE))
    except (StoreError, ValueError):
        return None
    return note if isinstance(note, dict) and note.get("trial_id") == record.trial_id else None


def _config_of(run: StoredRun, allow_import: bool) -> SweepConfig:
    return parse_config(
        run.store.read_text("sweep.yaml"), "sweep.yaml", allow_import=allow_import, stored=True
    )


def _check_target(config: SweepConfig, out: Path, force: bool) -> None:
    """Refuse a file that cannot be written in the form its name promises, or that is there already."""
    own = Path(str(config.model.checkpoint)).suffix
    endings = [SAFETENSORS] if config.model.row.exports_as_stored else [SAFETENSORS, *PICKLED]
    if not config.model.row.exports_as_stored and own not in ("", *endings):
        endings.append(own)
    if out.suffix not in endings:
        raise ConfigError(
            f"{out}: expected a file name that ends in {', '.join(endings)}, which a {config.model.family} "
            f"model can be written as; found {out.suffix or 'no ending'}"
        )
    if out.is_dir():
        raise ConfigError(f"{out}: expected a file name, found a folder; name a file in it")
    for path in (out, *beside(out)):
        if path.exists() and not force:
            raise ConfigError(
                f"{path} is there already; choose another name, or add --force to write over it"
            )


def _choose(
    run: StoredRun, run_path: str, wanted: Wanted, allow_import: bool, say: Callable[[str], None]
) -> TrialRecord:
    """Return the row of the model that is wanted; an epsilon's is made, and committed."""
    if wanted.epsilon is None:
        record = find_trial(run.records, str(wanted.trial), wanted.seed)
        if record.checkpoint is None:
            raise ConfigError(
                f"--trial: expected an unlearned model, found {record.label}, whose weights are the "
                "original's own file"
            )
        return record
    for twin in _trials_at(run, wanted):
        say(
            f"a trial lies at this epsilon, {twin.label}; this file holds what the dial makes of the run's "
            f"models, for the trial itself: {export_command(run_path, twin, smoke=run.info.smoke)}"
        )
    record = dial(
        run_path,
        wanted.epsilon,
        absolute=wanted.absolute,
        seed=wanted.seed,
        method=wanted.method,
        allow_import=allow_import,
    )
    say(
        f"{record.label}: f1 {record.f1:.6g} for epsilon {record.epsilon:.6g}, f2 {record.f2:.6g}, "
        f"{record.reason}"
    )
    return record


def _trials_at(run: StoredRun, wanted: Wanted) -> list[TrialRecord]:
    """Return the trials of the method whose epsilon cannot be told from the one that is wanted."""
    ranges = [valid for valid in run.info.ranges if wanted.seed in (None, valid.seed)]
    if not ranges or wanted.epsilon is None:
        return []
    valid = ranges[0]  # as the dial does without a seed
    fraction = valid.fraction_of(wanted.epsilon) if wanted.absolute else wanted.epsilon
    return [
        record
        for record in run.records
        if record.seed == valid.seed
        and record.method == wanted.method
        and record.state in HAS_MODEL
        and record.checks is None
        and record.epsilon_fraction is not None
        and abs(record.epsilon_fraction - fraction) <= ROUNDING
    ]
