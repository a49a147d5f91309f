"""Picking a model: all criteria hold, the best of what is left, the knee, the nearest where nothing fits."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from command_line import call
from synthetic_run import planned_trials, synthetic_info, synthetic_result, write_run

from pareto_unlearn import load_run
from pareto_unlearn.analysis.picking import Criteria, knee_distances, pick_model, recommend
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase, Role, TrialRecord, TrialState, ValidRange

BASE = synthetic_result(next(plan for plan in planned_trials() if plan.fraction == 0.14)).record
RANGES = [ValidRange(seed=0, lower=0.0, upper=1.0, upper_source="lowest")]


def model(name: str, complete: float, quality: float, **changes: object) -> TrialRecord:
    """A model as complete as told, that keeps so much held out; ``name`` is the start of its id."""
    told: dict[str, object] = {
        "trial_id": name.ljust(16, "0"),
        "completeness": complete,
        "completeness_worst_class": complete - 0.02,
        "retained_quality_heldout": quality,
        "retained_quality": quality + 0.01,
        "epsilon_fraction": 1.0 - complete,
    }
    return dataclasses.replace(BASE, **(told | changes))


FRONT = [
    model("a1", 0.99, 0.80),
    model("a2", 0.97, 0.94),
    model("a3", 0.95, 0.96),
    model("a4", 0.92, 0.97),
    model("a5", 0.50, 0.99),
    model("a6", 0.10, 1.00),
]


def picked(*records: TrialRecord, gaps: dict[str, float] | None = None, **criteria: object) -> str:
    return pick_model(records or FRONT, Criteria(**criteria), RANGES, gaps).record.trial_id[:2]  # type: ignore[arg-type]


# The knee


def test_the_knee_is_the_largest_distance_from_the_chord_worked_out_by_hand():
    front = [model("b1", 1.0, 0.0), model("b2", 0.8, 0.7), model("b3", 0.5, 0.8), model("b4", 0.0, 1.0)]
    found = knee_distances(front)
    # Scaled (e, loss): (0, 1), (.2, .3), (.5, .2), (1, 0); the chord is x + y = 1.
    expected = [0.0, 0.5, 0.3, 0.0]
    assert list(found.values()) == pytest.approx([value / math.sqrt(2) for value in expected])


def test_the_knee_is_the_same_in_any_unit_and_any_order():
    stretched = [
        dataclasses.replace(one, retained_quality_heldout=1 - (1 - one.retained_quality_heldout) / 7)
        for one in FRONT
    ]
    assert picked(*stretched) == picked() == picked(*reversed(FRONT))


def test_a_dominated_model_moves_nothing():
    assert picked(*FRONT, model("ff", 0.96, 0.5)) == picked()


def test_the_recommendation_hides_the_forget_images():
    # Over the whole front the knee would be a5, which still shows half of everything.
    assert picked() == "a2"
    whole = knee_distances(FRONT)
    assert picked(min_completeness=0.0, knee=True) == max(whole, key=lambda name: whole[name])[:2]


def test_a_front_that_hides_nothing_still_has_a_recommendation():
    assert picked(model("c1", 0.6, 0.7), model("c2", 0.4, 0.95), model("c3", 0.1, 1.0)) == "c2"


@pytest.mark.parametrize("amount", [1, 2])
def test_of_a_front_too_short_for_a_knee_the_most_complete_is_taken(amount):
    pick = pick_model(FRONT[:amount], Criteria(), RANGES)
    assert pick.record is FRONT[0]
    assert "knee of" not in pick.why


def test_equal_models_go_by_cost_then_by_id():
    twins = [model("d2", 0.95, 0.9, gradient_pairs=10), model("d1", 0.95, 0.9, gradient_pairs=10)]
    assert picked(*twins) == "d1"
    assert picked(*twins, model("d9", 0.95, 0.9, gradient_pairs=5)) == "d9"


# Criteria


def test_bounded_quality_gives_the_most_complete():
    assert picked(min_quality=0.95) == "a3"


def test_quality_is_held_out_unless_told():
    assert picked(min_quality=0.95, split="train") == "a2"  # .94 + .01 on training images


def test_bounded_completeness_gives_the_most_quality():
    assert picked(min_completeness=0.94) == "a3"
    assert picked(min_completeness=0.94, worst_class=True) == "a2"


def test_epsilon_bounds_from_above_and_its_own_label_is_enough():
    assert picked(epsilon=0.08) == "a4"
    assert picked(epsilon=0.0799999) == "a4"
    assert picked(epsilon=0.07) == "a3"


def test_a_boundary_has_the_epsilon_it_reached():
    end = model("e1", 0.98, 0.99, role=Role.HIGHEST, phase=Phase.BOUNDARY, epsilon_fraction=None, level=0.03)
    assert picked(*FRONT, end, epsilon=0.04) == "e1"
    assert picked(*FRONT, end, epsilon=0.02) == "a1"


def test_all_criteria_must_hold():
    assert picked(min_quality=0.95, min_completeness=0.93) == "a3"
    with pytest.raises(ConfigError, match=r"completeness of at least 96\.0% and held-out retained quality"):
        picked(min_quality=0.95, min_completeness=0.96)


def test_nothing_fits_names_the_nearest_with_its_values():
    with pytest.raises(
        ConfigError, match=r"found none among 6; the nearest is .*\(a2000000\): completeness 97.0%"
    ):
        picked(min_quality=0.95, min_completeness=0.965)


def test_the_gap_bounds_and_lets_resisting_models_in():
    hard = model("f1", 0.95, 0.93, phase=Phase.HARDENED)
    gaps = {one.trial_id: 0.5 for one in FRONT} | {hard.trial_id: 0.2}
    assert picked(*FRONT, hard, gaps=gaps, max_gap=0.3) == "f1"
    assert picked(*FRONT, hard, gaps=gaps) != "f1"


def test_a_gap_that_was_not_measured_does_not_hold():
    with pytest.raises(ConfigError, match="`audit` measures relearning gaps"):
        picked(max_gap=0.9)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": TrialState.INFEASIBLE},
        {"state": TrialState.UNCONVERGED},
        {"method": "composite"},
        {"phase": Phase.CHECK},
        {"retained_quality_heldout": None},
        {"retained_quality_heldout": math.nan},
        {"completeness": None},
    ],
)
def test_what_is_no_finished_model_of_the_front_is_never_picked(changes):
    better = dataclasses.replace(model("00", 0.999, 0.999), **changes)
    assert picked(*FRONT, better, min_quality=0.9) == "a2"
    assert recommend([better]) is None


def test_a_seed_restricts():
    assert picked(*FRONT, model("00", 0.999, 0.999, seed=3), min_quality=0.9) == "00"
    assert picked(*FRONT, model("00", 0.999, 0.999, seed=3), min_quality=0.9, seed=0) == "a2"
    with pytest.raises(ConfigError, match="of seed 9"):
        picked(seed=9)


def test_seeds_are_pooled_by_their_medians_and_no_lucky_seed_wins():
    lucky = {"a1": 0.995, "a2": 0.80, "a3": 0.96}  # held-out quality of the seed where a1 is good by chance
    steady = {"a1": 0.80, "a2": 0.96, "a3": 0.97}
    plain = {"a1": 0.82, "a2": 0.955, "a3": 0.965}
    rows = [
        model(
            f"{seed}{name}",
            one.completeness + 0.001 * seed,
            quality,
            seed=seed,
            epsilon_fraction=one.epsilon_fraction,
        )
        for seed, told in enumerate((lucky, steady, plain))
        for (name, quality), one in zip(told.items(), FRONT, strict=False)
    ]
    pick = pick_model(rows, Criteria(min_quality=0.95), RANGES)
    assert pick.record == next(one for one in rows if one.trial_id.startswith("2a2"))
    assert pick.why.endswith(
        "medians over 3 of 3 seeds (with their range): completeness 97.1% (97.0% to 97.2%), held-out quality "
        "95.5% (80.0% to 96.0%); this is seed 2, the nearest to them"
    )
    assert "seed" not in pick.why_not[0]
    assert picked(*rows, min_quality=0.95, seed=0) == "0a"
    assert picked(*rows, model("ff", 0.999, 0.999, seed=1), min_quality=0.95) == "2a"


@pytest.mark.parametrize(
    "criteria", [{"min_quality": 98.0}, {"epsilon": -0.1}, {"split": "test"}, {"worst_class": True}]
)
def test_impossible_criteria_are_refused(criteria):
    with pytest.raises(ConfigError, match="expected"):
        Criteria(**criteria)


# The reasons


def test_both_neighbours_are_told_why_not():
    pick = pick_model(FRONT, Criteria(min_quality=0.95), RANGES)
    more, less = pick.why_not
    assert "97.0% against 95.0%" in more
    assert "misses held-out retained quality of at least 95.0%" in more
    assert less.endswith("less complete")
    assert pick.why == "the most complete of 4 models with held-out retained quality of at least 95.0%"


def test_a_neighbour_that_shows_the_images_is_told_so():
    (one,) = (line for line in pick_model(FRONT[:3] + FRONT[4:], Criteria(), RANGES).why_not if "a3" in line)
    assert "nearer to the chord" in one
    assert "shows the forget images" in pick_model([FRONT[0], FRONT[4]], Criteria(), RANGES).why_not[0]


# The verb and the notebook


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    return Path(write_run(str(tmp_path), None, synthetic_info()))


def test_the_verb_names_the_model_and_the_command_and_records_the_choice(run_path):
    done = call("pick", run_path, "--min-quality", "0.98")
    assert done.returncode == 0, done.stderr
    note = json.loads((run_path / "pick.json").read_text())
    assert done.stdout.splitlines()[-1].endswith(f"--trial {note['trial_id']}")
    assert note["criteria"] == {"min_quality": 0.98, "split": "heldout"}
    assert {"date", "version", "why", "why_not", "label", "seed"} <= note.keys()
    page = (run_path / "report.html").read_text()
    assert done.stderr == f"report {run_path}/report.html\n"
    data = json.loads(page.split('id="report-data">')[1].split("</script>")[0])
    assert data["solutions"][data["start"]]["trial"] == note["trial_id"]
    assert 'title="picked">★' in page
    assert json.loads(call("pick", run_path, "--json").stdout)["criteria"] == {"split": "heldout"}


def test_python_picks_what_the_verb_picks_and_writes_nothing(run_path):
    pick = load_run(run_path).pick(min_quality=0.98)
    assert not (run_path / "pick.json").exists()
    assert json.loads(call("pick", run_path, "--min-quality", "0.98", "--json").stdout)["trial_id"] == (
        pick.record.trial_id
    )


def test_nothing_that_fits_ends_with_3_and_records_nothing(run_path):
    done = call("pick", run_path, "--min-completeness", "0.999", "--min-quality", "0.99")
    assert (done.returncode, "the nearest is" in done.stderr, done.stdout) == (3, True, "")
    assert not (run_path / "pick.json").exists()
