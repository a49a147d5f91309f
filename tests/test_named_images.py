"""Single images are forgotten by name: one person's photos, whatever class they lie in."""

from pathlib import Path

import pytest
from image_folders import EXACT, ids_of, make_folder, refused, rows_of, section
from pydantic import ValidationError

from pareto_unlearn.config import DataSection, dump_config, parse_config
from pareto_unlearn.data import load_split
from pareto_unlearn.data.sources import hold_out

ALL_OF_C0 = [f"c0/{number:03d}.png" for number in range(10)]
HELDOUT = hold_out(ALL_OF_C0).heldout
NAMED = sorted([*HELDOUT[:1], *[name for name in ALL_OF_C0 if name not in HELDOUT][:4]])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pictures")


def named(root: Path, forget: object, **changes) -> DataSection:
    return section(root, **({"forget_classes": None, "retain_classes": None, "forget": forget} | changes))


def refused_key(root: Path, forget: object, **changes) -> str:
    with pytest.raises(ValidationError) as caught:
        named(root, forget, **changes)
    return str(caught.value)


def test_named_images_are_forgotten_and_all_others_kept(root):
    chosen = ids_of(load_split(named(root, NAMED), 0, EXACT))
    assert chosen["forget_heldout"] == HELDOUT[:1]
    assert sorted((*chosen["forget_train"], *chosen["forget_heldout"])) == NAMED
    kept = {*chosen["retain_train"], *chosen["retain_heldout"]}
    assert kept == {f"c{number}/{image:03d}.png" for number in range(3) for image in range(10)} - set(NAMED)
    # An image stays in the split that it has without any choice.
    assert set(HELDOUT[1:]) <= set(chosen["retain_heldout"])


def test_the_rest_of_their_class_can_be_left_out_of_all_sets(root):
    split = load_split(named(root, NAMED, same_class="leave_out"), 0, EXACT)
    assert {row["image_id"] for row in rows_of(split) if row["class_name"] == "c0"} == set(NAMED)
    assert split.retain_train.class_names == ("c1", "c2")


def test_a_fifth_of_the_named_images_can_be_held_out(root):
    trained = [name for name in ALL_OF_C0 if name not in HELDOUT]
    message = refused(named(root, trained))
    assert "found none among 8" in message
    assert f"such as {HELDOUT[0]}" in message
    assert "set data.forget_split: named" in message
    chosen = ids_of(load_split(named(root, trained, forget_split="named"), 0, EXACT))
    assert chosen["forget_heldout"] == hold_out(trained).heldout
    assert len(chosen["forget_train"]) == 6
    assert "takes at least three" in refused(named(root, trained[:2], forget_split="named"))


def test_limits_bound_what_is_kept_alone(root):
    few = named(root, NAMED, train_per_class=2, heldout_per_class=1, retain_classes=["c1", "c2"])
    chosen = {name: len(found) for name, found in ids_of(load_split(few, 0, EXACT)).items()}
    assert chosen == {"forget_train": 4, "retain_train": 4, "forget_heldout": 1, "retain_heldout": 2}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "# one person\n\n" + "".join(f"./{one}\n" for one in reversed(NAMED))),
        ("a.csv", "image_id,class_name\n" + "".join(f'"{one}",c0\n' for one in NAMED)),
        ("b.CSV", "n,Path\n" + "".join(f"1,{one}\n" for one in NAMED)),
    ],
)
def test_a_file_names_them_and_the_resolved_sweep_holds_them(root, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert named(root, str(tmp_path / name)).forget == tuple(NAMED)
    sweep = (
        f"name: a\nmodel: {{family: mae, variant: small, checkpoint: a.pth}}\n"
        f"data: {{dataset: folder, root: {root}, forget: {tmp_path / name}}}\n"
    )
    config = parse_config(sweep, "sweep")
    (tmp_path / name).unlink()
    assert parse_config(dump_config(config), "dump") == config


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "# nobody\n", "expected at least one image, found none"),
        ("a.txt", "c0/001.png\n./c0/001.png\n", "found `c0/001.png` twice in"),
        ("a.txt", b"\xff\xfe\x00", "found no UTF-8 text"),
        ("a.csv", "c0/001.png\nc0/002.png\n", "expected a first line that names a column"),
        ("a.csv", "n,path\n1\n", "expected paths of images as text"),
        ("missing.txt", None, "No such file"),
    ],
)
def test_a_list_that_is_wrong_is_refused_before_anything_is_read(root, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refused_key(root, str(tmp_path / name))


def test_names_that_are_not_in_the_data_set_are_told_with_the_nearest(root):
    message = refused(named(root, [*NAMED, "c0/00l.png"]))
    assert "found 1 that are not in it: c0/00l.png" in message
    assert "did you mean c0/00" in message
    assert "its images have names such as c0/000.png" in refused(named(root, ["/home/me/x.jpeg", *NAMED]))


def test_something_must_be_left_to_retain(root):
    everything = [f"c{number}/{image:03d}.png" for number in range(3) for image in range(10)]
    assert "found all 30 images" in refused(named(root, everything))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_classes": ["c0"]}, "beside `forget`"),
        ({"proxy_retain": True}, "beside `forget`"),
        ({"split": "random_images"}, "expected none with `split: random_images`"),
        ({"class_list": "a.json", "class_rule": "imagenet_r"}, "beside class_list"),
    ],
)
def test_other_ways_to_choose_are_refused_beside_names(root, changes, message):
    values = {"dataset": "folder", "root": str(root), "forget": NAMED} | changes
    with pytest.raises(ValidationError, match=message):
        DataSection.model_validate(values)


@pytest.mark.parametrize("key", ["same_class: leave_out", "forget_split: named"])
def test_its_keys_need_names(key):
    name, _, value = key.partition(": ")
    with pytest.raises(ValidationError, match="left out without `forget`"):
        DataSection.model_validate({"dataset": "digits", "forget_classes": [0], name: value})
