"""One trial, top to bottom: load, solve, measure. Knows no Ray and no store."""

from pareto_unlearn.trial.adding import measure_missing
from pareto_unlearn.trial.auditing import audit_subject
from pareto_unlearn.trial.bank import check_bank
from pareto_unlearn.trial.context import Material, Trial
from pareto_unlearn.trial.coupling import check_splitting
from pareto_unlearn.trial.degenerate import check_outputs
from pareto_unlearn.trial.forward import check_forward
from pareto_unlearn.trial.gpu_memory import release_gpu, share_gpu
from pareto_unlearn.trial.image_metrics import (
    check_heldout,
    check_weights,
    generate_pictures,
    heldout_pictures,
    measures_of,
    open_scoring,
)
from pareto_unlearn.trial.judging import failed_result, measure_trial, plan_record
from pareto_unlearn.trial.loading import load_material, load_original
from pareto_unlearn.trial.numerics import exact_float32
from pareto_unlearn.trial.prediction import (
    Counts,
    Sizes,
    Speeds,
    Work,
    count_gpus,
    count_images,
    count_work,
    measure_speeds,
    predict_sizes,
)
from pareto_unlearn.trial.rank_group import joined_ranks, mark_of
from pareto_unlearn.trial.ranks import ALONE, Ranks
from pareto_unlearn.trial.reference_model import check_reference, reference_section, weights_digest
from pareto_unlearn.trial.running import Hooks, run_trial
from pareto_unlearn.trial.subset import choose_pictured

__all__ = [
    "ALONE",
    "Counts",
    "Hooks",
    "Material",
    "Ranks",
    "Sizes",
    "Speeds",
    "Trial",
    "Work",
    "audit_subject",
    "check_bank",
    "check_forward",
    "check_heldout",
    "check_outputs",
    "check_reference",
    "check_splitting",
    "check_weights",
    "choose_pictured",
    "count_gpus",
    "count_images",
    "count_work",
    "exact_float32",
    "failed_result",
    "generate_pictures",
    "heldout_pictures",
    "joined_ranks",
    "load_material",
    "load_original",
    "mark_of",
    "measure_missing",
    "measure_speeds",
    "measure_trial",
    "measures_of",
    "open_scoring",
    "plan_record",
    "predict_sizes",
    "reference_section",
    "release_gpu",
    "run_trial",
    "share_gpu",
    "weights_digest",
]
