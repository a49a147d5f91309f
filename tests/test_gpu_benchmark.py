"""What is measured on a GPU, and with the published sheets, works on the day that there is one."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from waiting import run_process

FOLDER = Path(__file__).parent.parent / "benchmarks"
PAGE = FOLDER.parent / "docs" / "benchmarks.md"


def run(script: str, *arguments: object) -> str:
    done = run_process([sys.executable, FOLDER / script, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stderr


def pieces_at_tiny_width(device: str, folder: Path) -> dict[str, dict]:
    results = folder / "gpu.json"
    arguments = (
        "--tiny",
        "--device",
        device,
        "--work",
        folder / "work",
        "--results",
        results,
        "--minutes",
        20,
    )
    first = run("gpu.py", *arguments, "--piece", "correct_mae")
    assert "1 of 10 pieces" in first
    before = json.loads(results.read_text())["pieces"]["correct_mae"]
    assert "10 of 10 pieces" in run("gpu.py", *arguments)
    found = json.loads(results.read_text())["pieces"]
    assert found["correct_mae"] == before
    return found


@pytest.mark.nightly
def test_every_piece_runs_at_tiny_width_and_a_second_call_goes_on(tmp_path):
    found = pieces_at_tiny_width("cpu", tmp_path)
    for family in ("mae", "mage", "palette"):
        assert set(found[f"correct_{family}"]["float32"].values()) == {0.0}
        assert 0.0 < found[f"correct_{family}"]["bfloat16"]["gradient of f1"] < 0.2
        assert found[f"correct_{family}"]["repeats_to_the_bit"]
        for precision in ("float32", "bfloat16"):
            for way in ("ours", "composite"):
                assert found[f"step_{family}"][precision][way]["images_per_second"] > 0
    assert found["front_mae"]["exit_code"] in (0, 4)


@pytest.mark.gpu
def test_every_piece_runs_on_a_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    found = pieces_at_tiny_width("cuda", tmp_path)
    for family in ("mae", "mage", "palette"):
        assert max(found[f"correct_{family}"]["float32"].values()) < 1e-3
        assert found[f"step_{family}"]["bfloat16"]["ours"]["peak_bytes"] > 0


@pytest.mark.nightly
def test_what_a_step_sends_and_waits_for_is_counted_for_every_family(tmp_path):
    run("step_traffic.py", "--tiny", "--results", tmp_path / "traffic.json", "--page", tmp_path / "page.md")
    rows = json.loads((tmp_path / "traffic.json").read_text())
    assert [row["family"] for row in rows] == ["mae", "mage", "palette"]
    assert all((row["waits"], row["refused"]) == (0, []) for row in rows)
    assert all(row["sent_bytes"] > 0 for row in rows)


@pytest.mark.nightly
def test_a_sheet_runs_to_its_end_with_random_weights(tmp_path):
    run("full_sweep.py", "--tiny", "--family", "mae", "--variant", "vit_base", "--work", tmp_path,
        "--results", tmp_path / "rows.json", "--page", tmp_path / "page.md")  # fmt: skip
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["exit_code"] in (0, 4)
    assert row["trials"] == 6


@pytest.mark.parametrize(
    ("script", "section", "heading"), [("step_traffic", "step-traffic", "What a step sends and waits for")]
)
def test_the_page_shows_what_was_measured(script, section, heading, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    home = importlib.import_module(script)
    text = home.render(FOLDER / "results" / f"{section.replace('-', '_')}.json")
    assert f"<!-- {section} -->\n## {heading}\n\n{text}\n<!-- /{section} -->" in PAGE.read_text()
