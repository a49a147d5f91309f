"""The noise images of a sweep; their distribution is fitted once and kept in the run's cache."""

from pathlib import Path

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import (
    PixelNoise,
    SplitData,
    clipped_noise,
    correlated_noise,
    fit_covariance,
    measure_pixels,
    seeded_generator,
    uniform_noise,
)
from pareto_unlearn.objectives import open_rows
from pareto_unlearn.random_streams import Stream


def open_noise(config: SweepConfig, split: SplitData, cache: Path, key: str) -> PixelNoise | None:
    """Return how noise images are drawn; None where it is N(0, I) in the model's own space.

    Args:
        config: the sweep.
        split: its images; the training images of both sets are fitted.
        cache: folder of the run's memory-mapped files on this machine.
        key: changes whenever anything that decides the fit changes.
    """
    sets = split.forget_train.images, split.retain_train.images
    shape, path, rank = sets[0].shape[1:], cache / f"noise-{key}.npy", config.objective.noise_rank
    match config.objective.noise:
        case "gaussian":
            return None
        case "uniform":
            return uniform_noise(shape)
        case "batch_statistics":
            mean, std = open_rows(path, lambda: measure_pixels(sets)).tolist()
            return clipped_noise(shape, mean, std)
    generator = seeded_generator(config.seed, Stream.NOISE_FIT)
    return correlated_noise(shape, open_rows(path, lambda: fit_covariance(sets, rank, generator)))
