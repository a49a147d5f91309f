"""A sweep, and the models of its run, from Python."""

import pytest
import torch
from small_sweep import QUICKSTART, SMALL, small_sweep, without_times

import pareto_unlearn
from pareto_unlearn.errors import ConfigError


@pytest.fixture(scope="module")
def run(copy_small_sweep, tmp_path_factory) -> "pareto_unlearn.finished.notebook.Run":
    storage = tmp_path_factory.mktemp("scripting") / "runs"
    copy_small_sweep(storage)
    overrides = [*SMALL, "run.executor=local", f"run.storage={storage}"]
    return pareto_unlearn.run_sweep(QUICKSTART, overrides, quiet=True)


def test_a_second_call_continues_the_sweep_and_writes_the_report(run, small_storage):
    before = pareto_unlearn.load_run(small_storage / "quickstart")
    assert [without_times(one) for one in run.records] == [without_times(one) for one in before.records]
    assert "epsilon" in run.store.read_text("report.html")


def test_overrides_beside_a_resolved_sweep_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"overrides with a sweep file only, found \['solver.steps=3'\]"):
        pareto_unlearn.run_sweep(small_sweep(tmp_path), ["solver.steps=3"])


def test_a_model_is_that_of_the_trial_that_is_named(run):
    model, record = run.model("highest")
    again, same = run.model(record.trial_id[:8], seed=0)
    assert (record.role, same) == ("highest", record)
    assert not model.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    original, _ = run.model("original")
    assert any(
        not torch.equal(value, original.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_a_name_that_no_trial_has_is_told_the_names(run):
    with pytest.raises(ConfigError, match=r"found 'hardened'; this run has .*highest"):
        run.model("hardened")
