"""The forget objective f1 and the retain objective f2, and the original model's outputs they compare with.

f1 is the distance of the model's outputs on forget images from their targets; f2 is the distance of its
outputs on retain images from the original's (Algorithm 1, lines 5 and 6). Distances are means over images, so
they do not depend on the batch size. There are these kinds of forget target:

- Shared noise: the original's outputs on a bank of noise images. With squared errors, replacing the noise
  draws by their mean m is exact: E||o - t||^2 = ||o - m||^2 + V, with V the variance of the targets. V is the
  floor of f1.
- Paired noise, where every step draws parts of its inputs anew (Palette, the masks of the published
  training): the original's output on the same input with noise in place of content. The floor of f1 follows
  from how much two noise targets of one input differ: half their squared distance, zero if nothing is drawn.
- A reference model that never saw the forget images: its outputs on the same inputs. The floor of f1 is zero.
- Targets made from images, which a model can reach too: for every forget image its own background, or the
  original's output for the retain image that looks most like it; or for all of them the mean of the
  original's outputs on retain images. The floor of f1 is zero.

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
from pareto_unlearn.objectives.target_files import open_rows, open_targets
from pareto_unlearn.objectives.targets import (
    Targets,
    compute_mean_targets,
    compute_own_targets,
    compute_paired_targets,
    compute_targets,
)

__all__ = [
    "EVALUATION_BATCH",
    "Features",
    "NoiseTarget",
    "Objectives",
    "Rows",
    "Targets",
    "build_objectives",
    "compute_features",
    "compute_mean_targets",
    "compute_own_targets",
    "compute_paired_targets",
    "compute_targets",
    "feature_function",
    "open_rows",
    "open_targets",
]
