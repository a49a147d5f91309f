"""A folder from which Hugging Face's transformers loads a masked autoencoder: weights, sizes, images."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from pareto_unlearn.models.mae import (
    PIXEL_MEAN,
    PIXEL_STD,
    PUBLISHED_RATIO,
    Mae,
    MaeShape,
    Predicts,
)
from pareto_unlearn.models.mae_patches import NORM_EPSILON
from pareto_unlearn.models.mae_transformers import transformers_names
from pareto_unlearn.whole_files import write_bytes_whole

BICUBIC = 3


def write_hub_folder(folder: Path, model: Mae) -> None:
    """Write what ``ViTMAEForPreTraining.from_pretrained`` and ``AutoImageProcessor`` read."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.published_state().items()}
    named = {name: tensor.clone() for name, tensor in transformers_names(state).items()}
    write_bytes_whole(folder / "model.safetensors", save(named, {"format": "pt"}))
    _write_json(folder / "config.json", _config(model.shape, model.predicts))
    _write_json(folder / "preprocessor_config.json", _preprocessing(model.shape.side))


def _config(shape: MaeShape, predicts: Predicts) -> dict[str, Any]:
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "image_size": shape.side,
        "patch_size": shape.patch,
        "num_channels": 3,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
        "decoder_hidden_size": shape.decoder_width,
        "decoder_num_hidden_layers": shape.decoder_blocks,
        "decoder_num_attention_heads": shape.decoder_heads,
        "decoder_intermediate_size": 4 * shape.decoder_width,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": NORM_EPSILON,
        "mask_ratio": PUBLISHED_RATIO,
        "norm_pix_loss": predicts is Predicts.NORMALISED_PATCHES,
        "dtype": "float32",
    }


def _preprocessing(side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_bytes_whole(path, (json.dumps(content, indent=2) + "\n").encode())
