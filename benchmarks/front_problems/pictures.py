"""Makes the pictures of the colour problems from what two packages ship inside; nothing is downloaded here.

    python benchmarks/front_problems/pictures.py identities FOLDER runs/fronts/colour/identities
    python benchmarks/front_problems/pictures.py emoji FOLDER runs/fronts/colour/emoji

- identities: FOLDER is ``gan_face_generate`` of the unpacked wheel gan_face_generate 1.1.1 (MIT; its weights
  were trained on DigiFace-1M, so these are pictures of nobody). A person is a latent point, its pictures are
  points near it.
- emoji: FOLDER is ``package`` of the unpacked npm package @lobehub/fluent-emoji-3d 1.1.0 (MIT). A class is a
  group of code points; the renderings are put on white.
"""

import argparse
import math
from pathlib import Path

import torch
from PIL import Image
from torch import nn

PEOPLE, EACH, NEAR, SIDE, LATENT = 20, 60, 0.35, 64, 100
GROUPS = {
    "faces": ((0x1F600, 0x1F64F), (0x1F910, 0x1F92F), (0x1F970, 0x1F97A)),
    "food": ((0x1F32D, 0x1F37F), (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB), (0x1FAD0, 0x1FADB)),
    "animals": ((0x1F400, 0x1F43E), (0x1F980, 0x1F9AE), (0x1FAB0, 0x1FABF)),
    "transport": ((0x1F680, 0x1F6FF),),
    "sport": ((0x1F3A0, 0x1F3C5), (0x1F93A, 0x1F94F)),
    "buildings": ((0x1F3D4, 0x1F3F0),),
    "clothes": ((0x1F451, 0x1F462), (0x1F97B, 0x1F97F), (0x1FA70, 0x1FA74)),
    "objects": ((0x1F4A0, 0x1F53D),),
    "hearts_signs": ((0x1F493, 0x1F49F), (0x2600, 0x27BF)),
}


def main() -> None:
    """Write one set of pictures as a folder of class folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("identities", "emoji"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    make = {"identities": make_identities, "emoji": make_emoji}[options.kind]
    print(f"{make(options.folder, options.out)} pictures in {options.out}")


@torch.no_grad()
def make_identities(folder: Path, out: Path) -> int:
    """Write all pictures of the people; the same on every machine but for rounding."""
    net, generator = _face_generator(folder / "weights.tar"), torch.Generator().manual_seed(0)
    for person in range(PEOPLE):
        center = torch.randn(1, LATENT, generator=generator)
        points = math.sqrt(1 - NEAR**2) * center + NEAR * torch.randn(EACH, LATENT, generator=generator)
        for number, picture in enumerate(net(points[..., None, None])):
            target = out / f"id_{person:02d}" / f"{number:03d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = ((picture.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte()
            Image.fromarray(pixels.numpy()).save(target)
    return PEOPLE * EACH


def _face_generator(file: Path) -> nn.Module:
    """Return the DCGAN generator of the package: 3.6 M parameters."""
    layers, width = [], LATENT
    for out, stride, padding in ((512, 1, 0), (256, 2, 1), (128, 2, 1), (64, 2, 1)):
        layers += [
            nn.ConvTranspose2d(width, out, 4, stride, padding, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
        width = out
    net = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())
    state = torch.load(file, map_location="cpu", weights_only=True)["netG_state_dict"]
    net.load_state_dict({name.removeprefix("main."): value for name, value in state.items()})
    return net.eval()


def make_emoji(folder: Path, out: Path) -> int:
    """Write the renderings of single code points: no skin tones, flags or joined sequences."""
    count = 0
    for file in sorted((folder / "assets").glob("*.webp")):
        codes = [code for code in file.stem.split("-") if code != "fe0f"]
        name = _group_of(int(codes[0], 16)) if len(codes) == 1 else None
        if name is None:
            continue
        picture = Image.open(file).convert("RGBA")
        base = Image.new("RGBA", picture.size, "white")
        base.alpha_composite(picture)
        target = out / name / f"{file.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        base.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(target)
        count += 1
    return count


def _group_of(point: int) -> str | None:
    return next((name for name, spans in GROUPS.items() if any(a <= point <= b for a, b in spans)), None)


if __name__ == "__main__":
    main()
