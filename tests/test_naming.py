"""Names of trials: what tables print is what --trial takes, and what fits several says which."""

import dataclasses
import io
import re

import pytest
from rich.console import Console
from synthetic_run import SWEEP_FILE, planned_trials, synthetic_info, synthetic_result, write_run

from pareto_unlearn.analysis.naming import export_command, find_trial, short_id
from pareto_unlearn.analysis.picking import Criteria
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.finished.pick import pick_run
from pareto_unlearn.finished.shipping import Wanted, ship
from pareto_unlearn.records import HAS_MODEL, TrialRecord
from pareto_unlearn.report.gather import gather
from pareto_unlearn.store import open_run
from pareto_unlearn.sweep.summary import closing_table, print_table

ONE_SEED = [synthetic_result(plan).record for plan in planned_trials()]
TWO_SEEDS = [synthetic_result(plan).record for seed in (0, 1) for plan in planned_trials(seed)]


def labelled(label: str, seed: int = 0) -> TrialRecord:
    (found,) = (one for one in TWO_SEEDS if one.label == label and one.seed == seed)
    return found


@pytest.mark.parametrize(
    "name", ["highest", "Highest", "epsilon 14.0%", "epsilon 14.0 %", "composite 0.3", " epsilon  14.0% "]
)
def test_a_trial_is_found_by_its_label(name):
    found = find_trial(ONE_SEED, name)
    assert "".join(found.label.split()) == "".join(name.split()).lower()


def test_every_model_is_found_by_its_id_and_by_the_digits_that_tables_show():
    for record in ONE_SEED:
        if record.state in HAS_MODEL:
            assert find_trial(ONE_SEED, record.trial_id) is record
            assert find_trial(ONE_SEED, short_id(record.trial_id).upper()) is record


def test_a_label_of_several_seeds_says_which_ids_and_seeds_fit():
    with pytest.raises(ConfigError) as caught:
        find_trial(TWO_SEEDS, "highest")
    text = str(caught.value)
    for seed in (0, 1):
        assert f"highest ({short_id(labelled('highest', seed).trial_id)}, seed {seed})" in text
    assert "--seed 0" in text


def test_a_seed_chooses_between_trials_of_one_name():
    assert find_trial(TWO_SEEDS, "highest", 1) is labelled("highest", 1)


def test_the_label_of_a_report_with_several_seeds_is_a_name():
    assert find_trial(TWO_SEEDS, "highest · seed 1") is labelled("highest", 1)


def test_a_seed_that_has_no_such_trial_is_told_the_others():
    with pytest.raises(ConfigError, match="of one of the seeds 0, 1, found --seed 7"):
        find_trial(TWO_SEEDS, "highest", 7)


def test_digits_that_several_ids_start_with_ask_for_more():
    twins = [dataclasses.replace(ONE_SEED[1], trial_id=f"abcdabcd{end}") for end in ("01", "02")]
    with pytest.raises(ConfigError, match="give more of the id"):
        find_trial(twins, "abcd")


@pytest.mark.parametrize("name", ["", "hihgest", "zzzz", "seed 1"])
def test_an_unknown_name_says_what_was_expected_and_what_there_is(name):
    with pytest.raises(ConfigError, match=r"expected a label or role.*this run has .*\(\w{8}\).*`ls`"):
        find_trial(ONE_SEED, name)


def test_a_misspelt_name_is_told_the_nearest_first():
    with pytest.raises(ConfigError, match=r"this run has highest \("):
        find_trial(ONE_SEED, "hihgest")


def test_a_trial_without_a_model_says_why():
    with pytest.raises(ConfigError, match=r"noisy_label .*FAILED, OutOfMemoryError"):
        find_trial(ONE_SEED, "noisy_label")


def test_the_export_command_of_a_smoke_run_names_a_file_that_export_accepts():
    assert "SMOKE-" in export_command("runs/x", ONE_SEED[0], smoke=True)


def test_the_export_command_quotes_what_a_shell_would_read():
    assert "'runs/my run; rm'" in export_command("runs/my run; rm", ONE_SEED[0])


@pytest.mark.parametrize(
    ("family", "end", "depth", "start"),
    [("digits_mae", "", None, ""), ("nets/own.py:FAMILY", " --allow-import", "1", "uv run ")],
)
def test_lines_to_copy_start_as_this_process_did_and_allow_a_family_that_is_a_file(
    tmp_path, monkeypatch, family, end, depth, start
):
    if depth is not None:
        monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", depth)
    sheet = SWEEP_FILE.replace("family: digits_mae", f"family: {family}")
    path = write_run(str(tmp_path), [synthetic_result(plan) for plan in planned_trials()], sweep_file=sheet)
    picked = pick_run(path, Criteria())
    line = picked.lines()[-1]
    record = picked.pick.record
    assert line == (
        f"{start}pareto-unlearn export {path} digits-{short_id(record.trial_id)}.safetensors --trial "
        f"{record.trial_id}{end}"
    )
    page = {one.trial_id: one.export for one in gather(open_run(path)).solutions}
    assert page[record.trial_id].startswith(f"{start}pareto-unlearn export runs/digits ")
    assert page[record.trial_id].endswith(f"--trial {record.trial_id}{end}")


def test_a_message_names_the_sweep_file_with_its_folder(tmp_path):
    path = write_run(str(tmp_path), [synthetic_result(planned_trials()[0])], sweep_file="model: 3\n")
    with pytest.raises(ConfigError, match=re.escape(f"{path}/sweep.yaml:1: model: ")):
        ship(path, tmp_path / "x.safetensors", Wanted(trial="original"))


def test_several_seeds_have_a_column_in_the_table_and_one_has_none(tmp_path):
    one = open_run(write_run(str(tmp_path / "one")))
    results = [synthetic_result(plan) for seed in (0, 1) for plan in planned_trials(seed)]
    two = open_run(write_run(str(tmp_path / "two"), results, synthetic_info()))
    assert "seed" not in [column.header for column in closing_table(one).columns]
    assert "seed" in [column.header for column in closing_table(two).columns]


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_of_a_table_is_lost_in_a_narrow_console(tmp_path, terminal):
    run = open_run(write_run(str(tmp_path)))
    heard = io.StringIO()
    console = Console(file=heard, width=60, force_terminal=terminal, color_system=None)
    print_table(closing_table(run), console)
    assert "\u2026" not in heard.getvalue()
    assert ("held out" in heard.getvalue()) is not terminal  # two lines in a terminal, one in a pipe
    widest = max(len(line) for line in heard.getvalue().splitlines())
    assert widest <= 60 if terminal else widest > 60
    assert console.width == 60
