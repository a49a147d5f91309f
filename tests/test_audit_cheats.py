"""Forty models that only look as if they had forgotten, and a control that did: who passes the audit."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_sweep import QUICKSTART
from torch import Tensor

from pareto_unlearn.analysis.audit import Company, ModelAudit, Rows, Standing, Verdict, audit_models
from pareto_unlearn.audit import audit_full, audit_quick
from pareto_unlearn.audit.relearning import OTHERS, PANEL
from pareto_unlearn.config import AuditPolicy, load_config
from pareto_unlearn.records import MODEL_FILE, Phase, Role, TrialRecord, TrialSpec, TrialState
from pareto_unlearn.trial import Hooks, Material, Trial, audit_subject, load_material, run_trial

pytestmark = pytest.mark.nightly

Weights = dict[str, Tensor]
Cheat = Callable[[Weights], None]


def shift(name: str, by: float) -> Cheat:
    def apply(weights: Weights) -> None:
        weights[name] += by

    return apply


def scale(names: tuple[str, ...], by: float) -> Cheat:
    def apply(weights: Weights) -> None:
        for name in names:
            weights[name] *= by

    return apply


def permute(name: str, seed: int) -> Cheat:
    def apply(weights: Weights) -> None:
        order = torch.randperm(len(weights[name]), generator=torch.Generator().manual_seed(seed))
        weights[name] = weights[name][order]

    return apply


def add_noise(prefix: str, share: float, seed: int) -> Cheat:
    def apply(weights: Weights) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name in [name for name in weights if name.startswith(prefix)]:
            one = weights[name]
            weights[name] = one + share * one.square().mean().sqrt() * torch.randn(
                one.shape, generator=generator
            )

    return apply


def stretch(by: float) -> Cheat:
    """Scale the values of attention against its projection: no output changes, but Adam's steps do."""

    def apply(weights: Weights) -> None:
        for name in weights:
            if name.endswith(("qkv.weight", "qkv.bias")):
                weights[name][2 * len(weights[name]) // 3 :] *= by
            if name.endswith("project.weight"):
                weights[name] /= by

    return apply


def both(first: Cheat, second: Cheat) -> Cheat:
    def apply(weights: Weights) -> None:
        first(weights)
        second(weights)

    return apply


PREDICT = ("predict.weight", "predict.bias")
CHEATS: dict[str, Cheat] = {
    "the original under another name": lambda _: None,
    **{f"last bias {by:+g}": shift("predict.bias", by) for by in (-10.0, -3.0, -1.0, 1.0, 3.0, 10.0)},
    **{f"last layer x {by:g}": scale(PREDICT, by) for by in (-3.0, -1.0, 0.1, 0.3, 3.0, 10.0)},
    **{f"last layer permuted {seed}": permute("predict.weight", seed) for seed in range(5)},
    **{f"noise on the last layer x {by:g}": add_noise("predict", by, 0) for by in (1.0, 2.0, 5.0)},
    **{f"noise on the mask token x {by:g}": add_noise("mask_token", by, 1) for by in (3.0, 10.0, 30.0)},
    **{f"noise on the decoder x {by:g}": add_noise("decoder", by, 2) for by in (0.1, 0.2, 0.3)},
    **{f"decoder norm x {by:g}": scale(("decoder_norm.weight",), by) for by in (-1.0, 0.1, 5.0)},
    **{f"stretched x {by:g}": stretch(by) for by in (1e-3, 1e-2, 1e2, 1e3)},
    **{
        f"bias {by:+g} and stretched x {factor:g}": both(shift("predict.bias", by), stretch(factor))
        for by in (-3.0, 3.0)
        for factor in (1e-2, 1e2, 1e3)
    },
}
CONTROL = TrialSpec(trial_id="0" * 16, phase=Phase.CONTROL, method="retrained", seed=0)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return load_material(load_config(QUICKSTART), tmp_path_factory.mktemp("cache"), "targets")


@pytest.fixture(scope="module")
def original(material: Material) -> Weights:
    return {name: tensor.clone() for name, tensor in material.model.state_dict().items()}


@pytest.fixture(scope="module")
def control(material: Material, original: Weights, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    del original  # of the model before it is trained
    from safetensors.torch import load

    config = load_config(QUICKSTART, ["evaluate.audit=off"])
    result = run_trial(Trial(config, CONTROL, material), Hooks(), "1")
    return load(result.files[MODEL_FILE])


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Fifty steps for every attack: enough to bring back what is there, and forty models in minutes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, attacks in (("PANEL", PANEL), ("OTHERS", OTHERS)):
            short = tuple(replace(attack, steps=min(attack.steps, 50)) for attack in attacks)
            patch.setattr(f"pareto_unlearn.audit.panel.{name}", short)
        yield


def audit(material: Material, weights: Weights, *, full: bool) -> Rows:
    material.model.load_state_dict(weights)
    subject = audit_subject(load_config(QUICKSTART), material)
    rows = [*audit_quick(subject), *(audit_full(subject, subject.model) if full else [])]
    return {(row.set, row.metric): row for row in rows}


@pytest.fixture(scope="module")
def company(material: Material, original: Weights, control: Weights) -> Company:
    return Company((audit(material, control, full=True),), audit(material, original, full=True))


def judge(rows: Rows, company: Company) -> ModelAudit:
    """Return the audit of a model that claims to be complete."""
    record = TrialRecord(
        trial_id="1" * 16, attempt=1, phase=Phase.BOUNDARY, role=Role.HIGHEST, method="epsilon_constraint",
        seed=0, start="original", state=TrialState.DONE, reason="", completeness=0.98,
    )  # fmt: skip
    (found,) = audit_models([record], {"1" * 16: rows}, AuditPolicy(), company)
    return found


def test_there_are_forty_cheats():
    assert len(CHEATS) == 40


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_rejected_because_its_images_come_back(material, original, company, name):
    weights = {key: tensor.clone() for key, tensor in original.items()}
    CHEATS[name](weights)
    found = judge(audit(material, weights, full=True), company)
    assert found.standing is not Standing.FORGOTTEN
    relearned = found.finding("relearning_gap").verdict, found.finding("other_attacks").verdict
    assert Verdict.FAILED in relearned, found.findings


def test_the_control_itself_passes(material, control, company):
    found = judge(audit(material, control, full=True), company)
    assert found.standing is Standing.FORGOTTEN, found.reason
