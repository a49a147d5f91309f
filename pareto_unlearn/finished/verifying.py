"""Compares an evidence file with the model that it speaks of, and with the run that both come from."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pareto_unlearn.analysis.audit import Verdict
from pareto_unlearn.assets.verify_evidence import check_model, read_statement
from pareto_unlearn.catalogue.audits import EVALUATIONS
from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError, StoreError, WeightsError
from pareto_unlearn.finished.evidence import describe_model, describe_run
from pareto_unlearn.finished.signing import check_signature, signature_of
from pareto_unlearn.models import weights_sha256
from pareto_unlearn.store import StoredRun, open_run, read_salt

__all__ = ["Compared", "Outcome", "verify"]


class Outcome(StrEnum):
    """What a line of a verification says."""

    MATCH = "match"
    MISMATCH = "MISMATCH"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Compared:
    """One line: what was compared, and what was found."""

    name: str
    outcome: Outcome
    detail: str = ""


OF_RUN = {
    "run": "sweep file, manifest and objective",
    "forget_set": "images to forget",
    "retain_set": "images to keep",
}
OF_MODEL = {
    "checkpoint": "digest of the checkpoint",
    "outcome": "outcome of the solver",
    "trial": "all numbers of the trial",
    "metrics": "metrics",
    "audit": "verdicts of the audit",
    "front": "models of the front",
}
"""Parts of the predicate that a run can be asked for again, and what they are called."""


def verify(
    evidence: Path,
    model: Path,
    run_path: str | None,
    public_key: Path | None = None,
    *,
    allow_import: bool = False,
) -> list[Compared]:
    """Return a line for everything in an evidence file that can be compared.

    Args:
        evidence: the file.
        model: the model beside it.
        run_path: the run that the model came from; None if it is not at hand.
        public_key: of whoever should have signed the evidence.
        allow_import: run the code of the file that the run's family may be.

    Raises:
        ConfigError: a file is missing, or there is no such run.
    """
    for path in (evidence, model):
        if not path.is_file():
            raise ConfigError(f"{path}: expected a file, found none")
    content = evidence.read_bytes()
    statement, whole = read_statement(content)
    checks = [_compared(whole.ok, whole.name, whole.detail)]
    if not whole.ok:
        # What a damaged file says of the model is worth nothing, and may have any shape.
        return [*checks, Compared("all else", Outcome.NOT_CHECKED, "the evidence is not whole")]
    if public_key is not None or signature_of(evidence).is_file():
        checks.append(_compare_signature(evidence, content, public_key))
    found = check_model(statement, model)
    checks.append(_compared(found.ok, found.name, found.detail))
    if run_path is None:
        parts = ("original weights", *OF_RUN.values(), *OF_MODEL.values())
        return [*checks, *(Compared(name, Outcome.NOT_CHECKED, "needs --run") for name in parts)]
    return [*checks, *_ask_run(statement["predicate"], open_run(run_path), allow_import)]


def _compare_signature(evidence: Path, content: bytes, public_key: Path | None) -> Compared:
    envelope = signature_of(evidence)
    if public_key is None:
        return Compared("signature", Outcome.NOT_CHECKED, "needs --public-key")
    if not envelope.is_file():
        return Compared("signature", Outcome.MISMATCH, f"expected {envelope}, found no such file")
    is_signed, detail = check_signature(envelope.read_bytes(), content, public_key)
    return _compared(is_signed, "signature", detail)


def _ask_run(predicate: dict[str, Any], run: StoredRun, allow_import: bool) -> list[Compared]:
    config = parse_config(
        run.store.read_text("sweep.yaml"), f"{run.path}/sweep.yaml", allow_import=allow_import, stored=True
    )
    checks = [
        _compare_original(predicate.get("original"), config),
        *_compare_run(predicate, run, config),
    ]
    trial = predicate.get("trial")
    trial_id = trial.get("trial_id") if isinstance(trial, dict) else None
    record = next((one for one in run.records if one.trial_id == trial_id), None)
    if record is None:
        return [*checks, Compared("trial", Outcome.MISMATCH, f"the run has no trial {trial_id}")]
    stored = describe_model(run, record)
    checks += [_compare(part, name, predicate.get(part), stored[part]) for part, name in OF_MODEL.items()]
    try:
        run.store.read_checkpoint(record)
    except StoreError as error:
        return [*checks, Compared("checkpoint in the run", Outcome.MISMATCH, str(error))]
    return [*checks, Compared("checkpoint in the run", Outcome.MATCH)]


def _compare_original(told: object, config: SweepConfig) -> Compared:
    name = "original weights"
    if told == {"sha256": None}:
        return Compared(name, Outcome.NOT_CHECKED, "they were not there when the model was exported")
    try:
        return _compare("original", name, told, {"sha256": weights_sha256(config.model)})
    except WeightsError as error:
        return Compared(name, Outcome.NOT_CHECKED, str(error))


def _compare_run(predicate: dict[str, Any], run: StoredRun, config: SweepConfig) -> list[Compared]:
    salt = read_salt(run.store)
    if salt is None:
        return [Compared(name, Outcome.NOT_CHECKED, "the run has no salt") for name in OF_RUN.values()]
    stored = describe_run(run, config, salt)
    return [_compare(part, name, predicate.get(part), stored[part]) for part, name in OF_RUN.items()]


def _compare(part: str, name: str, told: Any, found: Any) -> Compared:
    """Compare a part of the evidence with what the run says today.

    A run may have grown since: more models on its front, more metrics, more of the audit.
    """
    if told == found:
        return Compared(name, Outcome.MATCH)
    if part in ("metrics", "front") and isinstance(told, list) and all(one in found for one in told):
        return Compared(name, Outcome.MATCH, f"{len(found) - len(told)} more in the run since")
    if part == "audit" and _unmeasured(found) < _unmeasured(told):
        return Compared(name, Outcome.NOT_CHECKED, "the run was audited further since; export again")
    return Compared(name, Outcome.MISMATCH, _difference(told, found))


def _unmeasured(audit: Any) -> int:
    """Return how many evaluations of an audit are still to be made."""
    if not isinstance(audit, dict):
        return len(EVALUATIONS) + 1
    return sum(one["verdict"] == Verdict.NOT_MEASURED for one in audit["findings"])


def _difference(told: Any, found: Any) -> str:
    """Return the first values that differ, in words."""
    if isinstance(told, dict) and isinstance(found, dict):
        names = [name for name in {**told, **found} if told.get(name) != found.get(name)]
        return "; ".join(
            f"{name}: {told.get(name)!r} told, {found.get(name)!r} found"[:160] for name in names[:3]
        )
    return "what the run has differs"


def _compared(ok: bool | None, name: str, detail: str) -> Compared:
    return Compared(name, Outcome.MATCH if ok else Outcome.MISMATCH, detail)
