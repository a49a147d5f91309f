"""Networks of the published metrics at toy size, in files of their published names and formats."""

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torchmetrics
from timm.models import VisionTransformer, register_model
from torch import nn

from pareto_unlearn.metrics import WEIGHTS_FILES, dinov2, extractors
from pareto_unlearn.metrics.weights import (
    ALEXNET_TORCHVISION,
    CLIP_VIT_H_14,
    DINOV2_VIT_L_14,
    INCEPTION_2015,
    LPIPS_ALEX,
)

TINY_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}

LINEAR_WEIGHTS = Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth"
"""The published linear weights of LPIPS, which torchmetrics brings."""


@register_model
def vit_tiny_patch14_test(img_size: int = 518, num_classes: int = 0, **_: object) -> VisionTransformer:
    """DINOv2's layout, narrow and shallow."""
    shape = {"patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 0.5}
    return VisionTransformer(img_size=img_size, num_classes=num_classes, **shape)


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


def write_tiny_dinov2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Write and trust a checkpoint in the layout of the original code; return its tensors."""
    monkeypatch.setattr(dinov2, "DINOV2_NAME", vit_tiny_patch14_test.__name__)
    torch.manual_seed(7)
    state = vit_tiny_patch14_test().state_dict()
    # As drawn, it would hardly matter.
    state["pos_embed"] = torch.randn_like(state["pos_embed"])
    torch.save({**state, "mask_token": torch.zeros(1, 32)}, folder / DINOV2_VIT_L_14)
    trust(DINOV2_VIT_L_14, folder / DINOV2_VIT_L_14, monkeypatch)
    return state


def write_lpips(folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """Write and trust drawn features of AlexNet, beside the published linear weights; return the features."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        features = alexnet(weights=None).features
    features.to_empty(device="cpu")
    torch.manual_seed(8)
    for parameter in features.parameters():
        # Every layer as strong as the one before.
        nn.init.kaiming_normal_(parameter) if parameter.ndim > 1 else nn.init.normal_(parameter, std=0.1)
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save(state, folder / ALEXNET_TORCHVISION)
    trust(ALEXNET_TORCHVISION, folder / ALEXNET_TORCHVISION, monkeypatch)
    shutil.copyfile(LINEAR_WEIGHTS, folder / LPIPS_ALEX)
    return features.eval()
