"""The helpers of the benchmarks, and what a benchmark says where it cannot run."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
PAGE = "# Page\n\n<!-- one -->\nfirst\n<!-- /one -->\n\n<!-- two -->\nsecond\n<!-- /two -->\nend\n"


def load(name: str) -> ModuleType:
    """Import a module of the benchmarks, which are no package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def replaced(path: Path, name: str, text: str) -> str:
    load("page_section").replace_section(path, name, text)
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
