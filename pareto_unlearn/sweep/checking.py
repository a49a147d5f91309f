"""Finds all that is wrong with the weights and data of a sweep before anything is written or started."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pareto_unlearn.catalogue.methods import ORIGINAL
from pareto_unlearn.config import (
    SweepConfig,
    config_hash,
    describe_difference,
    dropped_measurements,
    former_config_hashes,
    measuring_fields,
    parse_config,
    result_fields,
    trial_id,
)
from pareto_unlearn.config.model_section import BUILTIN, RANDOM
from pareto_unlearn.errors import ConfigError, StoreError, WeightsError
from pareto_unlearn.foreign_text import guarded_csv
from pareto_unlearn.records import Phase, TrialRecord
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep.inspection import Inspection, inspect_inputs

if TYPE_CHECKING:
    from pareto_unlearn.data import SplitData
    from pareto_unlearn.trial import Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSweep:
    """What the checks read of a sweep and its run keeps.

    ``extractors`` holds the SHA-256 of the metric networks' files by name, ``features`` says in words what f1
    and f2 compare, ``sizes`` what the sweep writes, ``found`` what lies in the files of weights and images.
    """

    weights_sha256: str
    extractors: Mapping[str, str]
    manifest: str
    classes_forget: tuple[str, ...]
    classes_retain: tuple[str, ...]
    features: str
    sizes: "Sizes"
    split: "SplitData"
    found: Inspection


TRAIN = "pareto-unlearn train SWEEP"


def check_inputs(config: SweepConfig, train_command: str = TRAIN) -> CheckedSweep:
    """Check the weights and data that a sweep names, and return what its run keeps of them.

    Args:
        config: the sweep.
        train_command: what a user is told to run where the original is not trained yet.

    Raises:
        ParetoUnlearnError: something is missing or does not fit.
    """
    from pareto_unlearn.data import check_duplicates, load_split, write_manifest  # imports torch
    from pareto_unlearn.metrics import digests_of
    from pareto_unlearn.models import pixel_format
    from pareto_unlearn.trial import (
        check_bank,
        check_forward,
        check_heldout,
        check_outputs,
        check_reference,
        check_splitting,
        check_weights,
        load_original,
        predict_sizes,
        weights_digest,
    )

    check_forward(config)
    _check_trained(config, train_command)
    digest = weights_digest(config)
    extractors = digests_of(check_weights(config))
    model = load_original(config)
    check_reference(config, model)
    check_bank(config, model)
    split = load_split(config.data, config.seed, pixel_format(config.model))
    check_heldout(config, split)
    check_outputs(config, model, split)
    check_splitting(config, model, split)
    manifest = write_manifest(split)
    check_duplicates(split, config.data.duplicates)
    return CheckedSweep(
        weights_sha256=digest,
        extractors=extractors,
        manifest=manifest,
        classes_forget=split.forget_train.class_names,
        # The training set may hold a proxy's classes; the held-out set never does.
        classes_retain=split.retain_heldout.class_names,
        features=model.describe_features(config.objective.space),
        sizes=predict_sizes(config, model, split),
        split=split,
        found=inspect_inputs(config, model, split),
    )


def _check_trained(config: SweepConfig, train_command: str) -> None:
    """Say how to train an original that is not there yet, once all else that a training reads is right."""
    model = config.model
    recipe = model.row.recipe_of(model.variant)
    is_embedded = bool(model.row.builtin)  # then a name that is not there is a mistake, not a plan
    is_there = model.checkpoint in (BUILTIN, RANDOM) or Path(model.checkpoint).expanduser().exists()
    if is_embedded or is_there or "://" in model.checkpoint or recipe is None or recipe.steps is None:
        return
    from pareto_unlearn.data import check_duplicates, load_split, seeded_generator, write_manifest
    from pareto_unlearn.models import initialise_model, pixel_format
    from pareto_unlearn.random_streams import Stream
    from pareto_unlearn.trial import check_heldout, check_weights

    check_weights(config)
    generator = seeded_generator(config.seed, Stream.INITIAL_WEIGHTS)
    initialise_model(config.task, generator, model, seed=config.seed)  # does the hole fit?
    split = load_split(config.data, config.seed, pixel_format(model))
    check_heldout(config, split)
    write_manifest(split)
    check_duplicates(split, config.data.duplicates)
    raise WeightsError(
        f"model.checkpoint: nothing at {model.checkpoint}: not trained yet. The sweep file and its images "
        f"are valid; run `{train_command}` ({recipe.steps} steps, on {len(split.forget_train)} images to "
        f"forget and {len(split.retain_train)} to keep), then this command again. If the file is elsewhere, "
        "give its path (relative to the current folder); --smoke tries the sweep out without it"
    )


def check_same_sweep(
    config: SweepConfig, store: RunStore, known_hash: str | None, weights_sha256: str
) -> None:
    """Refuse to continue a run with another sweep: its rows would not be comparable.

    A run whose ``run.json`` is lost is told by its stored sweep and by the ids of its rows.

    Args:
        config: the sweep.
        store: the run.
        known_hash: configuration hash of the run; None where nothing names it.
        weights_sha256: of the original model, and of its reference.

    Raises:
        ConfigError: the sweeps differ; the message lists the changed keys.
    """
    if known_hash is None and not store.records():
        return
    old = _stored_config(store)
    if known_hash != config_hash(config, weights_sha256):
        _check_results_are_same(config, store, old, known_hash, weights_sha256)
    _check_measurements(config, store, old)


def _check_results_are_same(
    config: SweepConfig, store: RunStore, old: SweepConfig | None, known_hash: str | None, weights_sha256: str
) -> None:
    """Refuse a run whose hash is not that of the sweep, unless all that decides results is the same."""
    rows = store.records().values()
    if old is None and known_hash is None:
        raise ConfigError(
            f"{store.path} holds {len(rows)} rows, but neither run.json nor sweep.yaml says of which sweep; "
            "put one of them back from a copy, or give this sweep another `name`"
        )
    lines = [] if old is None else describe_difference(result_fields(old), result_fields(config))
    if old is not None and not lines:
        # A run of an earlier release to which measurements were added since has none of these hashes.
        is_former = known_hash in former_config_hashes(config, weights_sha256, old)
        if is_former or _has_original(rows, config, weights_sha256, is_known=known_hash is None):
            return
    file = "" if config.model.row.source_sha256 is None else ", or the file of its family"
    changes = "; ".join(lines) if lines else f"the weights of the original model or of its reference{file}"
    raise ConfigError(
        f"{store.path} holds a run of another sweep: {changes}. Give this sweep another `name`, or undo the "
        "change; epsilons, seeds, baselines and measurements may be added to a run"
    )


def _check_measurements(config: SweepConfig, store: RunStore, old: SweepConfig | None) -> None:
    """Refuse to measure less of later trials than of those that a run has.

    Raises:
        ConfigError: names what would no longer be measured.
    """
    dropped = [] if old is None else dropped_measurements(old, config)
    if old is None or not dropped:
        return
    fields = ({"evaluate": measuring_fields(one)} for one in (old, config))
    raise ConfigError(
        f"{store.path} holds a run that measures {', '.join(dropped)} too: "
        f"{'; '.join(describe_difference(*fields))}. Measurements may be added to a run, none taken away; "
        "`pareto-unlearn eval` adds metrics of another protocol beside them"
    )


def _has_original(
    rows: Collection[TrialRecord], config: SweepConfig, weights_sha256: str, *, is_known: bool
) -> bool:
    """Return whether the rows are of these weights, by the id of the original's; ``is_known`` without one."""
    seen = {record.trial_id for record in rows if record.phase is Phase.ORIGINAL}
    ids = {
        trial_id(
            config,
            weights_sha256=weights_sha256,
            phase=Phase.ORIGINAL,
            method=ORIGINAL,
            role=None,
            epsilon=None,
            weight=None,
            seed=seed,
        )
        for seed in (config.seed, *config.trial_seeds)
    }
    return bool(seen & ids) if seen else is_known


def _stored_config(store: RunStore) -> SweepConfig | None:
    """Return the sweep that a run was started with; None where its file is missing or damaged."""
    try:
        return parse_config(store.read_text("sweep.yaml"), f"{store.path}/sweep.yaml", stored=True)
    except (ConfigError, StoreError):
        return None


def check_same_images(store: RunStore, manifest: str, *, is_new: bool) -> None:
    """Refuse to continue a run on other images: its rows would not be comparable.

    Raises:
        ConfigError: the manifests differ; the message counts the differences and names the first.
    """
    known = None if is_new else guarded_csv(store.read_text("manifest.csv"))
    if known is None or known == manifest:
        return
    old, new = (set(text.splitlines()) for text in (known, manifest))
    changed = sorted((old - new) | (new - old))
    first = f"the first {changed[0][:200]}" if changed else "but the lines in another order"
    raise ConfigError(
        f"{store.path} was started with other images: expected the {len(old) - 1} of its manifest.csv, "
        f"found {len(new - old)} that are not in it and missed {len(old - new)}, {first}; "
        "give this sweep another `name`, or put them back"
    )
