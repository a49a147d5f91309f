"""The helpers of the benchmarks, and what a benchmark says where it cannot run."""

import importlib
import importlib.util
import json
import math
import sys
from pathlib import Path

import pandas as pd
import pytest
from waiting import run_process

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


def test_step_cost_without_its_peers_says_how_to_get_them(monkeypatch):
    if importlib.util.find_spec("torchjd") is not None:
        pytest.skip("the libraries to compare with are installed here")
    monkeypatch.setattr(sys, "argv", ["step_cost.py"])
    with pytest.raises(SystemExit, match="not installed: torchjd") as raised:
        importlib.import_module("step_cost").main()
    assert "uv run --group benchmarks python benchmarks/step_cost.py" in str(raised.value)


@pytest.mark.parametrize("space", ["encoder", "output"])
@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_a_step_of_every_family_is_measured(family: str, space: str):
    rows = importlib.import_module("family_rows")
    case = rows.Case(
        family=family, variant="tiny", work="step", device="cpu", batch=1, space=space, repeats=2
    )
    found = rows.measure(case)
    assert found["finite"]
    assert found["trained_parameters"] > 0
    assert found["peak_bytes"] >= found["setup_peak_bytes"] > 0
    assert found["images_per_second"] == pytest.approx(2 / found["seconds"])


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_a_generation_of_every_family_is_measured(family: str):
    rows = importlib.import_module("family_rows")
    sampling = {"method": "ddim", "rounds": 2, "whole_rounds": 50} if family == "palette" else {}
    case = rows.Case(family=family, variant="tiny", work="generation", device="cpu", batch=2, **sampling)
    assert rows.measure(case)["finite"]


@pytest.mark.slow
def test_families_writes_rows_and_their_section(tmp_path):
    command = [
        sys.executable,
        FOLDER / "families.py",
        "--tiny",
        "--quick",
        "--device",
        "cpu",
        "--family",
        "palette",
    ]
    places = ["--work", "generation", "--results", tmp_path, "--page", tmp_path / "page.md"]
    done = run_process([*command, *places])
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "families_cpu.json").read_text())
    assert [(row["method"], row["finite"]) for row in rows] == [("ancestral", True), ("ddim", True)]
    assert "2000 steps: " in (tmp_path / "page.md").read_text()


def test_families_puts_a_row_in_place_of_that_of_its_case_alone(tmp_path):
    families, path = importlib.import_module("families"), tmp_path / "families_cpu.json"
    case = {
        "family": "mae",
        "variant": "tiny",
        "work": "step",
        "device": "cpu",
        "batch": 1,
        "warm_up": 0,
        "repeats": 1,
    }
    case |= {"space": "output", "precision": "float32", "channels_last": False, "recompute": False}
    case |= {"compile": False, "method": None, "rounds": None, "whole_rounds": None}
    for row in (case, case | {"space": "encoder"}, case | {"repeats": 3}):
        families.keep(path, row)
    found = json.loads(path.read_text())
    assert [(row["space"], row["repeats"]) for row in found] == [("encoder", 1), ("output", 3)]


def test_the_page_shows_the_measured_families():
    text = importlib.import_module("families").render(FOLDER / "results")
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text()
    assert f"<!-- families -->\n## Model families at full width\n\n{text}\n<!-- /families -->" in page


def test_the_page_shows_the_measured_convergence_rates():
    rates = importlib.import_module("convergence_rates")
    text = rates.render(json.loads((FOLDER / "results" / "convergence_rates.json").read_text()))
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text()
    assert f"<!-- convergence-rates -->\n{text}\n<!-- /convergence-rates -->" in page


@pytest.mark.parametrize("power", [0.25, 1.0])
def test_a_power_law_has_its_own_exponent(power):
    fit = importlib.import_module("convergence_rates").fit
    # Every other value is larger: the least so far is what decays.
    values = [3.0 * step**-power * (1 + step % 2) for step in range(1, 2001)]
    assert fit((1, 2, ""), "norm", 0.5, values).measured == pytest.approx(power, rel=0.02)


