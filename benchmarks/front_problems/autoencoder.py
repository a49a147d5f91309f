"""A small convolutional autoencoder of whole digits, trained here."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from front_problems.digits import SWEEP
from front_problems.images import ImageProblem, targets_of
from front_problems.problem import read_values
from pareto_unlearn.config import DataSection, load_config
from pareto_unlearn.data import BatchOrder, load_digits, load_split, mark_heldout, seeded_generator
from pareto_unlearn.models.digits_mae import PIXEL_MEAN, PIXEL_STD
from pareto_unlearn.objectives import Objectives, feature_function

AUTOENCODER_STEPS, AUTOENCODER_BATCH = 2500, 64


class ConvAutoencoder(nn.Module):
    """A convolutional autoencoder of 16-pixel digits with a bottleneck of 16 numbers: 18,137 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(384, 16),
        )
        self.decoder = nn.Sequential(
            nn.Linear(16, 384),
            nn.GELU(),
            nn.Unflatten(1, (24, 4, 4)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(24, 12, 3, padding=1),
            nn.GELU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(12, 1, 3, padding=1),
        )

    def prepare(self, images: Tensor) -> Tensor:
        """Return [0, 1] pixels normalised."""
        return (images - PIXEL_MEAN) / PIXEL_STD

    def sample_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw inputs from N(0, I) in the normalised space."""
        return torch.randn(count, 1, 16, 16, generator=generator)

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the bottleneck."""
        return self.encoder(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the reconstructed image, normalised."""
        return self.decoder(self.encoder(inputs))


def build_conv_autoencoder(work: Path) -> ImageProblem:
    """Return a convolutional autoencoder that forgets digits 0 to 4; trained once per work folder."""
    model, path = ConvAutoencoder(), work / "conv_autoencoder.safetensors"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        _train_autoencoder(model)
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    config = load_config(SWEEP)
    split, objectives = load_split(DataSection(**config.data.model_dump()), 0), Objectives("mse", "mean")
    inputs = {(name, part): model.prepare(images.images) for name, part, images in split.items()}
    parameters = list(model.parameters())
    return ImageProblem(
        name="conv_autoencoder",
        parameters=parameters,
        original=read_values(parameters),
        model=model,
        features=feature_function(model, "output"),
        inputs=inputs,
        objectives=objectives,
        targets=targets_of(model, inputs, objectives),
        class_ids=split.forget_train.class_ids,
        label_loss=functional.mse_loss,
    )


def _train_autoencoder(model: ConvAutoencoder) -> None:
    """Initialise and train the weights from a seed: Adam, half a cosine to zero, all ten digits."""
    generator = seeded_generator(0, 50)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    whole = load_digits()
    inputs = model.prepare(whole.images[~mark_heldout(whole)])
    order = BatchOrder(len(inputs), AUTOENCODER_BATCH, 0, 51)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003, betas=(0.9, 0.99))
    for step in range(AUTOENCODER_STEPS):
        decay = 0.5 * (1.0 + math.cos(math.pi * step / AUTOENCODER_STEPS))
        optimiser.param_groups[0]["lr"] = 0.003 * min(1.0, (step + 1) / 100) * decay
        rows = inputs[order(step)]
        loss = functional.mse_loss(model(rows), rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
