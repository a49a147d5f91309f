"""Natural colour pictures: a small masked autoencoder that forgets people, or kinds of emoji."""

from functools import partial
from pathlib import Path

from front_problems.images import NOISE_IMAGES, ImageProblem
from front_problems.problem import read_values
from pareto_unlearn.config import load_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.trial import load_material

FOLDER = Path(__file__).parent
RATE = 0.0024
"""Base learning rate: the digits' .003 is past the best on these (the scan decides)."""


def build_colour(name: str, work: Path) -> ImageProblem:
    """Return the problem ``identities`` or ``emoji``.

    Raises:
        ConfigError: pictures or weights are not in the work folder; it says which commands make them.
    """
    pictures, weights = work / "colour" / name, work / "colour" / f"{name}.safetensors"
    if not pictures.is_dir() or not weights.is_file():
        raise ConfigError(
            f"{name}: expected pictures in {pictures} and weights in {weights}; make them by the commands of "
            f"{FOLDER.name}/pictures.py and by `pareto-unlearn train benchmarks/front_problems/{name}.yaml "
            f"{weights} --allow-import`"
        )
    overrides = [
        f"model.family={FOLDER / 'colour_mae.py'}:FAMILY",
        f"data.root={pictures}",
        f"model.checkpoint={weights}",
        f"objective.noise_images={NOISE_IMAGES}",
    ]
    config = load_config(FOLDER / f"{name}.yaml", overrides, allow_import=True)
    material = load_material(config, work, f"fronts-{name}")
    parameters = material.trainable("output")
    return ImageProblem(
        name=name,
        parameters=parameters,
        original=read_values(parameters),
        model=material.model,
        features=feature_function(material.model, "output"),
        inputs=dict(material.inputs),
        objectives=material.retain_target.objectives,
        targets=material.targets,
        class_ids=material.split.forget_train.class_ids,
        rate=RATE,
        kinds=frozenset(("scaled", "drawn")),
    )


build_identities = partial(build_colour, "identities")
build_emoji = partial(build_colour, "emoji")