def test_a_fit_ends_where_hardly_anything_is_left():
    fit = importlib.import_module("convergence_rates").fit
    values = [max(1.0 - 0.005 * step, 0.0) for step in range(1000)]
    found = fit((2, 1, ""), "violation", 1.0, values)
    assert (found.first_step, found.last_step) == (50, 200)
    with pytest.raises(ValueError, match="expected three steps to fit"):
        fit((2, 1, ""), "violation", 1.0, [1.0] + [0.0] * 999)


def test_convergence_of_the_digits_is_solved_and_fitted():
    rates = importlib.import_module("convergence_rates")
    rows = rates.solve(2, 3, 12, 0.005)
    assert [row.step for row in rows] == list(range(12))
    assert rows[-1].f1 < rows[0].f1
    assert rates.direction_norm(rows[0]) > 0.0


def test_a_header_is_taken_apart_into_prose_and_commands():
    module = importlib.import_module("ablations")
    header = module.read_header(
        "# Why,\n# in words:\n#\n#   for x in 1 2; do\n#     pareto-unlearn sweep a.yaml -o x=$x\n#   done\n"
        "#   pareto-unlearn compare runs/1 runs/2\nname: a\n# no header\n"
    )
    assert header.prose == "Why, in words:"
    assert header.solve == "for x in 1 2; do\n  pareto-unlearn sweep a.yaml -o x=$x\ndone"
    assert header.read == ("pareto-unlearn compare runs/1 runs/2",)


def test_every_file_of_the_ablations_page_solves_and_reads():
    module = importlib.import_module("ablations")
    for file in module.FILES:
        header = module.read_header(file.read_text())
        assert "pareto-unlearn sweep sweeps/" in header.solve
        assert header.read
        assert "pareto-unlearn" not in header.prose.replace("`pareto-unlearn", "")


def test_losses_on_held_out_images_are_read_at_the_e_of_training_images():
    scores = importlib.import_module("front_scores")
    common = {"problem": "p", "method": "m", "budget": 9, "seed": 0, "factor": 1.0, "rate": 0.1}
    common |= {"pairs": 9, "measuring": 1.0, "seconds": 1.0}
    rows = [
        common | {"split": split, "e": e, "fvu": fvu, "target": target}
        for split, models in {
            "train": ((0.04, 0.10, math.nan), (0.30, 0.02, 0.35)),
            "heldout": ((0.20, 0.30, math.nan), (0.45, 0.06, 0.35)),
        }.items()
        for e, fvu, target in models
    ]
    train, heldout = scores.score_runs(pd.DataFrame(rows)).to_dict("records")
    assert (train["loss_0.05"], train["loss_0.35"]) == (0.10, 0.02)
    assert (heldout["loss_0.05"], heldout["loss_0.35"]) == (0.30, 0.06)
    assert (train["hit_error"], heldout["hit_error"]) == pytest.approx((0.05, 0.10))


@pytest.mark.parametrize(("best", "tried"), [(1.0, 3), (4.0, 5), (0.0625, 5)])
def test_the_scan_of_every_method_goes_on_beyond_an_edge_twice(best, tried):
    seen = []

    def measure(factor: float) -> float:
        seen.append(factor)
        return -abs(math.log(factor / best))

    found = importlib.import_module("fronts").scan_factors(measure, plain=False)
    assert len(seen) == tried
    assert found == min(seen, key=lambda factor: abs(math.log(factor / best)))


def test_the_page_shows_the_measured_overhead_of_executors():
    overhead = importlib.import_module("overhead")
    rows = json.loads((FOLDER / "results" / "overhead.json").read_text())
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text()
    assert f"<!-- overhead -->\n{overhead.describe(rows).strip()}\n<!-- /overhead -->" in page
    assert {(row["way"], row["seconds"]) for row in rows} >= {
        (way, seconds) for way in ("tune", "pool") for seconds in overhead.TRIALS
    }


def test_a_slot_is_free_from_the_end_of_a_trial_to_the_begin_of_the_next():
    between = importlib.import_module("overhead").between
    times = [(0.0, 3.0), (1.0, 4.0), (3.5, 6.5), (5.0, 8.0)]
    trials = [{"begun": begun, "ended": ended} for begun, ended in times]
    assert between(trials, 2) == pytest.approx(0.75)
