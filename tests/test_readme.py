"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/quickstart in it."""
    folder = tmp_path_factory.mktemp("readme")
    copy_small_sweep(folder / "runs")
    return folder


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs(code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})


def test_solver_block_ends_where_it_says(capsys):
    (code,) = (block for block in blocks("python") if "EpsilonSolver" in block)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["x"].tolist() == pytest.approx([0.6464, 0.6464], abs=1e-3)


def test_sql_block_runs_in_duckdb(folder, monkeypatch):
    import duckdb

    monkeypatch.chdir(folder)
    (query,) = blocks("sql")
    assert len(duckdb.sql(query).fetchall()) >= 1


def test_both_commands_are_there():
    assert "python3 -m pip install uv && uv run pareto-unlearn sweep sweeps/quickstart.yaml" in README
    assert "python3 -m pip install uv && uv run pytest" in README
