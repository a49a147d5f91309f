"""What the README and the pages of docs/ show works as it stands there."""

import re
import runpy
import shutil
from pathlib import Path

import pytest
import typer.main
from command_line import call
from doc_commands import NOT_RUN, PAGES, ROOT, SMALL_QUALITY, Block, arguments_of, read_blocks
from small_sweep import SMALL

from pareto_unlearn.cli import app

README = (ROOT / "README.md").read_text()
BLOCKS = read_blocks()
MOST_WORDS = 900


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.name, code)
        for page in PAGES
        for code in re.findall(
            rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE
        )
    ]


@pytest.fixture(scope="module")
def finished(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a clone is after the first sweep: sweeps, examples, and runs/quickstart."""
    folder = tmp_path_factory.mktemp("readme")
    copy_small_sweep(folder / "runs")
    for name in ("sweeps", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    quickstart = folder / "sweeps" / "quickstart.yaml"
    quickstart.write_text(small_file(quickstart))
    return folder


def small_file(quickstart: Path) -> str:
    """Return the quickstart file with the keys of the small sweep, whose run is then a run of this file."""
    printed = call(
        "sweep",
        quickstart,
        "--print-config",
        *(word for key in SMALL for word in ("-o", key)),
        "-o",
        "run.executor=local",
    )
    return printed.stdout


@pytest.fixture
def clone(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a folder of the test's own, which is the working directory."""
    folder = tmp_path / "clone"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


def marks_of(block: Block) -> list[pytest.MarkDecorator]:
    """Return the marks of a block: audits of all models take half a minute, models that are built seconds."""
    if any("audit runs" in command for command in block.run):
        return [pytest.mark.nightly]
    is_slow = any(word in command for command in block.run for word in ("check-family", "--smoke"))
    return [pytest.mark.slow] if is_slow else []


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{block.page}: {block.run[0]}", marks=marks_of(block))
        for block in BLOCKS
        if block.run
    ],
)
def test_commands_of_a_block_run(block: Block, clone: Path):
    for command in block.run:
        command, _, target = command.partition(" > ")
        done = call(*arguments_of(command))
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if target:
            Path(target).write_text(done.stdout)


def test_every_command_of_the_pages_is_in_a_block():
    outside = [
        f"{page.name}: {line}"
        for page in PAGES
        if page.name != "reference_verbs.md"  # examples of --help, each of which another test parses
        for line in page.read_text().splitlines()
        if re.match(r"    (uv |pareto-unlearn |python3? |\$ |git )", line)
        and "--trial" not in line  # what `pick` prints
    ]
    assert outside == []


def test_commands_in_the_text_name_what_there_is():
    verbs = typer.main.get_command(app).commands
    wrong = []
    for page in PAGES:
        for code in re.findall(r"`((?:uv run )?(?:pareto-unlearn|python) [^`]+)`", page.read_text()):
            words = code.removeprefix("uv run ").split()
            if words[0] == "python":
                is_right = (ROOT / words[1]).exists()
            else:
                names = {name for one in getattr(verbs.get(words[1]), "params", ()) for name in one.opts}
                is_right = names >= {word for word in words[2:] if word.startswith("-")} and words[1] in verbs
            wrong += [] if is_right else [f"{page.name}: {code}"]
    assert wrong == []


def test_commands_that_are_not_run_are_still_shown():
    shown = {command for block in BLOCKS for command in block.commands}
    assert set(NOT_RUN) - shown == set()
    for reason in NOT_RUN.values():
        assert all((ROOT / name).exists() for name in re.findall(r"tests/\w+\.py", reason))


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_block_runs(page, code, clone):
    exec(compile(code.replace(*SMALL_QUALITY), page, "exec"), {})


def test_solver_block_ends_where_it_says():
    (code,) = (code for _, code in blocks("python") if "EpsilonSolver" in code)
    names: dict[str, object] = {}
    exec(compile(code, "python.md", "exec"), names)
    assert names["x"].tolist() == pytest.approx([0.6464, 0.6464], abs=1e-3)


def test_sql_block_runs_in_duckdb(clone):
    import duckdb

    ((_, query),) = blocks("sql")
    assert len(duckdb.sql(query).fetchall()) >= 1


def test_both_commands_are_there():
    assert "python3 -m pip install uv && uv run pareto-unlearn sweep sweeps/quickstart.yaml" in README
    assert "python3 -m pip install uv && uv run pytest" in README


def test_the_readme_is_short():
    assert len(README.split()) < MOST_WORDS


def test_links_within_the_repository_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            if "://" in path:
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors_of(file)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name})" not in index] == [
        "README.md"
    ]


@pytest.mark.parametrize("name", ["reference_sweep_keys.md", "reference_verbs.md"])
def test_reference_pages_are_up_to_date(name):
    make = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["PAGES"][name]
    assert (ROOT / "docs" / name).read_text() == make(), "remake it: uv run python docs/make_reference.py"
