"""The audit of models on the embedded digits: attacks, verdicts and the verb."""

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_sweep import QUICKSTART, run, run_of, small_sweep
from torch import nn
from typer.testing import CliRunner

from pareto_unlearn.analysis.audit import (
    Company,
    ModelAudit,
    Rows,
    Standing,
    Verdict,
    audit_models,
    find_company,
    relearning_gap,
)
from pareto_unlearn.analysis.klom import find_klom
from pareto_unlearn.audit import Subject, audit_full, audit_quick
from pareto_unlearn.audit.closeness import distance_to_controls
from pareto_unlearn.audit.holes import errors_in_other_holes
from pareto_unlearn.audit.relearning import OTHERS, PANEL, QUICK, Attack, can_run, lowest, relearn
from pareto_unlearn.audit.subject import errors_in_hole
from pareto_unlearn.catalogue.audits import (
    AUDIT,
    BYSTANDERS,
    EVALUATIONS,
    GAP_ATTACKS,
    OTHER_ATTACKS,
    OTHER_HOLES,
    QUICK_ATTACKS,
    RHO,
    error_of_image,
    lowest_error,
)
from pareto_unlearn.cli import app
from pareto_unlearn.config import AuditPolicy, SweepConfig, dump_policy, load_config, load_policy
from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.records import MetricRow, Phase, Role, TrialRecord, TrialState
from pareto_unlearn.report.audit_text import write_audit
from pareto_unlearn.trial import Material, audit_subject, load_material

runner = CliRunner()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    config = small_sweep(tmp_path_factory.mktemp("unused"))
    return load_material(config, tmp_path_factory.mktemp("cache"), "targets")


@pytest.fixture
def subject(material: Material) -> Subject:
    own = replace(material, model=copy.deepcopy(material.model))
    return audit_subject(load_config(QUICKSTART), own)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


# attacks


def test_the_attacks_of_the_gap_are_those_of_the_catalogue():
    assert tuple(attack.name for attack in PANEL) == GAP_ATTACKS
    assert tuple(attack.name for attack in OTHERS) == OTHER_ATTACKS
    assert [attack.name for attack in QUICK] == list(QUICK_ATTACKS)


SHORT = [replace(attack, steps=2) for attack in (*QUICK, *PANEL[3:4], *OTHERS)]


@pytest.mark.parametrize("attack", SHORT, ids=lambda attack: attack.name)
def test_an_attack_leaves_the_model_as_it_is_and_gives_the_same_figures_again(subject, attack):
    if not can_run(subject, attack):
        assert attack.images > 40 or attack.strangers
        return
    before = weights(subject.model)
    first, second = relearn(subject, attack), relearn(subject, attack)
    assert all(map(torch.equal, before, weights(subject.model)))
    assert [mark.step for mark in first] == [0, 1, 2]
    assert all((one.errors == other.errors).all() for one, other in zip(first, second, strict=True))
    assert not (first[0].errors == first[2].errors).all()


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_attack_on_a_part_trains_nothing_else(subject, part, monkeypatch):
    trained: list[nn.Module] = []

    def keep(model: nn.Module) -> nn.Module:
        trained.append(copy.deepcopy(model))
        return trained[-1]

    monkeypatch.setattr("pareto_unlearn.audit.relearning.copy", SimpleNamespace(deepcopy=keep))
    relearn(subject, Attack(name="x", images=10, steps=2, part=part))
    pairs = zip(subject.model.named_parameters(), trained[0].parameters(), strict=True)
    moved = {name for (name, own), other in pairs if not torch.equal(own, other)}
    encoder = set(subject.encoder)
    assert moved
    assert moved <= encoder if part == "encoder" else not moved & encoder


def test_training_on_forget_images_brings_them_back(subject):
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.mul_(0.8)
    marks = relearn(subject, replace(PANEL[0], steps=50))
    assert lowest(marks).errors.mean() < 0.5 * marks[0].errors.mean()
    assert lowest(marks).step > 0


