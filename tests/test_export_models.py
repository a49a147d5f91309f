"""Unlearned weights go out as the originals came in, in each family's published form; misfits are refused."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_families import FAMILIES, PATCHES, build, pictures, section, seeds
from torch import Tensor

from pareto_unlearn.config import TaskSection
from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models import ImageToImage, export_model, family_of, load_model
from pareto_unlearn.models.checkpoint_files import write_checkpoint
from pareto_unlearn.models.palette_schedule import SCHEDULE_NAMES, LinearSchedule, build_schedule

TRAINED = ("mae", "mage", "palette")
"""The families that read files of others."""

EXTRAS = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "epoch": 5, "args": Namespace(lr=1e-4)}
"""What a training run of the published code of mae or mage leaves in its files."""


def task_of(family: str) -> TaskSection:
    return TaskSection(patches=PATCHES[family])


def published_state(model: ImageToImage) -> dict[str, Tensor]:
    """Return the weights under the published names and in the published order."""
    return model.published_state() if model.family == "mae" else model.state_dict()


def write_published(path: Path, family: str, state: dict[str, Tensor]) -> None:
    """Write a file as the published code does."""
    content = {"model": state, **EXTRAS} if family in ("mae", "mage") else state
    torch.save(content, path)


def read_raw(path: Path, family: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a file, and the names that lie around them."""
    with torch.serialization.safe_globals([Namespace]):
        content = torch.load(path, weights_only=True)
    return (content["model"], list(content)) if family in ("mae", "mage") else (content, [])


def trained_weights(model: ImageToImage) -> dict[str, Tensor]:
    """Return weights that differ from those of the model, as those of a trial do."""
    trained = {id(parameter) for parameter in model.trainable("output")}
    own = {name: id(parameter) for name, parameter in model.named_parameters()}
    return {
        name: tensor * 1.37 + 0.251 if own.get(name) in trained else tensor.clone()
        for name, tensor in model.state_dict().items()
    }


def form_of(tensors: dict[str, Tensor]) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]


def export(tmp_path: Path, family: str, source: Path, name: str, **changes: object) -> Path:
    """Export trained weights in the form of a file and return where."""
    config, out = section(family, checkpoint=str(source), **changes), tmp_path / name
    model = load_model(config, task_of(family))
    weights = trained_weights(model)
    export_model(out, config, task_of(family), weights)
    again = load_model(section(family, checkpoint=str(out), **changes), task_of(family))
    for key, tensor in weights.items():
        assert torch.equal(again.state_dict()[key], tensor), key
    return out


