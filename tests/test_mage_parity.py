"""MAGE gives what the published code gave: every tensor of a recorded tiny run, in float32 on the CPU."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
from oracles.losses import Losses
from oracles.mage import ForgetRows, noise_images, noisy_codes, squared_losses, token_losses
from package_losses import baseline_losses, encoder_objectives, max_losses
from safetensors.torch import load_file
from torch import Tensor

from pareto_unlearn.models import Batch, mage_baselines
from pareto_unlearn.models.mage import TINY, VIT_BASE, Mage
from pareto_unlearn.models.mage_generation import Draws, Rounds, Seam, complete, composite, next_round
from pareto_unlearn.models.mage_masks import TokenMasks, dilate, masks_from_noise

FIXTURES = Path(__file__).parent / "fixtures" / "parity" / "mage"
TOLERANCE = 1e-5
"""float32, with attention fused instead of written out."""

ALPHA, ROUNDS, MARGIN = 0.25, 6, 4
FORGET = torch.tensor([False, True])
NAMES = json.loads((FIXTURES / "mage_tiny.json").read_text())["tensors"]


@dataclass(frozen=True)
class Replay:
    """The recorded run again: its inputs, the two models, and what they give."""

    golden: dict[str, Tensor]
    model: Mage
    original: Mage

    @classmethod
    def build(cls) -> "Replay":
        golden = load_file(FIXTURES / "mage_tiny.safetensors")
        weights = {
            name.removeprefix("state_dict."): value for name, value in golden.items() if "state_dict." in name
        }
        model, original = (Mage(TINY, center(64)).eval() for _ in range(2))
        model.load_state_dict(weights, strict=True)
        scaled = {
            k: v if k.startswith("vqgan.") or not v.is_floating_point() else 0.9 * v
            for k, v in weights.items()
        }
        original.load_state_dict(scaled, strict=True)
        return cls(golden, model, original)

    @property
    def images(self) -> Tensor:
        return self.golden["input.imgs"]

    @cached_property
    def masks(self) -> TokenMasks:
        return masks_from_noise(self.golden["input.noise"], 128, 150)

    @cached_property
    def codes(self) -> Tensor:
        return self.model.tokenize(self.images)

    @cached_property
    def noise_codes(self) -> Tensor:
        return self.model.tokenize(noise_images(self.images, self.golden["input.gauss"]))

    @cached_property
    def latent(self) -> Tensor:
        return self.model.encode_masked(self.codes, self.masks)

    @cached_property
    def vectors(self) -> Tensor:
        return self.model.vqgan.encoder(self.images)

    def dropped(self) -> Tensor:
        return torch.ones(2, 256).scatter(1, self.masks.kept_ids, 0.0)

    def logits(self, words: int) -> Tensor:
        return self.model.predict(self.model.decode(self.latent, self.masks), words)

    def words(self) -> Tensor:
        masked = self.codes.masked_fill(self.masks.masked, TINY.mask_word)
        return torch.cat([torch.full((2, 1), TINY.class_word), masked], dim=1)

    def token_losses(self, forget_truth: Tensor) -> Losses:
        truth = torch.where(FORGET[:, None], forget_truth, self.codes)
        return token_losses(self.logits(64)[:, 1:], truth, self.masks.masked, FORGET)

    def noisy_losses(self) -> Losses:
        return self.token_losses(noisy_codes(self.codes, linear_values(self.codes), 64))

    @cached_property
    def guide(self) -> Tensor:
        return self.original.encode_masked(self.codes, self.masks)

    @cached_property
    def mis_guide(self) -> Tensor:
        return self.original.encode_masked(self.noise_codes, self.masks)

    def unlearning(self, rows: ForgetRows = ForgetRows.FORGET) -> Losses:
        return squared_losses(self.latent, self.guide.detach(), self.mis_guide.detach(), FORGET, rows)

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        return self.gradients_of(self.unlearning())

    @cached_property
    def inputs(self) -> Tensor:
        """The recorded images and masks as inputs of the package: a retain image, then a forget image."""
        seen = self.codes.masked_fill(self.masks.masked, TINY.mask_word)
        return torch.stack([seen, self.codes, self.dropped().long()], dim=1)

    @cached_property
    def noise_inputs(self) -> Tensor:
        pixels = noise_images(self.images, self.golden["input.gauss"])
        return self.model.noise_like(self.inputs, [], pixels)

    @cached_property
    def running_objectives(self) -> Losses:
        """f2 and f1 as trials compute them."""
        sets = self.inputs[~FORGET], self.inputs[FORGET]
        return encoder_objectives(self.model, self.original, *sets, self.noise_inputs[FORGET])

    def running_baseline(self, method: str) -> Losses:
        """Return a baseline as trials compute it, with the recorded noise in place of the drawn one."""
        batch = Batch(
            original=self.original,
            retain=self.inputs[~FORGET],
            forget=self.inputs[FORGET],
            generator=torch.Generator(),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mage_baselines, "draw_like", lambda values, _: linear_values(values))
            return baseline_losses(self.model, batch, method)

    def running_mistake(self) -> Losses:
        """Return the forget loss of the published mistake, with the recorded features as what is wanted."""
        loss = mage_baselines.BASELINES["random_encoder_fork_bug"].forget.loss
        wanted = self.original.encode(self.noise_inputs[~FORGET]).detach()
        return Losses(self.running_objectives.retain, loss(self.model, self.inputs[~FORGET], wanted))

    def gradients_of(self, losses: Losses) -> dict[str, Tensor]:
        # The same graph serves other comparisons, in any order.
        named = dict(self.model.named_parameters())
        used = {name: named[name] for name in map(gradient_name, NAMES) if name}
        gradients = torch.autograd.grad(losses.total(ALPHA), list(used.values()), retain_graph=True)
        return dict(zip(used, gradients, strict=True))

    @cached_property
    def seen(self) -> Tensor:
        return self.model.prepare(self.images[:1])[:, 0]

    @cached_property
    def rounds(self) -> list[tuple[Tensor, Tensor]]:
        results, current = [], self.seen
        for index in range(ROUNDS):
            drawn, gumbel = (
                self.golden[f"inpaint.{name}"][index][None] for name in ("categorical_draw", "gumbel")
            )
            step = Rounds().count - ROUNDS + index
            results.append(
                next_round(current, self.model(current), drawn, gumbel, step, Rounds(), TINY.mask_word)
            )
            current = results[-1][1]
        return results

    @cached_property
    def generated(self) -> Tensor:
        skipped = (1, Rounds().count - ROUNDS, 256)
        codes = torch.cat([torch.full(skipped, -1), self.golden["inpaint.categorical_draw"][None]], dim=1)
        gumbel = torch.cat([torch.full(skipped, torch.nan), self.golden["inpaint.gumbel"][None]], dim=1)
        return self.model.vqgan.draw(complete(self.model, self.seen, Draws(codes, gumbel)))

    def composited(self, generated: Tensor) -> Tensor:
        image = composite(self.model, self.images[:1], generated, Seam(margin=MARGIN))
        return (image[0].permute(1, 2, 0) * 255).to(torch.uint8)


def center(side: int) -> Tensor:
    """Remove the central half of the side."""
    hole = torch.zeros(side, side, dtype=torch.bool)
    hole[side // 4 : -side // 4, side // 4 : -side // 4] = True
    return hole


def gradient_name(name: str) -> str:
    prefix = "unlearn.grad."
    return name.removeprefix(prefix) if name.startswith(prefix) else ""


def linear_values(like: Tensor) -> Tensor:
    """Return what was recorded in place of N(0, 1)."""
    return torch.linspace(-1.5, 1.5, like.numel()).view_as(like)


def halves(losses: Losses) -> Losses:
    """Turn means over one image each into the published terms of the batch of both."""
    return Losses(losses.retain / 2, losses.forget / 2)


def with_total(losses: Losses, alpha: float) -> Tensor:
    return torch.stack([losses.total(alpha), *losses])


OURS: dict[str, Callable[[Replay], Tensor]] = {
    "vqgan.pre_quant": lambda run: run.vectors,
    "vqgan.indices": lambda run: run.codes,
    "vqgan.z_q": lambda run: run.model.vqgan.quantize.look_up(run.codes, 16),
    "vqgan.decoded": lambda run: run.model.vqgan.draw(run.codes),
    "vqgan.index_margin_min": lambda run: index_margin(run),
    "train.gt_indices": lambda run: run.codes,
    "train.token_indices": Replay.words,
    "train.token_drop_mask_raw": Replay.dropped,
    "train.token_all_mask_raw": lambda run: run.masks.masked.float(),
    "train.latent": lambda run: run.latent,
    "train.logits_codebook": lambda run: run.logits(64)[:, 1:],
    "train.logits_full_first3": lambda run: run.logits(1065)[:, :3],
    "train.loss_mlm": lambda run: run.token_losses(run.codes).total(1.0),
    "train.loss_max": lambda run: with_total(run.token_losses(run.codes), -ALPHA),
    "train.loss_noisy_label": lambda run: with_total(run.noisy_losses(), ALPHA),
    "unlearn.noise_indices": lambda run: run.noise_codes,
    "unlearn.guide": lambda run: run.guide,
    "unlearn.mis_guide": lambda run: run.mis_guide,
    "unlearn.loss_retain_forget": lambda run: torch.stack(run.unlearning()),
    "unlearn.loss_retain_forget_baseline_bug": lambda run: torch.stack(
        run.unlearning(ForgetRows.FORK_BASELINES)
    ),
    "unlearn.grad.token_emb.word_embeddings.weight": lambda run: word_gradients(run.gradients),
    "unlearn.grad.token_emb.LayerNorm.weight": lambda run: run.gradients["token_emb.LayerNorm.weight"],
    "unlearn.grad.blocks.0.attn.qkv.weight": lambda run: run.gradients["blocks.0.attn.qkv.weight"],
    "unlearn.grad.norm.bias": lambda run: run.gradients["norm.bias"],
    "inpaint.token_all_mask": lambda run: (run.seen == TINY.mask_word).float(),
    "inpaint.composite_mask": lambda run: dilate(run.model.hole, MARGIN).float()[None, None],
    "inpaint.first_logits": lambda run: run.model(run.seen)[0],
    "inpaint.step_sampled_ids": lambda run: torch.cat([drawn for drawn, _ in run.rounds]),
    "inpaint.step_next_tokens": lambda run: torch.cat([current for _, current in run.rounds]),
    "inpaint.gen_image": lambda run: run.generated,
    # Of the recorded pixels: cutting to whole numbers turns an error of 1e-6 into one of 1.
    "inpaint.composited_uint8_hwc": lambda run: run.composited(run.golden["inpaint.gen_image"]),
}


def max_with_total(run: Replay) -> Tensor:
    retain, negated = halves(max_losses(run.model, run.inputs[~FORGET], run.inputs[FORGET]))
    return with_total(Losses(retain, -negated), -ALPHA)


RUNNING: dict[str, Callable[[Replay], Tensor]] = {
    "train.latent": lambda run: run.model.encode(run.inputs),
    "train.logits_codebook": lambda run: run.model(run.inputs),
    "train.logits_full_first3": lambda run: run.model.all_logits(run.inputs)[:, :3],
    "train.loss_mlm": lambda run: run.model.training_loss(run.inputs),
    "train.loss_max": max_with_total,
    "train.loss_noisy_label": lambda run: with_total(halves(run.running_baseline("noisy_label_fork")), ALPHA),
    "unlearn.noise_indices": lambda run: run.noise_inputs[:, 1],
    "unlearn.guide": lambda run: run.original.encode(run.inputs),
    "unlearn.mis_guide": lambda run: run.original.encode(run.noise_inputs),
    "unlearn.loss_retain_forget": lambda run: torch.stack(run.running_objectives),
    "unlearn.loss_retain_forget_baseline_bug": lambda run: torch.stack(run.running_mistake()),
    "unlearn.grad.token_emb.word_embeddings.weight": lambda run: word_gradients(
        run.gradients_of(run.running_objectives)
    ),
    **{
        f"unlearn.grad.{name}": lambda run, name=name: run.gradients_of(run.running_objectives)[name]
        for name in ("token_emb.LayerNorm.weight", "blocks.0.attn.qkv.weight", "norm.bias")
    },
}
"""The recorded losses and what they are made of, as the training steps of trials compute them."""

GIVEN = {"inpaint.gumbel", "inpaint.categorical_draw"}
"""The recorded chance of the generation: inputs by nature, whatever their names."""


def index_margin(run: Replay) -> Tensor:
    table = run.model.vqgan.quantize.embedding.weight
    flat = run.vectors.permute(0, 2, 3, 1).flatten(0, 2)
    squared = torch.cdist(flat, table).square().sort(dim=1).values
    return (squared[:, 1] - squared[:, 0]).min()


def word_gradients(gradients: dict[str, Tensor]) -> Tensor:
    rows = [*range(64), TINY.class_word, TINY.mask_word]
    return gradients["token_emb.word_embeddings.weight"][rows]


@pytest.fixture(scope="module")
def run() -> Replay:
    return Replay.build()


def error(ours: Tensor, golden: Tensor) -> float:
    assert ours.shape == golden.shape
    assert ours.dtype == golden.dtype
    return float((ours.double() - golden.double()).abs().max())


@pytest.mark.parametrize("name", OURS)
def test_tensor_equals_the_published_code(run, name):
    golden = run.golden[name]
    tolerance = TOLERANCE if golden.is_floating_point() else 0.0
    found = error(OURS[name](run).detach(), golden)
    sys.stdout.write(f"\n{name}: {found:.2e}")  # a table for whoever runs with -s
    assert found <= tolerance


@pytest.mark.parametrize("name", RUNNING)
def test_what_trials_compute_equals_the_published_code(run, name):
    golden = run.golden[name]
    assert error(RUNNING[name](run).detach(), golden) <= (TOLERANCE if golden.is_floating_point() else 0.0)


def test_whole_generation_differs_in_single_cut_pixels_only(run):
    difference = run.composited(run.generated).int() - run.golden["inpaint.composited_uint8_hwc"].int()
    assert difference.abs().max() <= 1
    assert difference.count_nonzero() <= 5


def test_every_recorded_tensor_is_compared(run):
    given = {name for name in run.golden if name.startswith(("input.", "state_dict."))} | GIVEN
    assert set(run.golden) == set(NAMES)
    assert set(run.golden) - given == set(OURS)


def test_recorded_weights_are_the_models(run):
    ours = run.model.state_dict()
    golden = {name.removeprefix("state_dict."): run.golden[name] for name in NAMES if "state_dict." in name}
    assert list(ours) == list(golden)
    assert max(error(ours[name], golden[name]) for name in ours) == 0.0


@pytest.mark.parametrize(("file", "prefix"), [("vit_base_patch16", ""), ("vqgan", "vqgan.")])
def test_full_size_has_the_published_keys(file, prefix):
    listed = json.loads((FIXTURES / f"keys_mage_{file}.json").read_text())
    hole = center(256)
    with torch.device("meta"):
        model = Mage(VIT_BASE, hole)
    state = model.state_dict()
    found = [
        [name.removeprefix(prefix), list(value.shape), str(value.dtype).removeprefix("torch.")]
        for name, value in state.items()
        if name.startswith(prefix)
    ]
    assert found == listed["keys"]
    assert listed["n_keys"] == len(found)
    assert listed["n_params"] == sum(v.numel() for n, v in state.items() if n.startswith(prefix))
