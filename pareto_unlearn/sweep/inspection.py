"""What was found in the checkpoint and the pictures of a sweep, and what of it will not be used."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pareto_unlearn.catalogue.families import FAMILIES
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.config.model_section import BUILTIN
from pareto_unlearn.errors import WeightsError

if TYPE_CHECKING:
    from pareto_unlearn.data import PictureFacts, SplitData
    from pareto_unlearn.models import CheckpointFacts, ImageToImage

_LABEL = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a sweep found. ``files`` has the facts about each file of weights, by what it is.

    ``hole`` is the share of the pixels that the task removes, whole patches where the model sees patches. A
    file that only a family from outside the package can read has none.
    """

    files: "dict[str, CheckpointFacts]"
    pictures: "PictureFacts"
    hole: float

    def describe(self) -> list[str]:
        """Return the facts as lines of one short block, each with what it is about where that changes."""
        from pareto_unlearn.data import describe_pictures
        from pareto_unlearn.models import describe_checkpoint

        parts = {name: describe_checkpoint(facts) for name, facts in self.files.items()}
        parts["pictures"] = describe_pictures(self.pictures)
        parts["hole"] = [
            f"{self.hole:.1%} of the pixels are removed, with whole patches where the model has any"
        ]
        return [
            f"{name if place == 0 else '':{_LABEL}}{line}"
            for name, lines in parts.items()
            for place, line in enumerate(lines)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        files = {name: dataclasses.asdict(facts) for name, facts in self.files.items()}
        return {**files, "pictures": dataclasses.asdict(self.pictures), "hole": self.hole}


def inspect_inputs(config: SweepConfig, model: "ImageToImage", split: "SplitData") -> Inspection:
    """Return what lies in the files of a sweep's weights and in the folders of its images.

    Args:
        config: the sweep.
        model: the original, which was loaded.
        split: the images, which were found.

    Raises:
        ConfigError: the images are no longer where they were.
    """
    from pareto_unlearn.data import look_at_pictures
    from pareto_unlearn.models import look_at_checkpoint, weight_files

    files, is_ours = {}, config.model.row in FAMILIES  # whose readers look at every number
    if not config.model.is_random and config.model.checkpoint != BUILTIN:
        for name, (path, prefix) in weight_files(config.model).items():
            state = {key.removeprefix(prefix): value for key, value in model.state_dict().items()}
            try:
                files[name] = look_at_checkpoint(path, state, is_known_finite=is_ours)
            except WeightsError:  # of a family from outside, which has a reader of its own
                continue
    hole = float(model.removed_pixels().double().mean())
    return Inspection(files=files, pictures=look_at_pictures(config.data, split), hole=hole)
