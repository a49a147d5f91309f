"""Audits the models of a finished run from their checkpoints, without training any of them for keeps.

What is stored already is not measured again. Rows go into files of their own beside the committed ones, so
two audits of one model, also by two releases, never mix.
"""

import copy
from collections.abc import Callable, Sequence

from safetensors.torch import load as load_safetensors

from pareto_unlearn.analysis.audit import ModelAudit, audit_models, find_company
from pareto_unlearn.audit import audit_full, audit_quick
from pareto_unlearn.catalogue.audits import AUDIT, GAP_ATTACKS, lowest_error
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT
from pareto_unlearn.config import AuditPolicy, SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.finished.images import check_images
from pareto_unlearn.records import HAS_MODEL, MODEL_FILE, Phase, TrialRecord
from pareto_unlearn.store import StoredRun, open_run
from pareto_unlearn.trial import audit_subject, load_material

__all__ = ["audit_run", "read_audits"]

QUICK_GROUP, FULL_GROUP = "quick", "full"


def audit_run(
    run_path: str,
    policy: AuditPolicy,
    *,
    trial: str | None = None,
    every: bool = False,
    quick: bool = False,
    allow_import: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[ModelAudit, ...]:
    """Measure and commit the missing audit rows of a run's models and return what all rows show.

    The original and the controls are always among them: nothing is shown without them.

    Args:
        run_path: the run directory.
        policy: thresholds of the verdicts.
        trial: first digits of the id of one trial; None for the solutions of the run's own method.
        every: audit every trial with a model, baselines too.
        quick: only what a sweep itself measures of every model.
        allow_import: run the code of the file that the run's family may be.
        say: called with a line of text for every model that is measured.

    Raises:
        ConfigError: no such trial, or the images are not those of the run.
        RunLockedError: a sweep is writing to the run.
        StoreError: a checkpoint is damaged.
    """
    run = open_run(run_path)
    chosen = _choose(run, trial, every)
    text = run.store.read_text("sweep.yaml")
    config = parse_config(text, "sweep.yaml", allow_import=allow_import, stored=True)
    with run.store.lock():
        _measure_missing(config, run, chosen, quick, say)
    return read_audits(open_run(run_path), policy)


def read_audits(run: StoredRun, policy: AuditPolicy) -> tuple[ModelAudit, ...]:
    """Return what the stored audit rows of a run show."""
    rows = run.audit_rows()
    return audit_models(run.records, rows, policy, find_company(run.records, rows))


def _choose(run: StoredRun, trial: str | None, every: bool) -> list[TrialRecord]:
    """Return the models to audit, those that the others are compared with first."""
    with_model = [record for record in run.records if record.state in HAS_MODEL]
    company = [record for record in with_model if record.phase in (Phase.ORIGINAL, Phase.CONTROL)]
    others = [record for record in with_model if record not in company]
    # The original is one model, whatever the seed of its row.
    originals = [record for record in company if record.phase is Phase.ORIGINAL]
    company = [record for record in company if record not in originals[1:]]
    if trial is not None:
        others = [record for record in others if record.trial_id.startswith(trial)]
        if len(others) != 1:
            raise ConfigError(
                f"{run.path}: expected the id of one unlearned model, found {len(others)} whose id starts "
                f"with {trial!r}; `ls --json` lists them"
            )
    elif not every:
        others = [record for record in others if record.method == EPSILON_CONSTRAINT]
    return [*company, *others]


def _measure_missing(
    config: SweepConfig,
    run: StoredRun,
    chosen: Sequence[TrialRecord],
    quick: bool,
    say: Callable[[str], None],
) -> None:
    rows = run.audit_rows()
    wanted = lowest_error(GAP_ATTACKS[0])
    lacking = [
        record
        for record in chosen
        if record.trial_id not in rows or not (quick or ("forget", wanted) in rows[record.trial_id])
    ]
    if not lacking:
        return
    material = load_material(config, run.store.cache_dir(), run.info.config_hash[:16])
    check_images(run.store, material.split)
    original = copy.deepcopy(material.model)
    for place, record in enumerate(lacking, start=1):
        say(f"{place} of {len(lacking)}: {record.trial_id} {record.label}")
        if record.checkpoint is None:
            material.model.load_state_dict(original.state_dict())
        else:
            material.model.load_state_dict(load_safetensors(run.store.read_checkpoint(record)[MODEL_FILE]))
        subject = audit_subject(material)
        if record.trial_id not in rows:
            run.store.add_metrics(record, AUDIT, QUICK_GROUP, audit_quick(subject))
        if not quick:
            run.store.add_metrics(record, AUDIT, FULL_GROUP, audit_full(subject, original))