@pytest.mark.parametrize("family", TRAINED)
def test_an_exported_file_has_the_form_of_the_published_one_without_its_extras(tmp_path, family):
    model, source = build(family), tmp_path / "published.pth"
    write_published(source, family, published_state(model))
    out = export(tmp_path, family, source, "unlearned.pth")
    (before, _), (after, around) = read_raw(source, family), read_raw(out, family)
    assert form_of(after) == form_of(before)
    assert around == (["model"] if family in ("mae", "mage") else [])
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert changed
    assert not any(name.startswith("vqgan.") or name in SCHEDULE_NAMES for name in changed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published.pth", "unlearned.pth"]


@pytest.mark.parametrize("family", TRAINED)
def test_a_loaded_published_file_is_the_model_that_wrote_it(tmp_path, family):
    model, source = build(family), tmp_path / "published.pth"
    write_published(source, family, published_state(model))
    again = load_model(section(family, checkpoint=str(source)), task_of(family))
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    assert torch.equal(again(inputs), model(inputs))


@pytest.mark.parametrize("family", TRAINED)
@pytest.mark.parametrize("name", ["unlearned.safetensors", "unlearned.pth"])
def test_safetensors_are_a_source_too(tmp_path, family, name):
    model, source = build(family), tmp_path / "published.safetensors"
    save_file({key: tensor.clone() for key, tensor in published_state(model).items()}, source)
    out = export(tmp_path, family, source, name)
    if out.suffix == ".safetensors":
        with safe_open(out, framework="pt") as file:
            assert set(file.keys()) == set(model.state_dict())
    else:
        assert form_of(torch.load(out, weights_only=True)) == form_of(load_raw_safetensors(source))


def load_raw_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict


@pytest.mark.parametrize("family", TRAINED)
def test_a_torch_file_can_go_out_as_safetensors(tmp_path, family):
    model, source = build(family), tmp_path / "published.pth"
    write_published(source, family, published_state(model))
    out = export(tmp_path, family, source, "unlearned.safetensors")
    assert set(load_raw_safetensors(out)) == set(model.state_dict())


def test_the_embedded_model_goes_out_with_its_description(tmp_path):
    config, out = section("digits_mae"), tmp_path / "unlearned.safetensors"
    model = build("digits_mae")
    weights = trained_weights(model)
    export_model(out, config, task_of("digits_mae"), weights)
    again = load_model(section("digits_mae", checkpoint=str(out)), task_of("digits_mae"))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("family", TRAINED)
def test_a_wrapper_of_another_name_stays_and_its_extras_go(tmp_path, family):
    model, source = build(family), tmp_path / "published.pth"
    torch.save({"epoch": 3, "state_dict": published_state(model), "note": "x"}, source)
    out = export(tmp_path, family, source, "unlearned.pth")
    assert list(torch.load(out, weights_only=True)) == ["state_dict"]


@pytest.mark.parametrize("family", TRAINED)
def test_weights_in_another_layout_of_memory_give_the_same_file(tmp_path, family):
    model, source = build(family), tmp_path / "published.pth"
    write_published(source, family, published_state(model))
    weights = trained_weights(model)
    outs = [tmp_path / name for name in ("one.pth", "other.pth")]
    strided = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in weights.items()
    }
    for out, each in zip(outs, (weights, strided), strict=True):
        export_model(out, section(family, checkpoint=str(source)), task_of(family), each)
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.parametrize("family", TRAINED)
def test_a_source_in_half_precision_goes_out_in_single(tmp_path, family):
    model, source = build(family), tmp_path / "published.pth"
    halved = {
        name: tensor.half() if tensor.is_floating_point() and name not in SCHEDULE_NAMES else tensor
        for name, tensor in published_state(model).items()
    }
    write_published(source, family, halved)
    config = section(family, checkpoint=str(source))
    weights = trained_weights(load_model(config, task_of(family)))
    export_model(tmp_path / "out.pth", config, task_of(family), weights)
    written, _ = read_raw(tmp_path / "out.pth", family)
    assert torch.float16 not in {tensor.dtype for tensor in written.values()}
    assert list(written) == list(halved)


# MAGE with its tokeniser in a file of its own


@pytest.mark.parametrize("wrapped", [True, False])
def test_mage_with_a_separate_tokeniser_goes_out_without_it(tmp_path, wrapped):
    model, source, own = build("mage"), tmp_path / "published.pth", tmp_path / "vqgan.ckpt"
    state = model.state_dict()
    inside = {
        name.removeprefix("vqgan."): tensor for name, tensor in state.items() if name.startswith("vqgan.")
    }
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("vqgan.")}
    write_published(source, "mage", rest)
    torch.save({"state_dict": inside} if wrapped else inside, own)
    out = export(tmp_path, "mage", source, "unlearned.pth", tokenizer=str(own))
    after, around = read_raw(out, "mage")
    assert form_of(after) == form_of(rest)
    assert around == ["model"]


def test_mage_without_a_tokeniser_is_refused(tmp_path):
    source = tmp_path / "published.pth"
    write_published(
        source,
        "mage",
        {name: one for name, one in build("mage").state_dict().items() if not name.startswith("vqgan.")},
    )
    with pytest.raises(WeightsError, match=r"vqgan_jax_strongaug\.ckpt"):
        load_model(section("mage", checkpoint=str(source)), task_of("mage"))


def test_a_missing_tokeniser_is_named_with_its_key(tmp_path):
    source = tmp_path / "published.pth"
    write_published(source, "mage", build("mage").state_dict())
    config = section("mage", checkpoint=str(source), tokenizer=str(tmp_path / "none.ckpt"))
    with pytest.raises(WeightsError, match=r"none\.ckpt"):
        load_model(config, task_of("mage"))


# Averaged and unlearned files of Palette


def test_averaged_weights_of_palette_go_out_without_a_schedule(tmp_path):
    model, source = build("palette"), tmp_path / "16_Network_ema.pth"
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in SCHEDULE_NAMES}
    torch.save(state, source)
    out = export(tmp_path, "palette", source, "17_Network_ema.pth")
    assert form_of(torch.load(out, weights_only=True)) == form_of(state)


