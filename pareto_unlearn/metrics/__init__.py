"""Metrics of generated images. Every value carries the protocol that defines it.

``builtin`` computes errors in the hole, and distances in the features of the embedded digit classifier.
``published`` computes the metrics of the papers and of the community, with the networks that ``weights``
lists. ``formulas`` holds the arithmetic on features and knows no network.
"""

from pareto_unlearn.metrics.builtin import DigitClassifier, PictureScores, load_classifier
from pareto_unlearn.metrics.feature_files import FeatureFiles, ImageFeatures
from pareto_unlearn.metrics.formulas import (
    blocked_parts,
    compute_frechet,
    compute_inception_score,
    compute_kernel_distance,
    compute_psnr,
    compute_split_inception_score,
    mean_interval,
    paired_cosines,
    shuffled_parts,
)
from pareto_unlearn.metrics.published import (
    Measure,
    Pictures,
    Scoring,
    choose_measures,
    needed_files,
    quantise,
    score_pictures,
)
from pareto_unlearn.metrics.weights import (
    WEIGHTS_FILES,
    FoundWeights,
    WeightsFile,
    digests_of,
    find_weights,
    inspect_weights,
    weights_folder,
)

__all__ = [
    "WEIGHTS_FILES",
    "DigitClassifier",
    "FeatureFiles",
    "FoundWeights",
    "ImageFeatures",
    "Measure",
    "PictureScores",
    "Pictures",
    "Scoring",
    "WeightsFile",
    "blocked_parts",
    "choose_measures",
    "compute_frechet",
    "compute_inception_score",
    "compute_kernel_distance",
    "compute_psnr",
    "compute_split_inception_score",
    "digests_of",
    "find_weights",
    "inspect_weights",
    "load_classifier",
    "mean_interval",
    "needed_files",
    "paired_cosines",
    "quantise",
    "score_pictures",
    "shuffled_parts",
    "weights_folder",
]
