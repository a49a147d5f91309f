"""Every family gives the same numbers under any precision, memory layout, compiler and attention."""

import copy
import math
import sys
from pathlib import Path

import pytest
import timm.layers
import torch
from small_sweep import QUICKSTART
from tiny_families import FAMILIES, PUBLISHED, SPACES, build, build_published, pictures, relative, seeds
from waiting import run_process

from pareto_unlearn.config import load_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import save_model
from pareto_unlearn.models.palette_unet import AttentionBlock
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.solver import FlatParameters
from pareto_unlearn.trial.forward import check_forward, run_in_steps


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_within_a_few_percent_of_the_spread_of_features(family, space):
    model = build(family)
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    config = load_config(QUICKSTART, ["solver.precision=bfloat16"])
    wide = feature_function(model, space)
    with torch.no_grad():
        exact, narrow = wide(inputs), run_in_steps(config, wide)(inputs)
    assert narrow.dtype == torch.float32
    # 8 bits through a few layers: 0.4 to 2 % of the spread.
    assert 0.0 < float((narrow - exact).square().mean().sqrt() / exact.std()) < 0.04


@pytest.mark.parametrize("family", ["mage", "palette"])
def test_channels_last_changes_rounding_only(family):
    models = [build(family, channels_last=last) for last in (False, True)]
    images = pictures(family)
    plain, last = (model.prepare(images, seeds(0, 1, 2)) for model in models)
    assert torch.equal(plain, last)
    with torch.no_grad():
        for function in ("encode", "__call__"):
            one, two = (getattr(model, function)(plain) for model in models)
            assert relative(two, one) < 1e-4
        one, two = (model.generate(images, seeds(0, 1, 2)) for model in models)
    assert relative(two, one) < 1e-4


@pytest.mark.parametrize("family", ["mage", "palette"])
def test_channels_last_weights_are_saved_as_the_others(family):
    assert save_model(build(family, channels_last=True)) == save_model(build(family))


@pytest.mark.parametrize("space", SPACES)
def test_maps_lie_channels_last_also_where_a_solver_holds_the_weights(space):
    model = build("palette", channels_last=True)
    FlatParameters(model.trainable(space))
    seen: list[bool] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(
                lambda _module, _inputs, out: seen.append(
                    out.is_contiguous(memory_format=torch.channels_last)
                )
            )
    model.encode(model.prepare(pictures("palette", 2), seeds(0, 1)))
    assert len(seen) > 5
    assert all(seen)


def gradients_of(model, inputs, space) -> list[torch.Tensor]:
    parameters = model.trainable(space)
    loss = feature_function(model, space)(inputs).square().mean()
    return list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("space", SPACES)
def test_recomputing_gives_the_same_gradients(space):
    models = [build("palette", recompute=recompute) for recompute in (False, True)]
    inputs = models[0].prepare(pictures("palette"), seeds(0, 1, 2))
    kept, recomputed = (gradients_of(model, inputs, space) for model in models)
    # Biases before a normalisation over their own channel alone have a gradient of nothing but rounding.
    largest = max(float(one.norm()) for one in kept)
    assert all(float((one - two).norm()) <= 1e-6 * largest for one, two in zip(kept, recomputed, strict=True))


GRAPHS = [("digits_mae", build), ("mage", build), *((family, build_published) for family in PUBLISHED)]
"""One of each way forward; drawn masks of mae and palette take the same way as the hole."""

COMPILED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import test_families_precision as shared
from tiny_families import pictures, relative, seeds
backend, *chosen = sys.argv[2:]
for family, make in shared.GRAPHS:
    model = make(family)
    inputs = model.prepare(pictures(family, 2), seeds(0, 1))
    for name in chosen or ("encode", "training_loss"):
        torch._dynamo.reset()
        eager = getattr(model, name)
        compiled = torch.compile(eager, fullgraph=True, dynamic=False, backend=backend)
        one, two = compiled(inputs), eager(inputs)
        assert relative(one.detach(), two.detach()) < 1e-5, (family, name)
        assert one.isfinite().all()
    if chosen:
        continue
    trained = model.trainable("output")
    one, two = (torch.autograd.grad(loss, trained, allow_unused=True) for loss in (one, two))
    one, two = (torch.cat([g.flatten() for g in each if g is not None]) for each in (one, two))
    assert relative(one, two) < 1e-4, family
"""


def compile_all(*arguments: str) -> None:
    # In a process of its own: the shape checks of the tests wrap the models' methods, and cannot be compiled.
    command = [sys.executable, "-c", COMPILED, str(Path(__file__).parent), *arguments]
    done = run_process(command)
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
def test_every_training_loss_is_one_graph():
    compile_all("eager", "training_loss")  # it runs the encoder and the decoder


@pytest.mark.nightly
def test_compiled_outputs_losses_and_gradients_are_those_of_eager_code():
    try:
        check_forward(load_config(QUICKSTART, ["solver.compile=true"]))
    except ConfigError as error:
        if "torch.compile needs" not in str(error):
            raise
        pytest.skip(str(error))
    compile_all("inductor")


@pytest.mark.parametrize("family", ["mae", "mage"])
def test_fused_attention_is_attention(family):
    fused = build(family)
    timm.layers.set_fused_attn(False)
    try:
        plain = build(family)
    finally:
        timm.layers.set_fused_attn(True)
    assert [model.blocks[0].attn.fused_attn for model in (fused, plain)] == [True, False]
    inputs = fused.prepare(pictures(family), seeds(0, 1, 2))
    with torch.no_grad():
        assert relative(fused.encode(inputs), plain.encode(inputs)) < 1e-5
        assert relative(fused(inputs), plain(inputs)) < 1e-5


def explicit_attention(block, maps):
    """Attention over pixels written out with a softmax."""
    batch, channels, height, width = maps.shape
    pixels = maps.flatten(2)
    heads = block.qkv(block.norm(pixels)).reshape(batch * block.heads, -1, height * width)
    query, key, value = heads.chunk(3, dim=1)
    weights = (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(dim=2)
    mixed = (value @ weights.transpose(1, 2)).reshape(batch, channels, -1)
    return (pixels + block.proj_out(mixed)).view_as(maps)


def test_palette_attends_as_an_explicit_softmax_does(monkeypatch):
    model = build("palette")
    inputs = model.prepare(pictures("palette"), seeds(0, 1, 2))
    with torch.no_grad():
        fused = model(inputs), model.encode(inputs)
        monkeypatch.setattr(AttentionBlock, "forward", explicit_attention)
        plain = model(inputs), model.encode(inputs)
    for one, other in zip(fused, plain, strict=True):
        assert relative(one, other) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_of_a_model_is_its_own(family):
    model = build(family)
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    other = copy.deepcopy(model)
    with torch.no_grad():
        before = other(inputs)
        for parameter in model.trainable("output"):
            parameter.mul_(2.0)
        assert torch.equal(other(inputs), before)