def test_step_zero_is_the_error_of_the_model_as_it_is(subject):
    (mark, *_) = relearn(subject, QUICK[0])
    assert (mark.errors == errors_in_hole(subject.model, subject.photos["forget", "heldout"])).all()


@pytest.fixture
def short_attacks(monkeypatch):
    """Two steps for every attack: what it finds is not looked at."""
    for name, attacks in (("PANEL", PANEL), ("OTHERS", OTHERS)):
        short = tuple(replace(attack, steps=2) for attack in attacks)
        monkeypatch.setattr(f"pareto_unlearn.audit.panel.{name}", short)


@pytest.mark.usefixtures("short_attacks")
def test_a_full_audit_has_a_row_for_all_that_can_be_measured(subject):
    rows = audit_full(subject, subject.model)
    found = {row.metric for row in rows}
    measured = {lowest_error(attack.name) for attack in (*PANEL, *OTHERS) if can_run(subject, attack)}
    assert measured <= found
    assert {"class_probe", "ridge_decoder", "swapped_decoder"} <= found
    assert {row.protocol for row in rows} == {AUDIT}
    swapped = next(row for row in rows if row.metric == "swapped_decoder")
    own = errors_in_hole(subject.model, subject.photos["forget", "heldout"]).mean()
    assert swapped.value == pytest.approx(own)  # its own decoder is the original's here


# verdicts


def row(metric: str, value: float, image_set: str = "forget") -> MetricRow:
    return MetricRow(
        set=image_set, split="heldout", metric=metric, protocol=AUDIT, value=value, n=100,
        low=value - 0.01, high=value + 0.01,
    )  # fmt: skip


def rows_of(**values: float) -> Rows:
    """Return the audit rows of a model that passes everything, with some figures replaced."""
    figures = {
        **{lowest_error(attack): 0.5 for attack in (*GAP_ATTACKS, *OTHER_ATTACKS, *QUICK_ATTACKS)},
        "error_in_hole": 0.9, "membership": 0.5, "give_away_strangers": 0.5, "give_away_retain": 0.5,
        "retrieval": 0.5, "class_probe": 0.9, "ridge_decoder": 0.3, "swapped_decoder": 0.6, RHO: 0.4,
        **{error_of_image(f"image-{number}"): 0.8 + number / 1000 for number in range(200)},
    } | values  # fmt: skip
    found = {("forget", name): row(name, value) for name, value in figures.items()}
    return found | {("retain", "membership"): row("membership", values.get("retain", 0.8), "retain")}


def images(error: float, count: int = 200) -> dict[str, float]:
    """Return the errors of the first images."""
    return {error_of_image(f"image-{number}"): error for number in range(count)}


UNMEASURED = {"klom", "give_away_bystanders", "bystanders"}
"""What a run of one seed without further classes lacks."""
ORIGINAL = rows_of(error_in_hole=0.1, **images(0.1))
COMPANY = Company((rows_of(),), ORIGINAL)


def record(completeness: float = 0.98) -> TrialRecord:
    return TrialRecord(
        trial_id="1" * 16, attempt=1, phase=Phase.BOUNDARY, role=Role.HIGHEST, method="epsilon_constraint",
        seed=0, start="original", state=TrialState.DONE, reason="", completeness=completeness,
    )  # fmt: skip


def judge(rows: Rows, company: Company = COMPANY, completeness: float = 0.98) -> ModelAudit:
    (found,) = audit_models([record(completeness)], {"1" * 16: rows}, AuditPolicy(), company)
    return found


def test_a_model_like_the_control_is_forgotten():
    found = judge(rows_of())
    verdicts = {one.evaluation: one.verdict for one in found.findings}
    for key in UNMEASURED:
        assert verdicts.pop(key) is Verdict.NOT_MEASURED
    assert (found.standing, set(verdicts.values())) == (Standing.FORGOTTEN, {Verdict.PASSED})
    assert [one.evaluation for one in found.findings] == list(EVALUATIONS)


