"""The networks of the published metrics, each with the way in which images are resized for it.

An extractor takes RGB pixels of 0 to 255 as uint8 and returns one row of float32 per image. A comparing
extractor takes the originals and the pictures, and returns one row per pair. How an image is resized is part
of a metric's definition, so each published way is written out here.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics.dinov2 import DINOV2_SIDE, open_dinov2
from pareto_unlearn.metrics.lpips import open_lpips
from pareto_unlearn.metrics.opening import load_state, path_of, read_state
from pareto_unlearn.metrics.weights import (
    ALEXNET_TORCHVISION,
    CLIP_VIT_H_14,
    DINOV2_VIT_L_14,
    INCEPTION_2015,
    INCEPTION_TORCHVISION,
    LPIPS_ALEX,
    RESNET_PLACES365,
    FoundWeights,
)

INCEPTION_SIDE = 299
CLIP_NAME = "ViT-H-14"
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5,) * 3, (0.5,) * 3)

Embed = Callable[..., Float[Tensor, "n d"]]
"""Returns the features of a batch of images, or of a batch of originals and a batch of pictures."""
Prepare = Callable[[UInt8[Tensor, "n 3 h w"]], Float[Tensor, "n 3 s t"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """The weights files of an extractor, and how to load it on a device.

    ``compares`` is True if it compares pictures with their originals, pair by pair.
    """

    files: tuple[str, ...]
    load: Callable[[Mapping[str, FoundWeights], torch.device], Embed]
    compares: bool = False


def resize_like_tensorflow(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
    """Return images of 299 pixels a side as TensorFlow 1 resizes them: bilinear, without antialiasing.

    The sampling points are the multiples of length / 299, beginning at the top left corner.
    """
    pixels = images.float()
    for axis in (3, 2):
        length = pixels.shape[axis]
        place = torch.arange(INCEPTION_SIDE, device=pixels.device) * (length / INCEPTION_SIDE)
        low = place.long()
        high = (low + 1).clamp(max=length - 1)
        share = place - low
        if axis == 2:
            share = share[:, None]  # the same for all pixels of a row
        first, second = pixels.index_select(axis, low), pixels.index_select(axis, high)
        pixels = first + (second - first) * share
    return pixels


def resize_clean(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
    """Return images of 299 pixels a side, resized as by clean-fid.

    Bicubic with antialiasing, in float, clipped to 0 and 255.
    """
    size = (INCEPTION_SIDE, INCEPTION_SIDE)
    planes = images.cpu().flatten(0, 1).numpy().astype(np.float32)
    resized = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for plane in planes]
    return torch.from_numpy(np.stack(resized)).clamp(0.0, 255.0).view(-1, 3, *size).to(images.device)


def through_pictures(transform: Callable[[Image.Image], Tensor]) -> Prepare:
    """Return a preparation that turns every image into a Pillow image first, as loaders of image files do."""

    def prepare(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s t"]:
        pictures = [Image.fromarray(pixels) for pixels in images.cpu().permute(0, 2, 3, 1).numpy()]
        return torch.stack([transform(picture) for picture in pictures]).to(images.device)

    return prepare


def _open_inception_2015(weights: FoundWeights, device: torch.device) -> nn.Module:
    path = path_of(weights)
    content = path.read_bytes()
    # The file is a program, and may have been replaced since it was verified: check the bytes that will run.
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise WeightsError(f"{path} changed after it was verified; start again")
    with warnings.catch_warnings():
        # torch deprecates the format TorchScript, but the file is published in no other.
        warnings.simplefilter("ignore", FutureWarning)
        network: nn.Module = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
    return network.eval()


def _inception_2015_features(resize: Prepare) -> Callable[[FoundWeights, torch.device], Embed]:
    def load(weights: FoundWeights, device: torch.device) -> Embed:
        layers: Any = _open_inception_2015(weights, device).layers
        return lambda images: layers((resize(images) - 128.0) / 128.0).flatten(1)

    return load


def _inception_2015_logits(weights: FoundWeights, device: torch.device) -> Embed:
    network = _open_inception_2015(weights, device)

    def embed(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        # The network maps 0..255 by (x - 127.5) / 127.5; the original graph by (x - 128) / 128.
        pixels = (resize_like_tensorflow(images) - 128.0) * (127.5 / 128.0) + 127.5
        # The network returns probabilities; the softmax of their logarithm gives them back.
        return network(pixels, no_output_bias=True).log().clamp(min=-100.0)  # type: ignore[no-any-return]

    return embed


def _torchvision_inception(
    prepare: Callable[[], Prepare], *, pooled: bool = False
) -> Callable[[FoundWeights, torch.device], Embed]:
    def load(weights: FoundWeights, device: torch.device) -> Embed:
        from torchvision.models import inception_v3

        network = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False)
        load_state(network, read_state(weights), weights)
        if pooled:
            network.fc = nn.Identity()
        return _composed(prepare(), network, device)

    return load


def _places365(weights: FoundWeights, device: torch.device) -> Embed:
    from torchvision.models import resnet50

    network = resnet50(weights=None, num_classes=365)
    state = {name.removeprefix("module."): value for name, value in read_state(weights)["state_dict"].items()}
    load_state(network, state, weights)
    return _composed(_as_classifiers_do(256, 224), network, device)


def _clip(weights: FoundWeights, device: torch.device) -> Embed:
    import open_clip

    # The file holds a text and an image tower: both are read, only the image tower is kept.
    model = open_clip.create_model(CLIP_NAME, pretrained=str(path_of(weights)), require_pretrained=True)
    settings = open_clip.get_model_preprocess_cfg(model)
    transform = open_clip.image_transform(
        settings["size"],
        is_train=False,
        mean=settings["mean"],
        std=settings["std"],
        interpolation=settings.get("interpolation"),
        resize_mode=settings.get("resize_mode"),
    )
    return _composed(through_pictures(transform), model.visual, device)


def _as_in_the_released_code() -> Prepare:
    """Return the preparation of i2i_mage's metric.py: squash to 256, CIFAR statistics, bilinear to 299."""
    from torchvision import transforms

    first = transforms.Compose(
        [transforms.Resize((256, 256)), transforms.ToTensor(), transforms.Normalize(*_CIFAR)]
    )
    prepare, size = through_pictures(first), (INCEPTION_SIDE, INCEPTION_SIDE)
    return lambda images: functional.interpolate(prepare(images), size, mode="bilinear")


