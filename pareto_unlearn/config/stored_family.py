"""Tells from the text of a run's sweep file whether its family is a file, without running that file."""

from pareto_unlearn.catalogue.family_lookup import is_family_file
from pareto_unlearn.config.yaml_source import read_document
from pareto_unlearn.errors import ConfigError


def names_family_file(sweep_file: str) -> bool:
    """Return whether a sweep file can only be read with ``--allow-import``; False where it is damaged."""
    try:
        model = read_document(sweep_file, "sweep.yaml").data.get("model")
    except ConfigError:
        return False
    family = model.get("family") if isinstance(model, dict) else None
    return isinstance(family, str) and is_family_file(family)