@pytest.mark.parametrize(
    ("evaluation", "figures"),
    [
        ("relearning_gap", {lowest_error(GAP_ATTACKS[4]): 0.2}),
        ("other_attacks", {lowest_error(OTHER_ATTACKS[6]): 0.2}),
        ("membership", {"membership": 0.7}),
        ("membership", {"membership": 0.3}),
        ("give_away_strangers", {"give_away_strangers": 0.1}),
        ("retrieval", {"retrieval": 0.9}),
        ("worst_images", images(0.12, 11)),
        ("features", {"class_probe": 1.2}),
        ("features", {"ridge_decoder": 0.1}),
    ],
)
def test_each_failure_alone_keeps_a_model_from_being_forgotten(evaluation, figures):
    found = judge(rows_of(**figures))
    failed = {one.evaluation for one in found.findings if one.verdict is not Verdict.PASSED} - UNMEASURED
    assert failed == {evaluation}
    assert found.finding(evaluation).verdict is Verdict.FAILED
    assert found.standing is Standing.SUPPRESSED
    assert EVALUATIONS[evaluation].title in found.reason


def test_leaks_of_the_retain_set_and_of_classes_are_said_but_do_not_decide():
    found = judge(rows_of(give_away_retain=0.99, retain=0.95, **{RHO: 1.2}))
    assert found.finding("give_away_retain").verdict is Verdict.FAILED
    assert found.finding("closeness").verdict is Verdict.FAILED
    assert found.finding("membership_retain").verdict is Verdict.FAILED
    assert found.standing is Standing.FORGOTTEN


def test_an_incomplete_model_is_shown_whatever_else_it_passed():
    assert judge(rows_of(), completeness=0.5).standing is Standing.SHOWN


def test_images_kept_are_counted_with_a_bound_and_the_nearest_is_named():
    found = judge(rows_of(**images(0.12, 2) | {error_of_image("image-1"): 0.11})).finding("worst_images")
    assert found.value == 0.01
    # Clopper and Pearson's upper end for 2 of 200, from their table's formula by beta quantiles
    assert "2 of 200, at most 3.6%" in found.detail
    assert "image-1: 0.1100, control 0.8010, original 0.1000" in found.detail


def test_images_that_the_original_never_filled_well_are_left_out():
    company = Company((rows_of(),), rows_of(error_in_hole=0.1, **images(0.79, 150)))
    found = judge(rows_of(**images(0.79, 150)), company).finding("worst_images")
    assert found.verdict is Verdict.NO_BASELINE
    few = dict.fromkeys(list(images(0.0))[150:], 0.1)
    company = Company((rows_of(),), rows_of(error_in_hole=0.1, **images(0.79, 150), **few))
    assert "0 of 50" in judge(rows_of(**images(0.79, 150)), company).finding("worst_images").detail


def test_klom_is_the_divergence_of_normal_margins_beside_that_of_changed_sides():
    # two images, three models on either side; margins by hand, errors are their exponentials
    own, retrained = [0.0, 1.0, 2.0], [3.0, 4.0, 8.0]
    sides = [[{"a": math.exp(one), "b": math.exp(-one)} for one in side] for side in (own, retrained)]
    found = find_klom(*sides)
    assert found.nats == pytest.approx(0.5 * (math.log(1.0 / 7.0) + (7.0 + 16.0) / 1.0 - 1.0))
    assert (found.models, found.images) == ((3, 3), 2)
    assert found.share == 0.05  # one of 20 ways; its mirror has 0.5 * (log 7 + 17 / 7 - 1), less
    assert 0.0 < found.alike < found.nats
    assert find_klom(sides[0][:2], sides[1]) is None


