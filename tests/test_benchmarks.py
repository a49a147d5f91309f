"""The helpers of the benchmarks, and what a benchmark says where it cannot run."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
PAGE = "# Page\n\n<!-- one -->\nfirst\n<!-- /one -->\n\n<!-- two -->\nsecond\n<!-- /two -->\nend\n"


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are scripts beside one another, no package."""
    monkeypatch.syspath_prepend(str(FOLDER))


def replaced(path: Path, name: str, text: str) -> str:
    importlib.import_module("page_section").replace_section(path, name, text)
    return path.read_text()


def test_only_the_named_section_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert replaced(page, "one", "new") == PAGE.replace("first", "new")


def test_a_missing_section_is_added_at_the_end(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert replaced(page, "three", "new") == f"{PAGE}\n<!-- three -->\nnew\n<!-- /three -->\n"


def test_a_missing_page_is_made(tmp_path):
    page = tmp_path / "docs" / "page.md"
    assert replaced(page, "one", "new") == "# Benchmarks\n\n<!-- one -->\nnew\n<!-- /one -->\n"


def test_a_section_without_an_end_is_an_error(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- one -->\nfirst\n")
    with pytest.raises(ValueError, match="expected <!-- /one --> after <!-- one -->, found none"):
        replaced(page, "one", "new")


def test_the_page_shows_the_measured_cost_of_a_step():
    step_cost = importlib.import_module("step_cost")
    text = step_cost.render(pd.read_parquet(FOLDER / "results" / "step_cost.parquet"))
    assert (FOLDER / "step_cost.md").read_text() == f"# Cost of a step\n\n{text}\n"
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text()
    assert f"<!-- step-cost -->\n## Cost of a step\n\n{text}\n<!-- /step-cost -->" in page


def test_step_cost_without_its_peers_says_how_to_get_them():
    if importlib.util.find_spec("torchjd") is not None:
        pytest.skip("the libraries to compare with are installed here")
    command = [sys.executable, FOLDER / "step_cost.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "not installed: torchjd" in done.stderr
    assert "uv run --group benchmarks python benchmarks/step_cost.py" in done.stderr
    assert "Traceback" not in done.stderr
