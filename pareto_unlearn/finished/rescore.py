"""Measures the published metrics of a finished run from its checkpoints, without training.

A metric that is stored already is not measured again, and no committed file changes: every new metric of a
trial becomes a file of its own beside the trial's other files.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pareto_unlearn.analysis.naming import find_trial
from pareto_unlearn.catalogue.metrics import PUBLISHED_KEYS
from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.data import SplitData, load_split
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.finished.images import check_images
from pareto_unlearn.metrics import Measure, Pictures, Scoring, digests_of, score_pictures
from pareto_unlearn.models import ImageToImage, pixel_format
from pareto_unlearn.records import HAS_MODEL, MODEL_FILE, MetricRow, TrialRecord
from pareto_unlearn.store import RunStore, StoredRun, open_run, record_extractors
from pareto_unlearn.trial import (
    check_heldout,
    check_weights,
    choose_pictured,
    exact_float32,
    generate_pictures,
    heldout_pictures,
    load_original,
    measures_of,
    open_scoring,
)

__all__ = ["ScoredRow", "rescore"]


class ScoredRow(NamedTuple):
    """A metric row and the trial to which it belongs."""

    trial: TrialRecord
    row: MetricRow


def rescore(
    run_path: str,
    protocol: str,
    metrics: Sequence[str] | None = None,
    *,
    weights: str | None = None,
    weights_sha256: Mapping[str, str] | None = None,
    trial: str | None = None,
    seed: int | None = None,
    allow_import: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[ScoredRow]:
    """Measure and commit the missing metrics of every trial with a model; return their rows, old and new.

    Args:
        run_path: the run directory.
        protocol: a key of ``PUBLISHED_KEYS``.
        metrics: names among those of the protocol; None for all of them.
        weights: folder of the networks; None for the folder of the sweep file or of
            ``PARETO_UNLEARN_WEIGHTS``.
        weights_sha256: digests by file name, beside those of the sweep file, for files whose publisher names
            none.
        trial: the name of one trial, see ``find_trial``; None for all trials.
        seed: of that trial, where several have the name.
        allow_import: run the code of the file that the run's family may be.
        say: called with a line of text for every trial that is measured.

    Raises:
        ConfigError: unknown names, no digests, images other than the run's, or too few images.
        RunLockedError: a sweep is writing to the run.
        StoreError: a checkpoint is damaged.
        WeightsError: a network is missing or its file is another; nothing was measured then.
    """
    run = open_run(run_path)
    config = _config_for(run.store, protocol, metrics, weights_sha256 or {}, allow_import)
    if weights is not None:
        evaluate = config.evaluate.model_copy(update={"weights": weights})
        config = config.model_copy(update={"evaluate": evaluate})
    chosen = _choose_trials(run, trial, seed)
    found = check_weights(config)
    with run.store.lock():
        split = _open_images(config, run.store)
        record_extractors(run.store, digests_of(found))
        _measure_missing(config, run, split, chosen, say)
    return _rows_of(run.store, config, chosen)


def _config_for(
    store: RunStore,
    protocol: str,
    metrics: Sequence[str] | None,
    pins: Mapping[str, str],
    allow_import: bool,
) -> SweepConfig:
    """Return the sweep of a run with these metrics and digests, checked as if its file named them."""
    known = PUBLISHED_KEYS.get(protocol)
    if known is None:
        raise ConfigError(f"expected of protocols {', '.join(PUBLISHED_KEYS)}, found {protocol}")
    names = known if metrics is None else metrics
    others = [name for name in names if name not in known]
    if others or not names:
        raise ConfigError(
            f"expected of metrics {', '.join(known)} under {protocol}, found {', '.join(others) or 'none'}; "
            "all else is measured by the sweep itself"
        )
    text = store.read_text("sweep.yaml")
    # A sweep file with controls is valid only if its metrics include mse; the sweep has measured it already.
    overrides = [f"evaluate.protocol={protocol}", f"evaluate.metrics=[{', '.join(('mse', *names))}]"]
    config = parse_config(text, f"{store.path}/sweep.yaml", overrides, allow_import=allow_import, stored=True)
    if not pins:
        return config
    # JSON is valid YAML, and quotes any character that a file name may hold.
    all_pins = json.dumps({**config.evaluate.weights_sha256, **pins})
    pinned = [*overrides, f"evaluate.weights_sha256={all_pins}"]
    return parse_config(text, f"{store.path}/sweep.yaml", pinned, allow_import=allow_import, stored=True)


def _choose_trials(run: StoredRun, trial: str | None, seed: int | None) -> list[TrialRecord]:
    if trial is not None:
        return [find_trial(run.records, trial, seed)]
    chosen = [record for record in run.records if record.state in HAS_MODEL]
    if not chosen:
        raise ConfigError(f"{run.path}: expected trials with a model, found none")
    return chosen


def _open_images(config: SweepConfig, store: RunStore) -> SplitData:
    """Return the images of the run; see ``check_images``."""
    split = load_split(config.data, config.seed, pixel_format(config.model), store.cache_dir())
    check_images(store, split)
    check_heldout(config, split)
    return split


@exact_float32()
def _measure_missing(
    config: SweepConfig,
    run: StoredRun,
    split: SplitData,
    chosen: Sequence[TrialRecord],
    say: Callable[[str], None],
) -> None:
    work = _missing_measures(config, run.store, chosen)
    if not work:
        return
    device = torch.device("cuda" if config.run.gpus_per_trial > 0 and torch.cuda.is_available() else "cpu")
    scoring = open_scoring(config, run.store.cache_dir(), run.info.config_hash[:16], device)
    if scoring is None:
        raise ValueError("expected metrics to measure, found none")
    model = load_original(config, device)
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for record, missing in work:
        say(f"{record.trial_id} {record.label}: {', '.join(measure.metric for measure in missing)}")
        _load_weights(model, run.store, record, original)
        outputs = partial(generate_pictures, model, split, config.seed, device)
        pictures = heldout_pictures(split, outputs, choose_pictured(config, split))
        _measure_trial(run.store, record, pictures, replace(scoring, measures=tuple(missing)), say)


def _missing_measures(
    config: SweepConfig, store: RunStore, chosen: Sequence[TrialRecord]
) -> list[tuple[TrialRecord, list[Measure]]]:
    """Return the trials that lack stored metrics, each with the measures it lacks."""
    known = {(record.trial_id, row.metric) for record, row in _rows_of(store, config, chosen)}
    every = [
        (
            record,
            [measure for measure in measures_of(config) if (record.trial_id, measure.metric) not in known],
        )
        for record in chosen
    ]
    return [(record, missing) for record, missing in every if missing]


def _load_weights(
    model: ImageToImage, store: RunStore, record: TrialRecord, original: Mapping[str, Tensor]
) -> None:
    if record.checkpoint is None:
        model.load_state_dict(original)
    else:
        model.load_state_dict(load_safetensors(store.read_checkpoint(record)[MODEL_FILE]))


def _measure_trial(
    store: RunStore,
    record: TrialRecord,
    pictures: Mapping[str, Pictures],
    scoring: Scoring,
    say: Callable[[str], None],
) -> None:
    try:
        rows = score_pictures(scoring, pictures, record.checkpoint_sha256 or "original")
    except ValueError as error:
        # One model with broken pictures must not keep the others from being measured.
        say(f"{record.trial_id} {record.label}: not measured, {error}")
        return
    for measure in scoring.measures:
        store.add_metric(record, [row for row in rows if row.metric == measure.metric])


def _rows_of(store: RunStore, config: SweepConfig, chosen: Sequence[TrialRecord]) -> list[ScoredRow]:
    """Return the stored rows of the metrics named by ``config``, in the order of trials and metrics."""
    by_id = {record.trial_id: record for record in chosen}
    order = [measure.metric for measure in measures_of(config)]
    found = [
        ScoredRow(by_id[row["trial_id"]], _metric_row(row))
        for row in store.table("metrics").to_pylist()
        if row["trial_id"] in by_id and row["protocol"] == config.evaluate.protocol and row["metric"] in order
    ]
    places = {trial_id: place for place, trial_id in enumerate(by_id)}
    return sorted(
        found,
        key=lambda scored: (places[scored.trial.trial_id], order.index(scored.row.metric), scored.row.set),
    )


def _metric_row(values: Mapping[str, object]) -> MetricRow:
    own = {name: value for name, value in values.items() if name not in ("trial_id", "attempt")}
    return MetricRow(**own)  # type: ignore[arg-type]
