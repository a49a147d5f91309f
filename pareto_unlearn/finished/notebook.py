"""A run for notebooks and scripts: its tables, and its models at any epsilon.

Opening a run and reading its tables imports no torch; making a model does.
"""

import os
from typing import TYPE_CHECKING, NamedTuple

from pareto_unlearn import store
from pareto_unlearn.analysis.naming import find_trial
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT
from pareto_unlearn.records import TrialRecord

if TYPE_CHECKING:
    from pareto_unlearn.analysis.picking import Pick
    from pareto_unlearn.models import ImageToImage


class UnlearnedModel(NamedTuple):
    """A model and the row of ``trials`` with its evidence: ``model, record = run.model_at(0.3)``."""

    model: "ImageToImage"
    record: TrialRecord


class Run(store.StoredRun):
    """A stored run that also makes models; everything it reads is described in ``store.StoredRun``."""

    def model(self, name: str, *, seed: int | None = None, allow_import: bool = False) -> UnlearnedModel:
        """Return the model of a trial: ``model, record = run.model("highest")``.

        Args:
            name: the trial's label or role as ``pareto-unlearn ls`` shows it, its id, or its first digits.
            seed: of the trial; None where the name fits one trial only.
            allow_import: run the code of the file that the run's family may be.

        Returns:
            The model and its row. The model is on the CPU in evaluation mode, its weights verified against
            the row; that of the trial ``original`` is read from its own file.

        Raises:
            ConfigError: the name fits no trial or several, or the trial left no model.
            StoreError: its checkpoint is damaged.
            WeightsError: the original's file, which describes the network, is missing.
        """
        from pareto_unlearn.finished.dial import load_trial_model

        record = find_trial(self.records, name, seed)
        return UnlearnedModel(load_trial_model(self.store, record, allow_import=allow_import), record)

    def model_at(
        self,
        epsilon: float,
        *,
        absolute: bool = False,
        seed: int | None = None,
        method: str = EPSILON_CONSTRAINT,
        allow_import: bool = False,
    ) -> UnlearnedModel:
        """Return the unlearned model at any epsilon, made without training.

        The model is interpolated, measured and committed to the run; the same call again gives the same row
        and weights. ``records`` and the tables of this object stay as they were read; load the run again to
        see the new row.

        Args:
            epsilon: a fraction of the valid range in (0, 1), or raw f1.
            absolute: epsilon is raw f1.
            seed: the seed whose solutions are mixed; None for the run's first seed.
            method: the method whose solutions are mixed: ours, or a baseline that left a whole front.
            allow_import: run the code of the file that the run's family may be.

        Returns:
            The model and its row. The model is on the CPU in evaluation mode, its weights verified against
            the row. ``record.f1`` was measured and exceeds ``record.epsilon`` by no more than 0.2 % of f1's
            own range.

        Raises:
            ConfigError: epsilon lies outside what the solutions span, or the run has no range, or none of
                the method's checkpoints.
            RunLockedError: a sweep is writing to the run.
            StoreError: a checkpoint is damaged.
        """
        from pareto_unlearn.finished.dial import dial, load_trial_model

        record = dial(
            self.path, epsilon, absolute=absolute, seed=seed, method=method, allow_import=allow_import
        )
        return UnlearnedModel(load_trial_model(self.store, record, allow_import=allow_import), record)

    def pick(
        self,
        *,
        knee: bool = False,
        epsilon: float | None = None,
        min_quality: float | None = None,
        split: str = "heldout",
        min_completeness: float | None = None,
        worst_class: bool = False,
        max_gap: float | None = None,
        seed: int | None = None,
    ) -> "Pick":
        """Return the model that keeps all criteria and is best in what they do not bound, with the reasons.

        Without criteria it is the recommendation of the report. The arguments are those of
        ``analysis.picking.Criteria``, whose ``pick_model`` says how a choice is made. Nothing is written;
        the verb ``pick`` also records its choice in the run.

        Raises:
            ConfigError: no model keeps all criteria; names the nearest.
        """
        from pareto_unlearn.analysis.picking import Criteria
        from pareto_unlearn.finished.pick import pick_from

        criteria = Criteria(
            knee=knee,
            epsilon=epsilon,
            min_quality=min_quality,
            split=split,
            min_completeness=min_completeness,
            worst_class=worst_class,
            max_gap=max_gap,
            seed=seed,
        )
        return pick_from(self, criteria)[0]


def load_run(path: str | os.PathLike[str]) -> Run:
    """Open a run for reading and for making models.

    Args:
        path: the run directory, local or a URI such as ``s3://bucket/runs/name``.

    Raises:
        ConfigError: there is no run at ``path``.
        StoreError: a committed file is damaged or of a newer schema.
    """
    return Run.open(path)
