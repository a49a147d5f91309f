"""The package holds nothing that tests alone can reach."""

from pathlib import Path

import pytest
from reachable_code import Code

REPOSITORY = Path(__file__).parents[1]

FOR_NOTEBOOKS = {
    "finished.notebook.Run.model_at": "what a notebook calls on the result of `load_run`",
}
"""What only users call, with the reason why it stays; whatever these definitions use stays with them."""


def test_everything_in_the_package_can_be_reached_without_tests():
    found = sorted(Code(REPOSITORY).unreachable(FOR_NOTEBOOKS))
    assert not found, (
        f"only tests use {', '.join(found)}: delete it, move it to tests/, or add it to FOR_NOTEBOOKS "
        "with a reason"
    )


def test_the_exceptions_are_needed():
    assert FOR_NOTEBOOKS.keys() <= Code(REPOSITORY).unreachable()


@pytest.fixture
def package(tmp_path) -> Path:
    """A package of two modules, one of which passes on what the other defines."""
    (tmp_path / "pareto_unlearn").mkdir()
    (tmp_path / "pareto_unlearn" / "__init__.py").write_text("from pareto_unlearn.work import run, Worker\n")
    (tmp_path / "pareto_unlearn" / "work.py").write_text(
        "LIMIT = 3\n"
        "SPARE = 4\n"
        "def run():\n    return helper(Worker().start())\n"
        "def helper(value):\n    return min(value, LIMIT)\n"
        "def forgotten():\n    return forgotten_too()\n"
        "def forgotten_too():\n    return SPARE\n"
        "class Worker:\n"
        "    def __len__(self):\n        return 0\n"
        "    def start(self):\n        return 1\n"
        "    def stop(self):\n        return 0\n"
    )
    return tmp_path


def test_what_nothing_public_leads_to_is_found(package):
    assert Code(package).unreachable() == {
        "work.SPARE",
        "work.Worker.stop",
        "work.forgotten",
        "work.forgotten_too",
    }


def test_an_exception_brings_what_it_uses(package):
    assert Code(package).unreachable({"work.forgotten"}) == {"work.Worker.stop"}


def test_scripts_beside_the_package_count(package):
    (package / "benchmarks").mkdir()
    (package / "benchmarks" / "speed.py").write_text(
        "from pareto_unlearn.work import SPARE, Worker\nWorker().stop()\nSPARE\n"
    )
    assert Code(package).unreachable() == {"work.forgotten", "work.forgotten_too"}


def test_a_package_may_import_a_module_of_its_own(package):
    (package / "pareto_unlearn" / "tools").mkdir()
    (package / "pareto_unlearn" / "tools" / "__init__.py").write_text(
        "from pareto_unlearn.tools import saw\ndef cut():\n    return saw.cut()\n"
    )
    (package / "pareto_unlearn" / "tools" / "saw.py").write_text("def cut():\n    return 1\n")
    assert "tools.cut" in Code(package).unreachable()
