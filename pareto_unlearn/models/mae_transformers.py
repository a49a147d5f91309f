"""Masked autoencoders under the names that Hugging Face's transformers gives them (``ViTMAEForPreTraining``).

Their linear maps of queries, keys and values are three where the published code has one. Their layer norms
add 1e-12 to the variance, the published ones 1e-6; here it is 1e-6 for both, which moves outputs by less than
single precision does.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_OUTSIDE = {
    "vit.embeddings.cls_token": "cls_token",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "vit.layernorm": "norm",
    "decoder.decoder_embed": "decoder_embed",
    "decoder.mask_token": "mask_token",
    "decoder.decoder_pos_embed": "decoder_pos_embed",
    "decoder.decoder_norm": "decoder_norm",
    "decoder.decoder_pred": "decoder_pred",
}
_INSIDE = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_LAYERS = {
    "vit.encoder.layer": "blocks",
    "decoder.decoder_encoder.layer": "decoder_blocks",  # what version 5 of transformers writes
    "decoder.decoder_layers": "decoder_blocks",
}
_LAYER = re.compile(rf"({'|'.join(map(re.escape, _LAYERS))})\.(\d+)\.(.+)\.(weight|bias)")
_THEIR_OUTSIDE, _THEIR_INSIDE, _THEIR_LAYERS = (
    {ours: theirs for theirs, ours in names.items()} for names in (_OUTSIDE, _INSIDE, _LAYERS)
)
_PUBLISHED_LAYER = re.compile(r"(blocks|decoder_blocks)\.(\d+)\.(.+)")
_PARTS = ("query", "key", "value")


def has_transformers_names(names: Iterable[str]) -> bool:
    """Return whether tensors have the names of transformers."""
    return any(name.startswith("vit.embeddings.") for name in names)


def published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of the published code; a name that transformers does not have stays."""
    places = {name: _place(name) for name in tensors}
    wholes = dict.fromkeys(whole for whole, _ in places.values())
    found: dict[str, Tensor] = {}
    for whole in wholes:
        parts = [name for name, place in places.items() if place[0] == whole]
        parts.sort(key=lambda name: places[name][1])
        is_divided = len(parts) == len(_PARTS) and ".attn.qkv." in whole
        found[whole] = torch.cat([tensors[name] for name in parts]) if is_divided else tensors[parts[0]]
    return found


def transformers_tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the tensor that transformers knows under a name, out of weights under the published names."""
    whole, part = _place(name)
    tensor = state[whole]
    return tensor.chunk(len(_PARTS))[part] if ".attn.qkv." in whole else tensor


def transformers_names(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published weights under the names of transformers; the inverse of ``published_names``."""
    found: dict[str, Tensor] = {}
    for name, tensor in published.items():
        if ".attn.qkv." not in name:
            found[_their_name(name)] = tensor
            continue
        layer, _, ending = name.partition("attn.qkv.")
        for part, third in zip(_PARTS, tensor.chunk(len(_PARTS)), strict=True):
            found[_their_name(f"{layer}attention.attention.{part}.{ending}")] = third
    return found


def _their_name(name: str) -> str:
    """Return what transformers calls a tensor; queries, keys and values have their own part already."""
    stem, _, ending = name.rpartition(".")
    if name in _THEIR_OUTSIDE:
        return _THEIR_OUTSIDE[name]
    if (layer := _PUBLISHED_LAYER.fullmatch(stem)) is None:
        return f"{_THEIR_OUTSIDE[stem]}.{ending}"
    kind, number, inner = layer.groups()
    return f"{_THEIR_LAYERS[kind]}.{number}.{_THEIR_INSIDE.get(inner, inner)}.{ending}"


def _place(name: str) -> tuple[str, int]:
    """Return the published name of a tensor, and which third of it the tensor is."""
    if (layer := _LAYER.fullmatch(name)) is None:
        stem, ending = (name, "") if name in _OUTSIDE else (name.rpartition(".")[0], name.rpartition(".")[2])
        return ".".join(filter(None, (_OUTSIDE.get(stem, stem), ending))), 0
    kind, number, inner, ending = layer.groups()
    outer = f"{_LAYERS[kind]}.{number}"
    part = inner.removeprefix("attention.attention.")
    if part in _PARTS:
        return f"{outer}.attn.qkv.{ending}", _PARTS.index(part)
    return f"{outer}.{_INSIDE.get(inner, inner)}.{ending}", 0
