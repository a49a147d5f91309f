"""Where the numbers of a run came from: images, weights, machine, and what was spent on them."""

import csv
import hashlib
import io
from collections import Counter

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import Phase, TrialRecord
from pareto_unlearn.report.facts import Origin, PhaseCost
from pareto_unlearn.report.views import finite, group
from pareto_unlearn.store import StoredRun


def gather_origin(run: StoredRun) -> Origin:
    """Return where the numbers of a run came from, as far as it was stored."""
    digest, images = _manifest(run)
    info = run.info
    return Origin(
        started=info.started,
        versions=info.versions,
        devices=tuple(sorted({one.device for one in run.records if one.device is not None})),
        weights_sha256=info.weights_sha256,
        manifest_sha256=digest,
        images=images,
        spent=_spent(run.records),
    )


def _manifest(run: StoredRun) -> tuple[str | None, tuple[tuple[str, int], ...]]:
    """Return the digest of the list of images and how many there are by set and split."""
    try:
        text = run.store.read_text("manifest.csv")
    except StoreError:
        return None, ()
    counts = Counter(f"{row['set']} {row['split']}" for row in csv.DictReader(io.StringIO(text)))
    return hashlib.sha256(text.encode()).hexdigest(), tuple(sorted(counts.items()))


def _spent(records: list[TrialRecord]) -> tuple[PhaseCost, ...]:
    phases = group(sorted(records, key=lambda one: list(Phase).index(one.phase)), lambda one: str(one.phase))
    costs = [_cost(phase, members) for phase, members in phases.items()]
    return (*costs, _cost("all", records)) if len(costs) > 1 else tuple(costs)


def _cost(phase: str, records: list[TrialRecord]) -> PhaseCost:
    measuring = [one.measuring_pairs for one in records]
    known = [value for value in measuring if value is not None]
    return PhaseCost(
        phase=phase,
        trials=len(records),
        gradient_pairs=sum(one.gradient_pairs for one in records),
        measuring_pairs=sum(known) if len(known) == len(measuring) else None,
        seconds=sum(finite(one.seconds) or 0.0 for one in records),
    )
