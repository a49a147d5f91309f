"""The images a model must forget and those it must keep: data sets, splits, and the order of mini-batches.

Images are float32, NCHW, [0, 1]; gray data sets have one channel. A split is a manifest: image id, class,
set, split and SHA-256. Ids and classes alone decide it, so it is the same on any machine.
"""

from pareto_unlearn.data.background import fill_hole
from pareto_unlearn.data.choice import ClassChoice, choose_classes
from pareto_unlearn.data.digits import DIGITS_PIXELS, DIGITS_SIDE, load_digits
from pareto_unlearn.data.duplicates import check_duplicates
from pareto_unlearn.data.folder_facts import PictureFacts, describe_pictures, look_at_pictures
from pareto_unlearn.data.image_sets import (
    Digests,
    Images,
    ImageSet,
    ReadsAhead,
    SplitData,
    pixels_on,
    write_manifest,
)
from pareto_unlearn.data.layouts import find_folder
from pareto_unlearn.data.nearest import nearest_rows
from pareto_unlearn.data.noise import (
    PixelNoise,
    clipped_noise,
    correlated_noise,
    fit_covariance,
    measure_pixels,
    uniform_noise,
)
from pareto_unlearn.data.order import BatchOrder, Order, StratifiedOrder, reading_ahead, seeded_generator
from pareto_unlearn.data.reading import read_size
from pareto_unlearn.data.sources import HELDOUT_RATIO, mark_heldout
from pareto_unlearn.data.split import DATASETS, load_bystanders, load_split

__all__ = [
    "DATASETS",
    "DIGITS_PIXELS",
    "DIGITS_SIDE",
    "HELDOUT_RATIO",
    "BatchOrder",
    "ClassChoice",
    "Digests",
    "ImageSet",
    "Images",
    "Order",
    "PictureFacts",
    "PixelNoise",
    "ReadsAhead",
    "SplitData",
    "StratifiedOrder",
    "check_duplicates",
    "choose_classes",
    "clipped_noise",
    "correlated_noise",
    "describe_pictures",
    "fill_hole",
    "find_folder",
    "fit_covariance",
    "load_bystanders",
    "load_digits",
    "load_split",
    "look_at_pictures",
    "mark_heldout",
    "measure_pixels",
    "nearest_rows",
    "pixels_on",
    "read_size",
    "reading_ahead",
    "seeded_generator",
    "uniform_noise",
    "write_manifest",
]