def test_klom_is_judged_over_the_seeds_of_one_name():
    def seed_rows(factor: float, seed: int) -> Rows:
        spread = np.random.default_rng(seed).normal(0.0, 0.1, 200)
        return rows_of(**{error_of_image(f"image-{n}"): factor * math.exp(spread[n]) for n in range(200)})

    rows = {f"{seed}" * 16: seed_rows(0.8, seed) for seed in range(5)}
    records = [replace(record(), trial_id=trial_id, seed=seed) for seed, trial_id in enumerate(rows)]
    controls = tuple(seed_rows(0.8, 10 + seed) for seed in range(5))
    company = replace(find_company(records, rows), controls=controls, original=ORIGINAL)
    alike = audit_models(records, rows, AuditPolicy(), company)
    assert {one.finding("klom").verdict for one in alike} == {Verdict.PASSED}
    far = replace(company, controls=tuple(seed_rows(1.6, 10 + seed) for seed in range(5)))
    apart = audit_models(records[:1], rows, AuditPolicy(), far)[0].finding("klom")
    assert apart.verdict is Verdict.FAILED
    assert "5 models and 5 controls, 200 images" in apart.detail


def test_harm_to_bystanders_is_beside_the_original_and_does_not_decide():
    def with_bystanders(error: float, told: float) -> Rows:
        found = rows_of(give_away_bystanders=told)
        return found | {("bystanders", "error_in_hole"): row("error_in_hole", error, "bystanders")}

    before = {("bystanders", "error_in_hole"): row("error_in_hole", 0.2, "bystanders")}
    company = Company((with_bystanders(0.3, 0.6),), ORIGINAL | before)
    found = judge(with_bystanders(0.5, 0.95), company)
    assert found.finding("bystanders").value == pytest.approx(1.5)
    assert found.finding("bystanders").verdict is Verdict.FAILED
    assert found.finding("give_away_bystanders").value == pytest.approx(0.35)
    assert found.standing is Standing.FORGOTTEN


def test_classes_that_are_neither_forgotten_nor_kept_are_bystanders(tmp_path):
    config = small_sweep(tmp_path, "data.forget_classes=[0,1]", "data.retain_classes=[2,3,4]")
    subject = audit_subject(config, load_material(config, tmp_path, "targets"))
    others = subject.photos[BYSTANDERS]
    assert set(others.class_ids.tolist()) == set(range(5))
    assert len(others) == 5 * config.data.heldout_per_class
    found = {(row.set, row.metric): row for row in audit_quick(subject)}
    own = errors_in_hole(subject.model, others)
    assert found["bystanders", "error_in_hole"].value == pytest.approx(own.mean())
    assert ("forget", "give_away_bystanders") in found


def test_the_distance_to_a_control_is_none_for_itself_and_one_for_the_original(subject):
    control = copy.deepcopy(subject.model)
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.mul_(0.9)
    original = copy.deepcopy(subject.model)
    assert distance_to_controls(subject, original, [control]).value == pytest.approx(1.0)
    assert distance_to_controls(replace(subject, model=control), original, [control]).value == 0.0
    both = distance_to_controls(replace(subject, model=control), original, [control, control])
    assert both.value == 0.0


def test_the_gap_is_one_at_the_original_and_zero_at_the_control():
    own = rows_of(**{lowest_error(attack): 0.1 for attack in GAP_ATTACKS})
    assert relearning_gap(own, COMPANY, GAP_ATTACKS, 0.5) == pytest.approx(1.0)
    assert relearning_gap(rows_of(), COMPANY, GAP_ATTACKS, 0.5) == 0.0
    better = rows_of(**{lowest_error(attack): 0.8 for attack in GAP_ATTACKS})
    assert relearning_gap(better, COMPANY, GAP_ATTACKS, 0.5) == 0.0


def test_without_a_control_nothing_is_forgotten():
    found = judge(rows_of(), Company((), ORIGINAL))
    verdicts = {one.evaluation: one.verdict for one in found.findings}
    compared = (
        "relearning_gap",
        "other_attacks",
        "give_away_retain",
        "retrieval",
        "worst_images",
        "features",
    )
    assert {verdicts[key] for key in compared} == {Verdict.NO_CONTROL}
    assert verdicts["membership"] is Verdict.PASSED
    assert found.standing is Standing.SUPPRESSED


