"""The generative models that can unlearn, behind one Protocol.

A new family is one module that defines ``FAMILY``, and one row in ``catalogue.families`` or beside it. Only
the family in use is imported: some bring libraries that take seconds to load.
"""

from pareto_unlearn.models.checkpoint_facts import CheckpointFacts, describe_checkpoint, look_at_checkpoint
from pareto_unlearn.models.digits_mae import DigitsMae
from pareto_unlearn.models.loading import (
    CHECKPOINT,
    REFERENCE,
    checkpoint_path,
    export_model,
    export_to_hub,
    family_of,
    initialise_model,
    load_model,
    pixel_format,
    save_model,
    weight_files,
    weights_sha256,
    with_other_hole,
    write_model,
)
from pareto_unlearn.models.protocol import (
    BaselineLosses,
    Batch,
    DrawsFromImages,
    Family,
    Generators,
    ImageToImage,
    Setting,
    Term,
)

__all__ = [
    "CHECKPOINT",
    "REFERENCE",
    "BaselineLosses",
    "Batch",
    "CheckpointFacts",
    "DigitsMae",
    "DrawsFromImages",
    "Family",
    "Generators",
    "ImageToImage",
    "Setting",
    "Term",
    "checkpoint_path",
    "describe_checkpoint",
    "export_model",
    "export_to_hub",
    "family_of",
    "initialise_model",
    "load_model",
    "look_at_checkpoint",
    "pixel_format",
    "save_model",
    "weight_files",
    "weights_sha256",
    "with_other_hole",
    "write_model",
]
