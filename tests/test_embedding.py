"""Held-out pictures in the plane: what is stored, and the section of the report that draws it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_sweep import QUICKSTART
from synthetic_run import planned_trials, synthetic_result, write_run
from tiny_families import moved

from pareto_unlearn.config import load_config
from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.records import EMBEDDING_FILE, EmbeddedPicture
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.page import page_data, render
from pareto_unlearn.store import open_run
from pareto_unlearn.trial import load_material
from pareto_unlearn.trial.embedding import MOST_IMAGES, embed_pictures

HOSTILE = '</script><img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def config():
    return load_config(QUICKSTART, ["evaluate.tsne=true", "objective.noise_images=16"])


@pytest.fixture(scope="module")
def embedded(config, tmp_path_factory):
    material = load_material(config, tmp_path_factory.mktemp("embedding"), "key")
    moved(material, share=0.5)
    first = embed_pictures(config, material)
    torch.rand(7)
    return first, embed_pictures(config, material)


def points_of(content: bytes) -> list[EmbeddedPicture]:
    return [EmbeddedPicture(**one) for one in json.loads(content)]


def run_with(folder: Path, content: bytes) -> str:
    """A stored run two of whose models have pictures in the plane."""
    results = [synthetic_result(plan) for plan in planned_trials()[:5]]
    chosen = [place for place, one in enumerate(results) if one.files][:2]
    for place in chosen:
        results[place] = replace(results[place], files={**results[place].files, EMBEDDING_FILE: content})
    return write_run(str(folder), results)


def test_the_same_pictures_have_the_same_places(embedded):
    assert embedded[0] == embedded[1]


def test_both_sets_before_and_after_are_placed_at_most_500_in_all(embedded):
    points = points_of(embedded[0])
    assert len(points) == 4 * MOST_IMAGES == 500
    for name in ("forget", "retain"):
        before, after = (
            [one.image_id for one in points if (one.set, one.version) == (name, version)]
            for version in ("original", "unlearned")
        )
        assert before == after
        assert len(set(before)) == MOST_IMAGES


def test_pictures_that_did_not_change_stay_near_their_place(config, tmp_path):
    points = points_of(embed_pictures(config, load_material(config, tmp_path, "key")))
    before, after = (
        torch.tensor([(one.x, one.y) for one in points if one.version == version])
        for version in ("original", "unlearned")
    )
    assert (before - after).norm(dim=1).median() < 0.1 * (before - before.mean(dim=0)).norm(dim=1).median()


def test_other_models_have_no_network_for_it():
    with pytest.raises(ConfigError, match="expected tsne false, found true"):
        load_config(
            QUICKSTART,
            [
                "model={family: palette, checkpoint: a.pth}",
                "data.dataset=generated",
                "evaluate={tsne: true}",
            ],
        )


def test_the_page_draws_the_pictures_of_every_model_that_has_them(embedded, tmp_path):
    report = gather(open_run(run_with(tmp_path, embedded[0])))
    assert [len(one.points) for one in report.embeddings] == [500, 500]
    assert '<section id="embeddings"' in render(report)
    figures = page_data(report)["embeddings"]
    assert set(figures) == {str(one.key) for one in report.embeddings}
    assert [len(trace["x"]) for trace in next(iter(figures.values()))["data"]] == [125] * 4


def test_hostile_names_stay_text_and_places_that_are_none_are_left_out(tmp_path):
    points = [
        {"set": "forget", "image_id": HOSTILE, "version": "original", "x": 1.0, "y": 2.0},
        {"set": "forget", "image_id": "a", "version": "original", "x": float("nan"), "y": 2.0},
        {"set": HOSTILE, "image_id": "a", "version": HOSTILE, "x": 1.0, "y": 2.0},
    ]
    report = gather(open_run(run_with(tmp_path, json.dumps(points).encode())))
    assert HOSTILE not in render(report)
    figure = page_data(report)["embeddings"][str(report.embeddings[0].key)]
    assert [trace["x"] for trace in figure["data"] if trace["x"]] == [[1.0]]
    (hover,) = (trace["hovertext"] for trace in figure["data"] if trace["x"])
    assert "<img" not in hover[0]


@pytest.mark.parametrize("content", [b"{", b"[3]", b'[{"x": 1}]'])
def test_a_damaged_file_is_named(content, tmp_path):
    with pytest.raises(StoreError, match=r"embedding.json is damaged"):
        gather(open_run(run_with(tmp_path, content)))


def test_without_checkpoints_the_report_is_made_all_the_same(embedded, tmp_path):
    path = run_with(tmp_path, embedded[0])
    for manifest in Path(path).glob("checkpoints/*/*/MANIFEST.json"):
        manifest.unlink()
    report = gather(open_run(path))
    assert report.embeddings == ()
    assert '<section id="embeddings"' not in render(report)