def test_an_original_that_never_knew_the_images_is_no_baseline():
    found = judge(rows_of(), Company((rows_of(),), rows_of(error_in_hole=0.49)))
    assert found.finding("relearning_gap").verdict is Verdict.NO_BASELINE


def test_an_attack_that_brings_all_back_in_the_control_too_is_left_out():
    figures = {lowest_error(OTHER_ATTACKS[2]): 0.12}
    company = Company((rows_of(**figures),), ORIGINAL)
    found = judge(rows_of(**{lowest_error(OTHER_ATTACKS[2]): 0.05}), company).finding("other_attacks")
    assert found.value == 0.0


def test_another_hole_is_judged_beside_the_original_with_that_hole():
    asked = lowest_error(OTHER_HOLES[5])
    company = Company((rows_of(**{asked: 0.9}),), rows_of(error_in_hole=0.1, **{asked: 0.4}))
    found = judge(rows_of(**{asked: 0.7}), company).finding("other_attacks")
    assert found.value == pytest.approx(0.4)  # (.9 - .7) / (.9 - .4)
    assert OTHER_HOLES[5] in found.detail
    company = Company((rows_of(**{asked: 0.9}),), rows_of(error_in_hole=0.1, **{asked: 0.8}))
    assert OTHER_HOLES[5] not in judge(rows_of(**{asked: 0.7}), company).finding("other_attacks").detail


def test_other_holes_have_the_weights_of_the_model_and_are_not_its_own(subject):
    asked = dict(subject.other_holes())
    assert set(asked) <= set(OTHER_HOLES)
    assert len(asked) >= 8  # a grid of 4 has no middle quarter
    masks = [subject.hole, *(model.removed_pixels() for model in asked.values())]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == len(masks)
    for model in asked.values():
        assert all(map(torch.equal, weights(model), weights(subject.model)))
    found = dict(errors_in_other_holes(subject))
    photos, name = subject.photos["forget", "heldout"], OTHER_HOLES[5]
    left = photos.pictures(asked[name])[:, :, :, :8] - photos.pixels[:, :, :, :8]
    assert found[name] == pytest.approx(left.square().mean(dim=(1, 2, 3)).numpy(), rel=1e-5)


def test_only_the_short_attack_says_so():
    quick = {key: one for key, one in rows_of().items() if not key[1].startswith("lowest error")}
    quick |= {("forget", lowest_error(one)): row(lowest_error(one), 0.2) for one in QUICK_ATTACKS}
    found = judge(quick)
    assert "short attacks" in found.finding("relearning_gap").detail
    assert found.finding("other_attacks").verdict is Verdict.NOT_MEASURED
    assert found.standing is Standing.SUPPRESSED


def test_a_control_that_was_not_put_to_all_attacks_leaves_the_short_ones():
    quick = {key: one for key, one in rows_of().items() if not key[1].startswith("lowest error")}
    quick |= {("forget", lowest_error(one)): row(lowest_error(one), 0.5) for one in QUICK_ATTACKS}
    found = judge(rows_of(), Company((rows_of(), quick), ORIGINAL)).finding("relearning_gap")
    assert "short attacks" in found.detail
    assert found.verdict is Verdict.PASSED


# the policy


def test_a_policy_file_replaces_thresholds_one_by_one(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("relearning_gap: {passed: 0.5, warned: 0.8}\n")
    policy = load_policy(path)
    assert (policy.relearning_gap.passed, policy.membership) == (0.5, AuditPolicy().membership)
    path.write_text(dump_policy(policy))
    assert load_policy(path) == policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gap: 1", "unknown key"),
        ("suppressed: 2", "suppressed"),
        ("membership: {passed: -1, warned: 1}", "-1"),
    ],
)
def test_a_policy_file_with_an_error_names_file_and_key(tmp_path, text, words):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"policy\.yaml") as caught:
        load_policy(path)
    assert words in str(caught.value)


# the verb


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    config = small_sweep(
        tmp_path_factory.mktemp("finished"),
        "controls=[{method: retrained, steps: 60}]",
        "epsilon.points=1",
        "evaluate.audit=quick",
    )
    assert run(config) == 0
    return config


