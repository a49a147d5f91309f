"""A sweep's data: which ways to choose images go together."""

import pytest
from sweep_text import by_list, only_error, parse

NO_RETAIN = "expected at least one, found the number 0: f2 is measured on"


def test_a_proxy_is_on_or_has_numbers() -> None:
    assert parse("", "data.proxy_retain=true") == parse("", "data.proxy_retain={}")
    assert parse("", "data.proxy_retain=false") == parse()
    assert parse("", "data.proxy_retain={classes: 3, per_class: 2}").data.proxy_retain.classes == 3


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        (("data.retain_classes=0",), "retain_classes", NO_RETAIN),
        (("data.retain_classes=[]",), "retain_classes", "`proxy_retain: true` takes other classes instead"),
        (("data.retain_per_class=0",), "retain_per_class", NO_RETAIN),
        (("data.forget_share=0.3",), "forget_share", "expected none without `split: random_images`"),
        (("data.class_rule=imagenet_r",), "class_rule", "expected class_list and class_rule together"),
        (
            (*by_list("a", "imagenet_r"), "data.retain_classes=3"),
            "retain_classes",
            "expected none beside class_list",
        ),
        (
            ("data.retain_per_class=2", "data.proxy_retain=true"),
            "proxy_retain",
            "expected either retain_per_class or",
        ),
    ],
)  # fmt: skip
def test_data_that_contradicts_itself_is_refused(overrides: tuple[str, ...], key: str, expected: str) -> None:
    line = only_error("", *overrides)
    assert f": data.{key}: " in line
    assert expected in line


def test_a_list_and_named_classes_exclude_each_other() -> None:
    line = only_error("", *by_list("a", "imagenet_r")[1:])
    assert (
        "data.forget_classes: expected none beside class_list, which names the classes, found a list" in line
    )


@pytest.mark.parametrize(
    "extra", ["retain_classes=[1]", "retain_per_class=2", "proxy_retain=true", "forget_classes=[0]"]
)
def test_random_images_have_no_classes_to_choose(extra: str) -> None:
    line = only_error("", "data.forget_classes=null", "data.split=random_images", f"data.{extra}")
    assert "expected none with `split: random_images`, which does not look at classes" in line


@pytest.mark.parametrize("dataset", ["folder", "imagenet", "places365"])
def test_a_data_set_of_files_needs_a_root(dataset: str) -> None:
    assert only_error("", f"data.dataset={dataset}") == (
        f"x.yaml:3: data.root: expected the folder that holds the images of dataset {dataset}, found nothing"
    )
    assert parse("", f"data.dataset={dataset}", "data.root=/images").data.root == "/images"


@pytest.mark.parametrize("dataset", ["digits", "generated"])
def test_a_data_set_without_files_refuses_a_root(dataset: str) -> None:
    assert only_error("", f"data.dataset={dataset}", "data.root=/images") == (
        f"-o data.root=/images: data.root: expected none for dataset {dataset}, which needs no files, "
        "found the text `/images`; remove it"
    )


def test_the_cache_of_image_files_may_be_switched_off() -> None:
    assert parse().data.cache_bytes == 16 * 2**30
    assert parse("", "data.cache_bytes=0").data.cache_bytes == 0
    assert "data.cache_bytes: expected" in only_error("", "data.cache_bytes=-1")
