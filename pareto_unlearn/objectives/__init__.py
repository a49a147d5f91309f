"""The forget objective f1 and the retain objective f2, and the original model's outputs they compare with.

f1 is the distance of the model's outputs on forget images from the original model's outputs on noise; f2 is their distance
from the original's outputs on retain images (Algorithm 1, lines 5 and 6). Distances are means over images, so they do
not depend on the batch size. With squared errors, replacing the noise draws by their mean m is exact:
E||o - t||^2 = ||o - m||^2 + V, with V the variance of the targets. V is also the floor of f1.

Where the inputs hold draws that every step makes anew (Palette, the published training's masks), each input has its own
noise target: the original's output on the same input with noise in place of content. f1 is the distance from that, and its
floor what two noise targets of one input differ by: half their squared distance, nothing where noise draws nothing.

Where a reference model that never saw the forget images gives the targets, f1 is the distance from its outputs on the same
inputs, and its floor is zero.

What does not change is computed once a run, stored as plain arrays and opened memory-mapped by every trial.
"""

from pareto_unlearn.objectives.features import (
    EVALUATION_BATCH,
    Features,
    Rows,
    compute_features,
    feature_function,
)
from pareto_unlearn.objectives.losses import NoiseTarget, Objectives, build_objectives
from pareto_unlearn.objectives.target_files import ARRAYS, open_rows, open_targets
from pareto_unlearn.objectives.targets import (
    Targets,
    compute_paired_targets,
    compute_reference_targets,
    compute_targets,
)

__all__ = [
    "ARRAYS",
    "EVALUATION_BATCH",
    "Features",
    "NoiseTarget",
    "Objectives",
    "Rows",
    "Targets",
    "build_objectives",
    "compute_features",
    "compute_paired_targets",
    "compute_reference_targets",
    "compute_targets",
    "feature_function",
    "open_rows",
    "open_targets",
]
