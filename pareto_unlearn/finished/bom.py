"""The bill of materials of an exported model: CycloneDX 1.6, for tools that keep an inventory of models.

It repeats what the evidence says in a form that such tools read, and links to card and evidence by digest.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

__all__ = ["make_bom"]

_LIBRARIES = ("torch", "safetensors", "numpy")
_SHARES = {
    "completeness": "forget images",
    "completeness_worst_class": "forget images, worst class",
    "completeness_heldout": "forget images, held out",
    "retained_quality": "retain images",
    "retained_quality_heldout": "retain images, held out",
}
"""Columns of a trial that stand as performance metrics, and the images that they were measured on."""
_SETS = {"forget-set": ("forget_set", "images to forget"), "retain-set": ("retain_set", "images to keep")}


def make_bom(evidence: bytes, links: Mapping[str, tuple[str, bytes]]) -> bytes:
    """Return the content of the file, equal for equal evidence.

    Image sets are components with their count and their commitment; there is no hash of an image.

    Args:
        evidence: of the exported model.
        links: file name and content by kind of reference, ``model-card`` and ``evidence``.
    """
    statement = json.loads(evidence)
    told, (subject,) = statement["predicate"], statement["subject"]
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, sha256(evidence).hexdigest())}",
        "version": 1,
        "metadata": {
            "timestamp": told["made"]["date"],
            "tools": {
                "components": [_component("application", "pareto-unlearn", told["made"]["pareto_unlearn"])]
            },
            "component": _model(told, subject, links),
        },
        "components": [
            *(_set(reference, told[part], words, told["run"]) for reference, (part, words) in _SETS.items()),
            *(_component("library", name, told["made"][name]) for name in _LIBRARIES),
        ],
        "dependencies": [{"ref": "model", "dependsOn": [*_SETS, *_LIBRARIES]}],
    }
    return (json.dumps(bom, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _component(kind: str, name: str, version: str) -> dict[str, Any]:
    return {"type": kind, "bom-ref": name, "name": name, "version": version}


def _model(
    told: Mapping[str, Any], subject: Mapping[str, Any], links: Mapping[str, tuple[str, bytes]]
) -> dict[str, Any]:
    run, trial, outcome = told["run"], told["trial"], told["outcome"]
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": subject["name"],
        "version": trial["trial_id"],
        "hashes": _hashes(subject["digest"]["sha256"]),
        "pedigree": {
            "ancestors": [
                {
                    "type": "machine-learning-model",
                    "bom-ref": "original",
                    "name": f"original {run['family']} {run['variant']}",
                    "hashes": _hashes(told["original"]["sha256"]),
                }
            ],
            "notes": f"unlearned by {trial['method']}, {outcome['label']}: {outcome['reason']}",
        },
        "modelCard": {
            "modelParameters": {
                "task": "image-to-image",
                "architectureFamily": run["family"],
                "modelArchitecture": str(run["variant"]),
                "datasets": [{"ref": reference} for reference in _SETS],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(told))},
            "considerations": {"technicalLimitations": list(told["limits"])},
        },
        "externalReferences": [
            {"type": kind, "url": quote(name), "hashes": _hashes(sha256(content).hexdigest())}
            for kind, (name, content) in links.items()
        ],
        "properties": _properties(
            ("run", run["name"]),
            ("config_sha256", run["config_sha256"]),
            ("state", outcome["state"]),
            ("audit", None if told["audit"] is None else told["audit"]["standing"]),
        ),
    }


def _metrics(told: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Return metrics as CycloneDX spells them: values are text, with an interval where it is known."""
    for name, images in _SHARES.items():
        if told["trial"].get(name) is not None:
            yield {"type": name, "value": str(told["trial"][name]), "slice": images}
    for row in told["metrics"]:
        if row["class_name"] is not None or row["value"] is None:
            continue
        metric: dict[str, Any] = {
            "type": f"{row['metric']} ({row['protocol']})",
            "value": str(row["value"]),
            "slice": f"{row['set']} images, {row['split']}",
        }
        if row["low"] is not None and row["high"] is not None:
            metric["confidenceInterval"] = {"lowerBound": str(row["low"]), "upperBound": str(row["high"])}
        yield metric


def _set(reference: str, told: Mapping[str, Any], words: str, run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": reference,
        "name": f"{words} of {run['dataset']}",
        "data": [{"type": "dataset", "name": words, "description": f"{told['count']} images"}],
        "properties": _properties(("count", told["count"]), ("commitment_hmac_sha256", told["commitment"])),
    }


def _properties(*pairs: tuple[str, object]) -> list[dict[str, str]]:
    return [
        {"name": f"pareto-unlearn:{name}", "value": str(value)} for name, value in pairs if value is not None
    ]


def _hashes(digest: str | None) -> list[dict[str, str]]:
    return [] if digest is None else [{"alg": "SHA-256", "content": digest}]