@pytest.mark.parametrize("steps", [2000, 300])
def test_palette_follows_another_schedule_where_it_is_told_to(tmp_path, steps):
    source, state = tmp_path / "own_Network.pth", build("palette").state_dict()
    own = build_schedule(LinearSchedule(steps=steps, first=1e-4, last=0.02))
    state |= {name: getattr(own, name) for name in SCHEDULE_NAMES}
    torch.save(state, source)
    config = section("palette", checkpoint=str(source))
    with pytest.raises(WeightsError, match=r"set model\.schedule: file"):
        load_model(config, task_of("palette"))
    out = export(tmp_path, "palette", source, "unlearned.pth", schedule="file")
    assert torch.equal(torch.load(out, weights_only=True)["gammas"], own.gammas)


def test_palette_cannot_follow_a_schedule_that_is_not_there(tmp_path):
    source, state = tmp_path / "16_Network_ema.pth", build("palette").state_dict()
    torch.save({name: one for name, one in state.items() if name not in SCHEDULE_NAMES}, source)
    with pytest.raises(WeightsError, match="expected a file that holds its schedule"):
        load_model(section("palette", checkpoint=str(source), schedule="file"), task_of("palette"))


def test_the_original_beside_unlearned_weights_of_palette_goes(tmp_path):
    model, source = build("palette"), tmp_path / "unlearned_Network.pth"
    state = model.state_dict()
    teacher = {f"teacher_{name}": one for name, one in state.items() if name not in SCHEDULE_NAMES}
    torch.save({**state, **teacher}, source)
    out = export(tmp_path, "palette", source, "again_Network.pth")
    assert form_of(torch.load(out, weights_only=True)) == form_of(state)


# What does not fit

EXPECTED = {
    "digits_mae": "weights of family digits_mae",
    "mae": "weights of MaeShape(side=56",
    "mage": "mage-vitb-1600.pth",
    "palette": "16_Network.pth",
}
"""What of the expected file is named; the tiny mae has no published file."""


def write_of(family: str, path: Path, state: dict[str, Tensor]) -> None:
    if family == "digits_mae":
        write_checkpoint(path, state, family_of(family).own_form(build(family)))
    else:
        write_published(path, family, state)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_do_not_fit_name_the_first_key_of_each_kind_and_the_file(tmp_path, family):
    path = tmp_path / ("wrong.safetensors" if family == "digits_mae" else "wrong.pth")
    state = dict(published_state(build(family)))
    own = [name for name, one in state.items() if one.ndim == 2 and not name.startswith("vqgan.")]
    missing, misshapen = own[0], own[1]
    del state[missing]
    shape = tuple(state[misshapen].shape)
    state[misshapen] = state[misshapen][:-1].clone()
    state["head.weight"] = torch.zeros(3)
    write_of(family, path, state)
    with pytest.raises(WeightsError) as refused:
        load_model(section(family, checkpoint=str(path)), task_of(family))
    message = str(refused.value)
    assert refused.value.exit_code == 8
    for part in (
        str(path),
        EXPECTED[family],
        f"missing {missing}",
        "unexpected head.weight",
        f"misshapen {misshapen} {(shape[0] - 1, *shape[1:])} instead of {shape}",
    ):
        assert part in message


@pytest.mark.parametrize("family", TRAINED)
def test_a_missing_checkpoint_names_the_published_file(tmp_path, family):
    config = section(family, checkpoint=str(tmp_path / "none.pth"))
    published = {
        "mae": "mae_visualize_vit_base.pth",
        "mage": "mage-vitb-1600.pth",
        "palette": "16_Network.pth",
    }
    with pytest.raises(WeightsError, match=r"model\.checkpoint") as refused:
        load_model(config, task_of(family))
    assert published[family] in str(refused.value)
    assert refused.value.exit_code == 8


@pytest.mark.parametrize("family", TRAINED)
def test_weights_of_another_network_do_not_go_out(tmp_path, family):
    model, source = build(family), tmp_path / "published.pth"
    write_published(source, family, published_state(model))
    weights = trained_weights(model)
    weights.pop(next(iter(weights)))
    with pytest.raises(WeightsError, match="Missing"):
        export_model(tmp_path / "out.pth", section(family, checkpoint=str(source)), task_of(family), weights)
    assert [path.name for path in tmp_path.iterdir()] == ["published.pth"]
