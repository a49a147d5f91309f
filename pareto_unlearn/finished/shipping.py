"""A model out of a run: which one it is, where it may be written, and the card and evidence beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pareto_unlearn.analysis.naming import export_command, find_trial
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT
from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.finished.bom import make_bom
from pareto_unlearn.finished.card import CardFacts, write_card
from pareto_unlearn.finished.dial import dial
from pareto_unlearn.finished.evidence import make_evidence
from pareto_unlearn.finished.export import export_trial
from pareto_unlearn.finished.signing import load_signer, sign, signature_of
from pareto_unlearn.records import HAS_MODEL, TrialRecord
from pareto_unlearn.store import RunStore, StoredRun, open_run, read_pick
from pareto_unlearn.whole_files import write_bytes_whole

__all__ = ["Delivery", "Package", "Wanted", "ship"]

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt", ".ckpt")
"""How files of ``torch.save`` end, by custom; the original's own ending is one too."""
ROUNDING = 0.0005
"""Half the last digit of an epsilon in a trial's label: closer than this, a label cannot tell two apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a model is handed over.

    ``force``: write over files that are there. ``hub``: as a folder that the Hugging Face Hub takes.
    ``base_model``: id of the original there, for the card. ``sign_key``: a private key for the evidence.
    ``cyclonedx``: with a bill of materials.
    """

    force: bool = False
    hub: bool = False
    base_model: str | None = None
    sign_key: Path | None = None
    cyclonedx: bool = False


@dataclass(frozen=True, slots=True)
class Package:
    """The files of a shipped model; the signature is there if a key was given."""

    model: Path
    card: Path
    evidence: Path

    @property
    def bom(self) -> Path:
        """The bill of materials, if one was asked for."""
        return self.model.with_name(f"{self.model.stem}.cdx.json")

    @property
    def signature(self) -> Path:
        """The envelope that signs the evidence."""
        return signature_of(self.evidence)


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
    delivery: Delivery = Delivery(),
    *,
    allow_import: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Package, str]:
    """Write a model of a run to a file, its card and evidence beside it; return them and the file's SHA-256.

    The evidence comes last, its signature after it: where it is, the others are whole.

    Args:
        run_path: the run directory.
        out: the file; its name ends as the published one does, or in .safetensors. For the Hub, a folder.
        wanted: which model.
        delivery: how it is handed over.
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
    signer = None if delivery.sign_key is None else load_signer(delivery.sign_key)
    package = _package_at(out, delivery.hub)
    _check_target(config, out, package, delivery)
    record = _choose(run, run_path, wanted, allow_import, say)
    digest = export_trial(
        RunStore.open(run_path), record, package.model, hub=delivery.hub, allow_import=allow_import
    )
    run = open_run(run_path)  # with the row that the dial may have added
    facts = CardFacts(
        run=run,
        config=config,
        record=record,
        file=package.model.name,
        sha256=digest,
        evidence=package.evidence.name,
        base_model=delivery.base_model,
        transformers_class=config.model.row.transformers_class if delivery.hub else "",
    )
    card = write_card(facts).encode()
    write_bytes_whole(package.card, card)
    subject = package.model.name, digest
    evidence = make_evidence(run, config, record, subject, _find_pick(run, record))
    if delivery.cyclonedx:
        links = {"model-card": (package.card.name, card), "evidence": (package.evidence.name, evidence)}
        write_bytes_whole(package.bom, make_bom(evidence, links))
    write_bytes_whole(package.evidence, evidence)
    if signer is not None:
        write_bytes_whole(package.signature, sign(evidence, signer))
    return package, digest


def _package_at(out: Path, hub: bool) -> Package:
    if hub:
        return Package(out / "model.safetensors", out / "README.md", out / "model.evidence.json")
    return Package(out, out.with_name(f"{out.stem}.card.md"), out.with_name(f"{out.stem}.evidence.json"))


def _find_pick(run: StoredRun, record: TrialRecord) -> object:
    """Return the note of ``pick`` if it chose this model."""
    note = read_pick(run.store)
    return note if note and note.get("trial_id") == record.trial_id else None


def _config_of(run: StoredRun, allow_import: bool) -> SweepConfig:
    return parse_config(
        run.store.read_text("sweep.yaml"), f"{run.path}/sweep.yaml", allow_import=allow_import, stored=True
    )


def _check_target(config: SweepConfig, out: Path, package: Package, delivery: Delivery) -> None:
    """Refuse what cannot be written in the form its name promises, or what is there already."""
    if delivery.hub:
        _check_folder(out)
    else:
        _check_ending(config, out)
    files = [package.model, package.card, package.evidence]
    files += [package.signature] if delivery.sign_key is not None else []
    files += [package.bom] if delivery.cyclonedx else []
    for path in files:
        if path.exists() and not delivery.force:
            raise ConfigError(
                f"{path} is there already; choose another name, or add --force to write over it"
            )


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(
            f"{out}: expected a folder, or a name for a new one, found a file; --hub writes several"
        )
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: expected a folder that exists, found none at {out.absolute().parent}")


def _check_ending(config: SweepConfig, out: Path) -> None:
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
        raise ConfigError(f"{out}: expected a file name, found a folder; name a file in it, or add --hub")


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
        command = export_command(run_path, twin, smoke=run.info.smoke, allow_import=run.needs_import)
        say(
            f"a trial lies at this epsilon, {twin.label}; this file holds what the dial makes of the run's "
            f"models, for the trial itself: {command}"
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
