"""The network weights of the published metrics: named files in a folder, each verified by its SHA-256.

No file is ever downloaded, and a missing file is never replaced by another: a network with other weights
would give other numbers under the same name.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.records import WEIGHTS_VARIABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A published weights file.

    ``sha256`` is its digest or the first digits of it, empty if none is published. ``size`` is in bytes, None
    if unknown.
    """

    name: str
    holds: str
    source: str
    sha256: str = ""
    size: int | None = None

    def describe(self) -> str:
        """Return in one line which file is meant and where it is published."""
        size = "size unknown" if self.size is None else f"{self.size:,} bytes"
        digest = f"SHA-256 {self.sha256}" if self.sha256 else "no published SHA-256"
        return f"{self.name} ({self.holds}; {size}; {digest}; published at {self.source})"


INCEPTION_2015, INCEPTION_TORCHVISION = "inception-2015-12-05.pt", "inception_v3_google-0cc3c7bd.pth"
RESNET_PLACES365, CLIP_VIT_H_14 = "resnet50_places365.pth.tar", "open_clip_pytorch_model.bin"
DINOV2_VIT_L_14 = "dinov2_vitl14_pretrain.pth"
ALEXNET_TORCHVISION, LPIPS_ALEX = "alexnet-owt-7be5be79.pth", "alex.pth"

_LIST = (
    WeightsFile(
        name=INCEPTION_2015,
        holds="Inception of TensorFlow 2015-12-05 as TorchScript",
        source="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        # The file is a program, which runs when the network is used. It is opened only if it has this digest.
        sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        size=95_607_719,
    ),
    WeightsFile(
        name=INCEPTION_TORCHVISION,
        holds="Inception-v3 of torchvision, IMAGENET1K_V1",
        source="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        sha256="0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
        size=108_949_747,
    ),
    WeightsFile(
        name=RESNET_PLACES365,
        holds="ResNet-50 of Places365",
        source="http://places2.csail.mit.edu/models_places365/resnet50_places365.pth.tar",
    ),
    WeightsFile(
        name=CLIP_VIT_H_14,
        holds="open_clip ViT-H-14, laion2b_s32b_b79k",
        source="https://huggingface.co/laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        sha256="9a78ef8e8c73fd0df621682e7a8e8eb36c6916cb3c16b291a082ecd52ab79cc4",
        size=3_944_692_325,
    ),
    WeightsFile(
        name=DINOV2_VIT_L_14,
        holds="DINOv2 ViT-L/14 without registers",
        source="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        size=1_217_586_395,
    ),
    WeightsFile(
        name=ALEXNET_TORCHVISION,
        holds="AlexNet of torchvision, IMAGENET1K_V1",
        source="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        size=244_408_911,
    ),
    WeightsFile(
        name=LPIPS_ALEX,
        holds="linear weights of LPIPS 0.1 over AlexNet",
        source="https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        size=6_009,
    ),
)
WEIGHTS_FILES: dict[str, WeightsFile] = {file.name: file for file in _LIST}
"""Every weights file that a metric may need, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWeights:
    """The state of a weights file on this machine; ``problem`` is None if the right file exists."""

    file: WeightsFile
    path: Path | None = None
    sha256: str | None = None
    problem: str | None = None


def weights_folder(configured: str | None) -> Path | None:
    """Return the absolute weights folder: as configured, else from ``PARETO_UNLEARN_WEIGHTS``, else None."""
    chosen = configured or os.environ.get(WEIGHTS_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else None


def inspect_weights(name: str, folder: Path | None, pins: Mapping[str, str]) -> FoundWeights:
    """Return the state of one weights file, with its digest if the file exists.

    Args:
        name: a key of ``WEIGHTS_FILES``.
        folder: the weights folder; None if the user named none.
        pins: digests by file name that the user named as right.
    """
    file = WEIGHTS_FILES[name]
    path = None if folder is None else folder / name
    if path is None or not path.is_file():
        where = f"in {folder}" if folder else "since no folder is named"
        return FoundWeights(file=file, problem=f"missing {where}: expected {file.describe()}")
    digest = file_sha256(path)
    for expected, origin in ((file.sha256, "published"), (pins.get(name, "").lower(), "pinned")):
        if not digest.startswith(expected):
            problem = (
                f"another file: {path} has SHA-256 {digest}, expected the {origin} {expected} of "
                f"{file.describe()}"
            )
            return FoundWeights(file=file, path=path, sha256=digest, problem=problem)
    return FoundWeights(file=file, path=path, sha256=digest)


def find_weights(
    names: Iterable[str], folder: Path | None, pins: Mapping[str, str]
) -> dict[str, FoundWeights]:
    """Return the verified weights files by name.

    Raises:
        WeightsError: some files are missing or have another digest; the message lists them all.
    """
    found = {name: inspect_weights(name, folder, pins) for name in names}
    problems = [file.problem for file in found.values() if file.problem is not None]
    if problems:
        raise WeightsError(
            f"weights of metrics: {'; '.join(problems)}. Put the files into one folder and name it by "
            f"evaluate.weights or {WEIGHTS_VARIABLE}; they are never downloaded"
        )
    return found


def digests_of(found: Mapping[str, FoundWeights]) -> dict[str, str]:
    """Return the SHA-256 of every file that exists, by name."""
    return {name: file.sha256 for name, file in found.items() if file.sha256 is not None}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
