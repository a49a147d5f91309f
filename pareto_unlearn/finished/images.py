"""The images of a finished run, when it is measured again."""

from pareto_unlearn.data import SplitData, write_manifest
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.foreign_text import guarded_csv
from pareto_unlearn.store import RunStore


def check_images(store: RunStore, split: SplitData) -> None:
    """Refuse images that are not those of the run.

    Raises:
        ConfigError: the images that are there now are not those of the run's manifest.
    """
    if write_manifest(split) != guarded_csv(store.read_text("manifest.csv")):
        raise ConfigError(
            f"{store.path}: the images are not those of its manifest.csv; put the sweep's images back"
        )
