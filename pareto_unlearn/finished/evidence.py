"""The evidence file beside an exported model: an in-toto Statement with all that the run knows of it.

It is evidence, not proof: whoever can write the file can write another. What it adds is that every number has
one place, that a changed file is noticed, and that the run can be asked again (``verifying``).
"""

import csv
import io
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pareto_unlearn import __version__
from pareto_unlearn.analysis.audit import ModelAudit, audit_models, find_company
from pareto_unlearn.assets.verify_evidence import PREDICATE_TYPE, STATEMENT_TYPE, canonical, commit, seal
from pareto_unlearn.catalogue.audits import AUDIT
from pareto_unlearn.config import AuditPolicy, SweepConfig
from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models import weights_sha256
from pareto_unlearn.records import HAS_MODEL, MetricRow, Phase, TrialRecord
from pareto_unlearn.store import StoredRun, read_salt

__all__ = [
    "LIMITS",
    "audit_of",
    "describe_model",
    "describe_run",
    "make_evidence",
    "training_digests",
]

SCHEMA_VERSION = "0.1"
LIMITS = (
    "Unlearning is approximate: there is no guarantee in the sense of differential privacy.",
    "The numbers hold for this run's images, objective and attacks; an attack that was not tried may bring "
    "images "
    "back.",
    "Whoever has the original model, or other models of this front, can come back to what was forgotten; "
    "copies "
    "that were handed out before are not covered.",
    "The file is a record by whoever made the model, not an attestation by a third party; a signature "
    "beside it says who that was.",
)


def make_evidence(
    run: StoredRun, config: SweepConfig, record: TrialRecord, file: tuple[str, str], picked: object = None
) -> bytes:
    """Return the content of the evidence file of an exported model.

    Without a salt, in a run of an earlier version, images are counted and not committed to.

    Args:
        run: the run.
        config: its sweep file.
        record: the row of the model.
        file: name and SHA-256 of the exported file.
        picked: the note of ``pick``, if it chose this model.
    """
    salt = read_salt(run.store)
    name, digest = file
    statement: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "schema": {"id": PREDICATE_TYPE, "version": SCHEMA_VERSION},
            "made": {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "pareto_unlearn": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "safetensors", "numpy")},
            },
            "original": {"sha256": _original_digest(config)},
            **describe_run(run, config, salt),
            **describe_model(run, record),
            "selected_by": picked,
            "limits": list(LIMITS),
        },
    }
    statement["predicate"]["seal"] = seal(statement)
    return canonical(statement)


def _original_digest(config: SweepConfig) -> str | None:
    """Return the digest of the original's weights, None if they are not here any more."""
    try:
        return weights_sha256(config.model)
    except WeightsError:
        return None


def describe_run(run: StoredRun, config: SweepConfig, salt: str | None) -> dict[str, Any]:
    """Return the parts of a predicate that all models of a run share.

    Images are committed to with a salt: a plain hash would let anyone who has an image confirm that it was
    among the images to forget. The manifest has their hashes, so its digest is keyed too.
    """
    manifest = run.store.read_text("manifest.csv")
    return {
        "run": {
            "name": run.info.name,
            "smoke": run.info.smoke,
            "config_sha256": run.info.config_hash,
            "manifest_hmac_sha256": salt and commit(salt, [manifest]),
            "objective": run.info.objective,
            "family": config.model.row.name,
            "variant": config.model.variant,
            "dataset": config.data.dataset,
        },
        "forget_set": _describe_set(training_digests(run, ("forget",)), run.info.classes_forget, salt),
        "retain_set": _describe_set(
            training_digests(run, ("retain", "proxy")), run.info.classes_retain, salt
        ),
    }


def training_digests(run: StoredRun, names: Sequence[str]) -> list[str]:
    """Return the SHA-256 of the images of some sets that were trained on."""
    rows = csv.DictReader(io.StringIO(run.store.read_text("manifest.csv")))
    return [row["sha256"] for row in rows if row["set"] in names and row["split"] == "train"]


def _describe_set(digests: Sequence[str], classes: Sequence[str], salt: str | None) -> dict[str, Any]:
    """Return what is said of a set of training images."""
    return {
        "count": len(digests),
        "classes": list(classes),
        "commitment": salt and commit(salt, digests),
        "algorithm": "HMAC-SHA256 of the sorted SHA-256 of the images, one a line; the salt is kept in the "
        "run",
    }


def describe_model(run: StoredRun, record: TrialRecord) -> dict[str, Any]:
    """Return the parts of a predicate on one model, and the other models of its front."""
    members = [
        one
        for one in run.records
        if one.seed == record.seed
        and one.state in HAS_MODEL
        and one.phase not in (Phase.ORIGINAL, Phase.CONTROL, Phase.CHECK)
    ]
    audit = audit_of(run, record)
    return {
        "checkpoint": {"sha256": record.checkpoint_sha256},
        "outcome": {"label": record.label, "state": str(record.state), "reason": record.reason},
        "trial": {name: _plain(value) for name, value in asdict(record).items()},
        "metrics": _metrics_of(run, record),
        "audit": None if audit is None else _describe_audit(audit),
        "front": [{"trial_id": one.trial_id, "label": one.label, "state": str(one.state)} for one in members],
    }


def audit_of(run: StoredRun, record: TrialRecord) -> ModelAudit | None:
    """Return the audit of a model by the built-in policy; None if it was not audited."""
    rows = run.audit_rows()
    found = audit_models([record], rows, AuditPolicy(), find_company(run.records, rows))
    return found[0] if found else None


def _describe_audit(audit: ModelAudit) -> dict[str, Any]:
    """Return verdicts and their values; details are left out, since they may name images."""
    return {
        "standing": str(audit.standing),
        "policy": AuditPolicy().model_dump(mode="json"),
        "findings": [
            {"evaluation": one.evaluation, "verdict": str(one.verdict), "value": _plain(one.value)}
            for one in audit.findings
        ],
    }


def _metrics_of(run: StoredRun, record: TrialRecord) -> list[dict[str, Any]]:
    """Return the metrics of a model in one order; rows of audits name single images and stay in the run."""
    own = [
        {field.name: _plain(row[field.name]) for field in fields(MetricRow)}
        for row in run.store.table("metrics").to_pylist()
        if row["trial_id"] == record.trial_id and row["protocol"] != AUDIT
    ]
    keys = ("protocol", "metric", "set", "split", "class_name")
    return sorted(own, key=lambda row: tuple(str(row[key]) for key in keys))


def _plain(value: Any) -> Any:
    """Return a value for JSON: null is not measured, and a number that is not finite is its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, str) else value
