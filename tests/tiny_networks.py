"""Networks of the published metrics at toy size, in files of their published names and formats."""

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from pareto_unlearn.metrics import WEIGHTS_FILES, extractors
from pareto_unlearn.metrics.weights import CLIP_VIT_H_14, INCEPTION_2015

TINY_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}


class TinyInception(nn.Module):
    """The calls of the published file, over 12 features and 7 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 12))
        self.output = nn.Linear(12, 7)

    def forward(self, img: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        features = self.layers((img - 127.5) / 127.5)
        if return_features:
            return features
        bias = None if no_output_bias else self.output.bias
        return nn.functional.linear(features, self.output.weight, bias).softmax(1)


def trust(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file count as the published one."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(WEIGHTS_FILES, name, replace(WEIGHTS_FILES[name], sha256=digest))


def write_tiny_inception(folder: Path, monkeypatch: pytest.MonkeyPatch) -> TinyInception:
    """Write and trust the TorchScript file; return the network it holds."""
    torch.manual_seed(3)
    network = TinyInception().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(network), folder / INCEPTION_2015)
    trust(INCEPTION_2015, folder / INCEPTION_2015, monkeypatch)
    return network


def write_tiny_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Write and trust a checkpoint of open_clip; return its visual tower."""
    shape = folder / "tiny-clip.json"
    shape.write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(shape)
    monkeypatch.setattr(extractors, "CLIP_NAME", "tiny-clip")
    torch.manual_seed(4)
    model = open_clip.create_model("tiny-clip")
    torch.save(model.state_dict(), folder / CLIP_VIT_H_14)
    trust(CLIP_VIT_H_14, folder / CLIP_VIT_H_14, monkeypatch)
    return model.visual.eval()