def path_of(config: SweepConfig) -> str:
    return str(Path(config.run.storage) / config.name)


def test_a_sweep_audits_every_model_quickly(finished):
    stored = run_of(finished)
    rows = stored.audit_rows()
    assert set(rows) == {record.trial_id for record in stored.records}
    assert all(("forget", lowest_error(QUICK_ATTACKS[0])) in own for own in rows.values())
    found = audit_models(stored.records, rows, AuditPolicy(), find_company(stored.records, rows))
    assert {one.label for one in found} == {
        record.label for record in stored.records if record.method in ("epsilon_constraint", "composite")
    }


@pytest.mark.usefixtures("short_attacks")
def test_the_verb_adds_all_attacks_once_and_leaves_the_rest_of_the_run_as_it_is(finished):
    folder = Path(path_of(finished))
    before = {file: file.read_bytes() for file in folder.rglob("*.parquet")}
    result = runner.invoke(app, ["audit", str(folder), "--json", "--jobs", "1"])
    assert result.exit_code == 0, result.output
    (first, *_) = json.loads(result.stdout)
    assert {one["evaluation"] for one in first["findings"]} == set(EVALUATIONS)
    after = {file: file.read_bytes() for file in folder.rglob("*.parquet")}
    assert before.items() <= after.items()
    assert len(after) > len(before)
    again = runner.invoke(app, ["audit", str(folder)])
    assert again.exit_code == 0
    assert {file: file.read_bytes() for file in folder.rglob("*.parquet")} == after
    assert "relearning gap" in again.stdout
    assert 'id="audit"' in (folder / "report.html").read_text()


def test_the_verb_says_what_is_wrong(finished):
    path = path_of(finished)
    for arguments, words in (
        ([path, "--trial", "zz"], "expected a label or role"),
        ([path, "--trial", "1", "--all"], "either"),
        ([], "run directory"),
    ):
        result = runner.invoke(app, ["audit", *arguments])
        assert result.exit_code != 0
        assert words in result.output + str(result.exception)
    assert "suppressed: 0.9" in runner.invoke(app, ["audit", "--print-policy"]).stdout


def test_no_audited_model_is_said():
    assert "no unlearned model" in write_audit(())


def test_models_audited_side_by_side_get_the_rows_that_they_get_one_after_the_other(
    copy_small_sweep, tmp_path
):
    config = copy_small_sweep(tmp_path / "runs")
    found = []
    for jobs in ("1", "2"):
        folder = tmp_path / jobs
        shutil.copytree(path_of(config), folder)
        result = runner.invoke(app, ["audit", str(folder), "--quick", "--jobs", jobs])
        assert result.exit_code == 0, result.output
        found.append({file.name: file.read_bytes() for file in (folder / "metrics").glob("*.parquet")})
    assert found[0] == found[1]
    assert len(found[0]) > len(list(Path(path_of(config)).glob("metrics/*.parquet")))


def test_a_fault_of_one_model_ends_an_audit_of_several_at_once(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path / "runs")
    folder = Path(path_of(config))
    (next(iter((folder / "checkpoints").rglob("model.safetensors")))).write_bytes(b"")
    result = runner.invoke(app, ["audit", str(folder), "--quick", "--jobs", "2"])
    assert isinstance(result.exception, StoreError)


def test_ls_and_report_show_the_gap_of_each_audited_model(finished):
    path = path_of(finished)
    listed = runner.invoke(app, ["ls", path], env={"COLUMNS": "200"}).stdout
    assert "gap" in listed.splitlines()[0]
    run_found = run_of(finished)
    rows = run_found.audit_rows()
    audits = audit_models(run_found.records, rows, AuditPolicy(), find_company(run_found.records, rows))
    gap = next(one for one in audits if one.label == "highest").finding("relearning_gap").value
    (line,) = (line for line in listed.splitlines() if line.startswith("highest"))
    assert line.split()[-1] == ("100.0%" if gap is None else f"{gap:.2f}")