def _whole_pictures() -> Prepare:
    """Return the preparation to 299 pixels in [-1, 1], as the network was trained, without cropping."""
    from torchvision import transforms

    size = (INCEPTION_SIDE, INCEPTION_SIDE)
    return through_pictures(
        transforms.Compose([transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(*_HALF)])
    )


def _squashed_to(side: int) -> Prepare:
    """Return the preparation of dgm-eval's dinov2.py: Pillow's antialiased bicubic, squashed to a square."""
    from torchvision import transforms

    resize = transforms.Resize((side, side), transforms.InterpolationMode.BICUBIC)
    return through_pictures(
        transforms.Compose([resize, transforms.ToTensor(), transforms.Normalize(*_IMAGENET)])
    )


def _as_classifiers_do(resized: int, side: int) -> Prepare:
    from torchvision import transforms

    steps = [transforms.Resize(resized), transforms.CenterCrop(side)]
    return through_pictures(
        transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*_IMAGENET)])
    )


def _composed(prepare: Prepare, network: nn.Module, device: torch.device) -> Embed:
    ready = network.to(device).eval()
    return lambda images: ready(prepare(images)).float()


def _dinov2(weights: FoundWeights, device: torch.device) -> Embed:
    return _composed(_squashed_to(DINOV2_SIDE), open_dinov2(weights), device)


def _lpips(found: Mapping[str, FoundWeights], device: torch.device) -> Embed:
    return open_lpips(found[ALEXNET_TORCHVISION], found[LPIPS_ALEX]).to(device).eval()


def _reads(file: str, load: Callable[[FoundWeights, torch.device], Embed]) -> Extractor:
    return Extractor(files=(file,), load=lambda found, device: load(found[file], device))


EXTRACTORS: dict[str, Extractor] = {
    "inception_2015": _reads(INCEPTION_2015, _inception_2015_features(resize_like_tensorflow)),
    "inception_2015_clean": _reads(INCEPTION_2015, _inception_2015_features(resize_clean)),
    "inception_2015_logits": _reads(INCEPTION_2015, _inception_2015_logits),
    "torchvision_pooled": _reads(INCEPTION_TORCHVISION, _torchvision_inception(_whole_pictures, pooled=True)),
    "torchvision_logits": _reads(INCEPTION_TORCHVISION, _torchvision_inception(_whole_pictures)),
    "torchvision_logits_as_released": _reads(
        INCEPTION_TORCHVISION, _torchvision_inception(_as_in_the_released_code)
    ),
    "places365_logits": _reads(RESNET_PLACES365, _places365),
    "clip_vit_h_14": _reads(CLIP_VIT_H_14, _clip),
    "dinov2_vit_l_14": _reads(DINOV2_VIT_L_14, _dinov2),
    "lpips_alex": Extractor(files=(ALEXNET_TORCHVISION, LPIPS_ALEX), load=_lpips, compares=True),
}
"""Every extractor, by the name under which its features are stored."""
