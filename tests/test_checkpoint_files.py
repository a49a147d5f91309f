"""Files of published checkpoints are read without running anything, and written as they were."""

import os
from argparse import Namespace

import pytest
import torch
from torch import nn

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models.checkpoint_files import Wrapper, load_strictly, read_checkpoint, write_checkpoint

TENSORS = {
    "z.weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "a.position_ids": torch.arange(4),
    "half": torch.ones(2, dtype=torch.float16),
}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_torch_file_keeps_keys_order_dtypes_and_wrapper(tmp_path, key, legacy):
    content = TENSORS if key is None else {"epoch": 3, key: TENSORS, "scaler": {"scale": 2.0}}
    torch.save(content, tmp_path / "published.pth", _use_new_zipfile_serialization=not legacy)
    tensors, wrapper = read_checkpoint(tmp_path / "published.pth")
    write_checkpoint(tmp_path / "exported.pth", tensors, wrapper)
    again, same = read_checkpoint(tmp_path / "exported.pth")
    assert_same(again, TENSORS)
    assert same == wrapper
    raw = torch.load(tmp_path / "exported.pth", weights_only=True)
    assert list(raw) == list(content)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("one.pth", "two.pth", "one.safetensors", "two.safetensors"):
        write_checkpoint(tmp_path / name, TENSORS, Wrapper())
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_safetensors_are_read_and_written_with_their_metadata(tmp_path):
    write_checkpoint(tmp_path / "a.safetensors", TENSORS, Wrapper(metadata={"family": "mae"}))
    tensors, wrapper = read_checkpoint(tmp_path / "a.safetensors")
    assert wrapper == Wrapper(metadata={"family": "mae"})
    assert_same({name: tensors[name] for name in TENSORS}, TENSORS)


def test_safetensors_cannot_hold_the_other_entries(tmp_path):
    wrapper = Wrapper("model", after={"epoch": 1})
    with pytest.raises(WeightsError, match="found also epoch"):
        write_checkpoint(tmp_path / "a.safetensors", TENSORS, wrapper)
    write_checkpoint(tmp_path / "a.safetensors", TENSORS, wrapper.without_extras())


def test_a_view_is_written_without_the_rest_of_its_storage(tmp_path):
    write_checkpoint(tmp_path / "view.pth", {"row": torch.zeros(1000, 1000)[0]}, Wrapper("model"))
    assert (tmp_path / "view.pth").stat().st_size < 20_000


def test_channels_last_weights_are_written_in_the_plain_layout(tmp_path):
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    write_checkpoint(tmp_path / "conv.pth", {"weight": weight}, Wrapper())
    tensors, _ = read_checkpoint(tmp_path / "conv.pth")
    assert tensors["weight"].is_contiguous()
    assert torch.equal(tensors["weight"], weight)


def test_only_allowed_classes_are_built(tmp_path):
    torch.save({"model": TENSORS, "args": Namespace(lr=1e-4)}, tmp_path / "fork.pth")
    with pytest.raises(WeightsError, match=r"would call argparse\.Namespace; expected .* no other class"):
        read_checkpoint(tmp_path / "fork.pth")
    _, wrapper = read_checkpoint(tmp_path / "fork.pth", allowed=(Namespace,))
    assert wrapper.after == {"args": Namespace(lr=1e-4)}
    with pytest.raises(WeightsError):  # the permission ended with the call
        read_checkpoint(tmp_path / "fork.pth")


@pytest.mark.parametrize("allowed", [(), (Namespace,)])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, legacy, allowed):
    content = {"model": TENSORS, "args": Namespace(inner=Bomb(tmp_path / "ran"))}
    torch.save(content, tmp_path / "bomb.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="refused") as caught:
        read_checkpoint(tmp_path / "bomb.pth", allowed=allowed)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused(tmp_path):
    for name in ("good.pth", "good.safetensors"):
        write_checkpoint(tmp_path / name, TENSORS, Wrapper())
    whole = (tmp_path / "good.pth").read_bytes()
    damaged = {
        "empty.pth": b"",
        "text.pth": b"<html>not found</html>",
        "half.pth": whole[: len(whole) // 2],
        "zip.pth": b"PK\x03\x04" + bytes(40),
        "pickle.pth": b"\x80\x02}q\x00.",
        "half.safetensors": (tmp_path / "good.safetensors").read_bytes()[:-3],
        "empty.safetensors": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            read_checkpoint(tmp_path / name)
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "found list"),
        ({"model": {}}, "found nothing"),
        ({"model": {"a": torch.ones(1), "b": 3}}, "found b"),
        ({"net": {"a": torch.ones(1)}}, "under one of model, state_dict; found net"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "odd.pth")


def test_weights_that_do_not_fit_name_the_first_key_of_each_kind(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    tensors = dict(model.state_dict())
    del tensors["1.weight"], tensors["1.bias"]
    tensors |= {"0.weight": torch.zeros(3, 2), "stranger": torch.zeros(1)}
    message = (
        "expected two_layers.pth, found weights that do not fit: missing 1.weight and 1 more; "
        r"unexpected stranger; misshapen 0.weight \(3, 2\) instead of \(2, 3\)"
    )
    with pytest.raises(WeightsError, match=message):
        load_strictly(model, tensors, tmp_path / "x.pth", "two_layers.pth")


def test_weights_that_fit_are_copied(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load_strictly(model, other.state_dict(), tmp_path / "x.pth", "layer.pth")
    assert_same(model.state_dict(), other.state_dict())
