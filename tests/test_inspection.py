"""What validate and the start of a sweep say of checkpoints and folders, above all what is not used."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from command_line import call
from image_folders import make_folder
from tiny_families import FAMILIES, PATCHES, build, section

from pareto_unlearn.config import DataSection, TaskSection
from pareto_unlearn.data import describe_pictures, load_split, look_at_pictures
from pareto_unlearn.models import describe_checkpoint, family_of, load_model, look_at_checkpoint
from pareto_unlearn.models.checkpoint_files import open_checkpoint, write_checkpoint
from pareto_unlearn.records import PixelFormat


def write(path: Path, family: str) -> None:
    model = build(family)
    family_of(family).write(path, model, family_of(family).own_form(model))


EVERY = [
    (family, wrapping, half)
    for family in FAMILIES
    for wrapping in ("module.", "_orig_mod.", "module._orig_mod.", "lightning")
    for half in (None, torch.float16, torch.bfloat16)
    if (family, wrapping) != ("digits_mae", "lightning")  # which writes no safetensors
    and (family, half) != ("palette", torch.float16)  # its schedule does not fit into float16
]
QUICK = [(family, "module._orig_mod.", torch.bfloat16) for family in FAMILIES if family != "mae"]


@pytest.mark.parametrize(
    ("family", "wrapping", "half"),
    [pytest.param(*one, marks=() if one in QUICK else pytest.mark.nightly) for one in EVERY],
)
def test_wrapped_and_half_weights_load_in_every_family(tmp_path, family, wrapping, half):
    path = tmp_path / f"a{family_of(family).suffix}"
    write(path, family)
    tensors, wrapper = open_checkpoint(path)
    narrow = {
        name: one.to(half) if half and one.is_floating_point() else one for name, one in tensors.items()
    }
    prefix = "model." if wrapping == "lightning" else wrapping
    named = {f"{prefix}{name}": one for name, one in narrow.items()}
    if path.suffix == ".safetensors":
        write_checkpoint(path, named, wrapper)
    else:
        version = {"pytorch-lightning_version": "2.6.0"} if wrapping == "lightning" else {}
        torch.save({"state_dict": named, **version}, path)
    model = load_model(section(family, checkpoint=str(path)), TaskSection(patches=PATCHES[family]))
    exact = {name for name in narrow if family == "palette" and "." not in name}  # of the schedule
    for name, tensor in model.state_dict().items():
        if name in narrow:
            wanted = tensors[name] if name in exact else narrow[name].to(tensor.dtype)
            assert torch.equal(tensor, wanted), name
    facts = look_at_checkpoint(path, model.state_dict())
    assert facts.prefix == prefix
    assert any("float32" in line for line in describe_checkpoint(facts)[1:]) == (half is not None)


def test_everything_beside_the_weights_is_named(tmp_path):
    state = build("mae").published_state()
    arguments = Namespace(norm_pix_loss=False, epochs=1600, data_path="/home/somebody/imagenet")
    beside = {"optimizer": {"state": {}}, "epoch": 3, "model_ema": dict(state), "args": arguments}
    torch.save({"model": {**state, "head.bias": torch.ones(2)}, **beside}, tmp_path / "a.pth")
    lines = describe_checkpoint(look_at_checkpoint(tmp_path / "a.pth", state))
    assert "its arguments say norm_pix_loss=False, epochs=1600" in lines
    assert "not used: optimizer, epoch, model_ema, args, beside the weights" in lines
    assert any(line.startswith("not used: model_ema may be averaged weights") for line in lines)
    assert "not used: 1 tensors without a place in the model (head.bias)" in lines
    assert "/home" not in "".join(lines)
    state["norm.weight"] = state["norm.weight"].clone().fill_(torch.nan)
    torch.save({"model": dict(state)}, tmp_path / "nan.pth")
    assert "NaN or infinity in norm.weight" in describe_checkpoint(
        look_at_checkpoint(tmp_path / "nan.pth", state)
    )


def test_the_discriminator_of_a_tokeniser_is_left_out(tmp_path):
    model = build("mage")
    state = model.state_dict()
    named = {name.removeprefix("vqgan."): one for name, one in state.items() if name.startswith("vqgan.")}
    torch.save(
        {"model": {k: v for k, v in state.items() if not k.startswith("vqgan.")}}, tmp_path / "mage.pth"
    )
    torch.save(named | {"loss.discriminator.main.0.weight": torch.ones(3)}, tmp_path / "vqgan.ckpt")
    paths = {"checkpoint": str(tmp_path / "mage.pth"), "tokenizer": str(tmp_path / "vqgan.ckpt")}
    loaded = load_model(section("mage", **paths), TaskSection(patches=PATCHES["mage"]))
    assert all(torch.equal(one, state[name]) for name, one in loaded.state_dict().items())


def test_what_lies_in_the_folders_and_is_not_used_is_counted(tmp_path):
    root = make_folder(tmp_path / "images", classes=4)
    for name in ("c0/notes.txt", "c0/Thumbs.db", "c1/.DS_Store", "c9.png"):
        (root / name).write_bytes(b"x")
    config = DataSection(
        dataset="folder",
        root=str(root),
        forget_classes=("c0",),
        retain_classes=("c1", "c2"),
        train_per_class=6,
    )
    facts = look_at_pictures(config, load_split(config, 0, PixelFormat(side=8, channels=3)))
    found = {one.reason: (one.count, list(one.names)) for one in facts.unused}
    assert found["classes in no set"] == (1, ["c3"])
    assert found["images of these classes that the limits leave out"][0] == 6
    assert found["hidden files"] == (1, ["c1/.DS_Store"])
    assert found["files that are no images (1 .db, 1 .txt)"] == (2, ["c0/Thumbs.db", "c0/notes.txt"])
    assert found["images outside the folders of classes"] == (1, ["c9.png"])
    assert "3 of 4 classes; to forget 6 + 2, to keep 12 + 4 images" in describe_pictures(facts)[0]


def test_validate_prints_one_block_and_the_same_as_json(tmp_path):
    write(tmp_path / "a.pth", "mae")
    root = make_folder(tmp_path / "images")
    options = [
        f"model={{family: mae, variant: tiny, checkpoint: {tmp_path / 'a.pth'}}}", "baselines=[]",
        f"data={{dataset: folder, root: {root}, forget_classes: [c0], retain_classes: [c1]}}",
        "task={kind: center, patches: 8}", "evaluate={metrics: [mse, psnr]}",
    ]  # fmt: skip
    words = [part for one in options for part in ("-o", one)]
    sweep = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
    done = call("validate", sweep, *words)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0].startswith("checkpoint  ")
    assert "\npictures    a folder per class" in done.stderr
    assert "\n            not used: classes in no set: 1 (c2)\n" in done.stderr
    found = json.loads(call("validate", sweep, *words, "--json").stdout)["found"]
    assert found["checkpoint"]["dtypes"] == {"float32": found["checkpoint"]["tensors"]}
    assert found["pictures"]["images"]["forget_train"] == 8
