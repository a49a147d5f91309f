"""The problems of the fronts benchmark: where each starts, its losses, and how a model is measured."""

from collections.abc import Callable
from pathlib import Path

from front_problems.autoencoder import build_conv_autoencoder
from front_problems.closed_form import EllipsoidProblem, build_closed_form
from front_problems.colour import build_emoji, build_identities
from front_problems.digits import build_digits_classes, build_digits_encoder, build_digits_random
from front_problems.problem import FrontProblem

__all__ = ["PROBLEMS", "EllipsoidProblem", "FrontProblem", "build_closed_form"]

PROBLEMS: dict[str, Callable[[Path], FrontProblem]] = {
    "digits_classes": build_digits_classes,
    "digits_random": build_digits_random,
    "identities": build_identities,
    "emoji": build_emoji,
    "digits_encoder": build_digits_encoder,
    "conv_autoencoder": build_conv_autoencoder,
    "closed_form": build_closed_form,
}
