"""Makes pictures of twenty people who do not exist, with the weights inside the package gan_face_generate.

    python3 -m pip install --no-deps --ignore-requires-python --target gan gan_face_generate==1.1.1
    python3 examples/one_person/make_people.py gan pictures/people

The package (13 MB, MIT; a DCGAN that its author trained on the synthetic faces of DigiFace-1M) is not run:
its file of weights is read as tensors. A person is one latent point, their photos are points near it, 64 x 64
pixels in colour. The weights are not part of this repository; the pictures come out the same everywhere up
to the rounding of a CPU.
"""

import argparse
import math
from pathlib import Path

import torch
from PIL import Image
from torch import nn

LATENT, WIDTH = 100, 64


def load_generator(weights: Path) -> nn.Sequential:
    """Return the generator with the weights in a file; nothing in the file is executed."""
    layers: list[nn.Module] = []
    before = LATENT
    for after, stride, padding in ((WIDTH * 8, 1, 0), (WIDTH * 4, 2, 1), (WIDTH * 2, 2, 1), (WIDTH, 2, 1)):
        layers += [
            nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
        before = after
    network = nn.Sequential(*layers, nn.ConvTranspose2d(before, 3, 4, 2, 1, bias=False), nn.Tanh())
    state = torch.load(weights, map_location="cpu", weights_only=True)["netG_state_dict"]
    network.load_state_dict({name.removeprefix("main."): tensor for name, tensor in state.items()})
    return network.eval()


@torch.no_grad()
def make_people(network: nn.Module, out: Path, *, people: int, photos: int, spread: float, seed: int) -> None:
    """Write ``out/person_XX/YYY.png``; ``spread`` is how far the photos of a person lie from each other."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(people):
        folder = out / f"person_{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        person = torch.randn(1, LATENT, generator=generator)
        own = torch.randn(photos, LATENT, generator=generator)
        latent = math.sqrt(1 - spread**2) * person + spread * own
        for photo, picture in enumerate(network(latent[:, :, None, None])):
            pixels = ((picture.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte()
            Image.fromarray(pixels.numpy()).save(folder / f"{photo:03d}.png")


def main() -> None:
    """Read the command line and make the pictures."""
    parser = argparse.ArgumentParser(description="Pictures of people who do not exist, a folder per person.")
    parser.add_argument("package", type=Path, help="where pip put gan_face_generate (--target)")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--spread", type=float, default=0.35)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    weights = chosen.package / "gan_face_generate" / "weights.tar"
    if not weights.is_file():
        parser.error(f"expected the package gan_face_generate in {chosen.package}, found no {weights}")
    make_people(
        load_generator(weights),
        chosen.out,
        people=chosen.people,
        photos=chosen.photos,
        spread=chosen.spread,
        seed=chosen.seed,
    )


if __name__ == "__main__":
    main()
