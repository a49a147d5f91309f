"""Checkpoints that people have: other kinds of files, wrapped networks, half precision, other names."""

import gzip
import io
import pathlib
import tarfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import PATCHES, build, section

from pareto_unlearn.config import ModelSection, TaskSection
from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models import export_model, load_model
from pareto_unlearn.models.checkpoint_files import Wrapper, read_checkpoint, write_checkpoint
from pareto_unlearn.models.mae_transformers import published_names, transformers_tensor

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


OTHERS = {
    "a web page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "gzip": (gzip.compress(b"x"), "unpack it"),
    "tar": (tar(), "tar archive; unpack it"),
    "empty": (b"", "an empty file"),
    "anything": (bytes(range(200)), "damaged or of another kind"),
    "cut": (b"PK\x03\x04" + bytes(100), "damaged or of another kind"),
}


@pytest.mark.parametrize("ending", [".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize(("content", "words"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_checkpoint_is_known_by_its_content(tmp_path, content, words, ending):
    path = tmp_path / f"weights{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert words in said or ending == ".safetensors"
    assert "weights_only" not in said


def test_a_file_under_the_wrong_ending_and_a_folder_are_named(tmp_path):
    save_file(TENSORS, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"safetensors file under another ending; name it a\.safetensors"):
        read_checkpoint(tmp_path / "a.pth")
    torch.save(TENSORS, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"name it b\.pth"):
        read_checkpoint(tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match="found a folder; name the file in it"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_number_that_is_none_is_refused_with_its_tensor(tmp_path, name, value):
    write_checkpoint(tmp_path / name, TENSORS | {"b": torch.tensor([1.0, value])}, Wrapper())
    with pytest.raises(WeightsError, match="found NaN or infinity in b"):
        read_checkpoint(tmp_path / name)


PREFIXED = {
    "DistributedDataParallel": ("module.", {}),
    "torch.compile": ("_orig_mod.", {}),
    "both": ("module._orig_mod.", {}),
    "Lightning": ("model.", {"pytorch-lightning_version": "2.4"}),
}


@pytest.mark.parametrize(("prefix", "beside"), PREFIXED.values(), ids=PREFIXED)
def test_the_prefix_of_a_wrapped_network_is_taken_off_and_put_back(tmp_path, prefix, beside):
    stored = {f"{prefix}{name}": tensor for name, tensor in TENSORS.items()}
    torch.save({**beside, "state_dict": stored}, tmp_path / "wrapped.pth")
    tensors, wrapper = read_checkpoint(tmp_path / "wrapped.pth")
    assert list(tensors) == list(TENSORS)
    write_checkpoint(tmp_path / "again.pth", tensors, wrapper.without_extras())
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert list(again["state_dict"]) == list(stored)


@pytest.mark.parametrize("names", [("module.a", "b"), ("model.a", "model.b")])
def test_what_is_no_prefix_of_a_wrapper_stays(tmp_path, names):
    torch.save(dict(zip(names, TENSORS.values(), strict=True)), tmp_path / "plain.pth")
    assert list(read_checkpoint(tmp_path / "plain.pth")[0]) == list(names)


def test_arguments_of_a_training_are_read_with_their_paths_and_numbers(tmp_path):
    arguments = Namespace(output=pathlib.PosixPath("/x"), rate=np.float64(0.1), steps=np.int64(3))
    torch.save({"model": TENSORS, "args": arguments}, tmp_path / "launched.pth")
    tensors, wrapper = read_checkpoint(tmp_path / "launched.pth", allowed=(Namespace,))
    assert list(tensors) == list(TENSORS)
    assert wrapper.after["args"].output == Path("/x")


# The masked autoencoder


def published(tmp_path: Path, content: dict, name: str = "tiny.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(("trained", "predicts"), [(True, "pixels"), (False, "normalised_patches")])
def test_a_file_that_says_what_it_predicts_is_not_taken_for_the_other(tmp_path, trained, predicts):
    state = build("mae").published_state()
    path = published(tmp_path, {"model": state, "args": Namespace(norm_pix_loss=trained)})
    wanted = "normalised_patches" if trained else "pixels"
    with pytest.raises(WeightsError, match=f"norm_pix_loss={trained}.*set model.predicts to {wanted}"):
        load_model(*sections(path, predicts))
    load_model(*sections(path, wanted))


def sections(path: Path, predicts: str = "pixels") -> tuple[ModelSection, TaskSection]:
    return section("mae", checkpoint=str(path), predicts=predicts), TaskSection(patches=PATCHES["mae"])


def as_transformers(state: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    return {name: transformers_tensor(state, name).contiguous() for name in names}


NAMES = (Path(__file__).parent / "fixtures" / "vitmae_names.txt").read_text().split()
"""The tensors of ``ViTMAEForPreTraining`` with two layers and a decoder of one."""


def test_the_names_of_transformers_hold_every_weight_once():
    state = build("mae").published_state()
    theirs = as_transformers(state, NAMES)
    again = published_names(theirs)
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert sum(tensor.numel() for tensor in theirs.values()) == sum(one.numel() for one in state.values())


def test_queries_keys_and_values_are_thirds_in_this_order():
    state = build("mae").published_state()
    whole = state["blocks.1.attn.qkv.weight"]
    layer = "vit.encoder.layer.1.attention.attention"
    third = len(whole) // 3
    for number, part in enumerate(("query", "key", "value")):
        found = transformers_tensor(state, f"{layer}.{part}.weight")
        assert torch.equal(found, whole[number * third : (number + 1) * third])


def test_a_file_of_transformers_is_read_and_goes_out_as_one(tmp_path):
    state = build("mae").published_state()
    save_file(as_transformers(state, NAMES), tmp_path / "vit-mae.safetensors", metadata={"format": "pt"})
    model, task = sections(tmp_path / "vit-mae.safetensors")
    loaded = load_model(model, task)
    assert all(torch.equal(loaded.published_state()[name], state[name]) for name in state)
    changed = {name: tensor + 1.0 for name, tensor in loaded.state_dict().items()}
    export_model(tmp_path / "out.safetensors", model, task, changed)
    out = load_file(tmp_path / "out.safetensors")
    assert sorted(out) == sorted(NAMES)
    assert torch.equal(published_names(out)["cls_token"], state["cls_token"] + 1.0)


def test_half_precision_is_read_and_goes_out_in_single(tmp_path):
    state = {name: tensor.half() for name, tensor in build("mae").published_state().items()}
    model, task = sections(published(tmp_path, {"model": state}))
    loaded = load_model(model, task)
    changed = {name: tensor + 1e-4 for name, tensor in loaded.state_dict().items()}
    export_model(tmp_path / "out.pth", model, task, changed)
    out = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert {tensor.dtype for tensor in out.values()} == {torch.float32}
    assert torch.equal(out["cls_token"], changed["cls_token"])
