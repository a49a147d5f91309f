"""Card and evidence of an exported model: what they say, and that no changed bit of either file passes."""

import dataclasses
import hashlib
import json
import random
import re
import shlex
import shutil
import subprocess
import sys
from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from command_line import call
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from small_sweep import run, small_sweep

from pareto_unlearn.assets import verify_evidence
from pareto_unlearn.assets.verify_evidence import canonical, commit, read_statement, seal
from pareto_unlearn.finished.evidence import training_digests
from pareto_unlearn.finished.verifying import Outcome, verify
from pareto_unlearn.records import MetricRow
from pareto_unlearn.store import RunStore, open_run

FLIPS = 200


@pytest.fixture(scope="module")
def audited(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose models have some of an audit."""
    folder = tmp_path_factory.mktemp("runs")
    copy_small_sweep(folder)
    path = folder / "quickstart"
    store = RunStore.open(str(path))
    rows = [
        MetricRow(set="forget", split="heldout", metric=name, protocol="audit", value=value, n=40)
        for name, value in (
            ("retrieval", 0.1),
            ("error_in_hole", 0.05),
            ("error_in_hole of digits-0001", 0.04),
        )
    ]
    for record in store.records().values():
        store.add_metrics(record, "audit", "quick", rows)
    return path


@dataclasses.dataclass(frozen=True)
class Shipped:
    run: Path
    model: Path
    card: Path
    evidence: Path

    @property
    def statement(self) -> dict[str, Any]:
        return json.loads(self.evidence.read_text())


@pytest.fixture(scope="module")
def shipped(audited, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    out = tmp_path_factory.mktemp("out") / "model.safetensors"
    assert call("pick", audited).returncode == 0
    label = json.loads((audited / "pick.json").read_text())["label"]
    done = call("export", audited, out, "--trial", label, "--base-model", "someone/digits", "--cyclonedx")
    assert done.returncode == 0, done.stderr
    return Shipped(audited, out, out.with_name("model.card.md"), out.with_name("model.evidence.json"))


@pytest.fixture
def copy(shipped, tmp_path) -> Shipped:
    """The files of an export, to be changed."""
    for path in (shipped.model, shipped.card, shipped.evidence):
        shutil.copy(path, tmp_path)
    names = (path.name for path in (shipped.model, shipped.card, shipped.evidence))
    return Shipped(shipped.run, *(tmp_path / name for name in names))


def outcomes(shipped: Shipped, run_path: Path | None = None) -> dict[str, Outcome]:
    lines = verify(shipped.evidence, shipped.model, None if run_path is None else str(run_path))
    return {line.name: line.outcome for line in lines}


def resealed(statement: dict[str, Any]) -> bytes:
    """A changed statement as its forger would write it."""
    statement["predicate"]["seal"] = seal(statement)
    return canonical(statement)


# What the evidence says


def published_schema():
    return json.loads(files("pareto_unlearn.assets").joinpath("evidence.schema.json").read_text())


def test_the_evidence_keeps_the_published_schema(shipped):
    jsonschema.Draft202012Validator.check_schema(published_schema())
    jsonschema.validate(shipped.statement, published_schema())


def test_the_bill_of_materials_keeps_the_official_schema_and_names_the_files(shipped):
    text = shipped.model.with_name("model.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom, told = json.loads(text), shipped.statement["predicate"]
    model = bom["metadata"]["component"]
    digests = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (shipped.model, shipped.card, shipped.evidence)
    ]
    linked = {one["url"]: one["hashes"][0]["content"] for one in model["externalReferences"]}
    assert model["hashes"][0]["content"] == digests[0]
    assert linked == {"model.card.md": digests[1], "model.evidence.json": digests[2]}
    assert model["pedigree"]["ancestors"][0]["hashes"][0]["content"] == told["original"]["sha256"]
    assert {"torch", "forget-set"} <= {one["bom-ref"] for one in bom["components"]}
    assert told["forget_set"]["commitment"] in text
    assert not [
        digest for digest in training_digests(open_run(shipped.run), ("forget", "retain")) if digest in text
    ]


def test_the_subject_is_the_file(shipped):
    (subject,) = shipped.statement["subject"]
    digest = hashlib.sha256(shipped.model.read_bytes()).hexdigest()
    assert subject == {"name": "model.safetensors", "digest": {"sha256": digest}}


def test_all_numbers_of_the_trial_are_there(shipped):
    trial = shipped.statement["predicate"]["trial"]
    record = next(one for one in open_run(str(shipped.run)).records if one.trial_id == trial["trial_id"])
    assert {name: getattr(record, name) for name in trial} == trial
    assert trial.keys() == {field.name for field in dataclasses.fields(record)}


def test_the_choice_is_told_with_its_reasons(shipped):
    assert shipped.statement["predicate"]["selected_by"] == json.loads(
        (shipped.run / "pick.json").read_text()
    )


def test_no_image_is_named_and_no_plain_hash_given(shipped):
    text = shipped.evidence.read_text() + shipped.card.read_text()
    manifest = (shipped.run / "manifest.csv").read_text()
    for line in manifest.splitlines()[1:]:
        image_id, _, _, _, digest = line.split(",")
        assert image_id not in text
        assert digest not in text
    assert hashlib.sha256(manifest.encode()).hexdigest() not in text
    assert (shipped.run / "evidence-salt.txt").read_text().strip() not in text


def test_no_path_of_this_machine_is_told(shipped):
    text = shipped.evidence.read_text() + shipped.card.read_text()
    assert str(shipped.run) not in text
    assert str(Path.home()) + "/" not in text
    assert str(shipped.model.parent) not in text


def test_the_commitment_needs_the_salt_and_every_image():
    digests = [hashlib.sha256(bytes([value])).hexdigest() for value in range(5)]
    salt = "ab" * 32
    assert commit(salt, digests) == commit(salt, reversed(digests))
    assert commit(salt, digests) != commit("cd" * 32, digests)
    assert commit(salt, digests) != commit(salt, digests[:-1])


def test_two_exports_of_a_run_commit_to_the_same_images(shipped, tmp_path):
    assert call("export", shipped.run, tmp_path / "other.safetensors", "--trial", "highest").returncode == 0
    other = json.loads((tmp_path / "other.evidence.json").read_text())["predicate"]
    assert other["forget_set"] == shipped.statement["predicate"]["forget_set"]
    assert other["selected_by"] is None


# Every changed bit


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position // 8] ^= 1 << (position % 8)
    return bytes(changed)


@pytest.mark.parametrize("name", ["model", "evidence"])
def test_every_flip_of_a_bit_is_found(copy, name):
    path, draw = getattr(copy, name), random.Random(18)
    content = path.read_bytes()
    assert Outcome.MISMATCH not in outcomes(copy).values()
    for position in draw.sample(range(8 * len(content)), FLIPS):
        path.write_bytes(flipped(content, position))
        assert Outcome.MISMATCH in outcomes(copy).values(), f"bit {position} of {name}"
        arguments = [str(copy.evidence), str(copy.model)]
        assert verify_evidence.main(arguments) == 1, f"bit {position} of {name}"


def test_every_bit_of_the_evidence_counts(shipped):
    """Not drawn but all: a letter's case in an exponent, or a last digit that rounds away, must not pass."""
    content = shipped.evidence.read_bytes()
    start = content.index(b'"trial": {')
    for position in range(8 * start, 8 * (start + 700)):
        assert not read_statement(flipped(content, position))[1].ok, position


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"predicate": 1}', b"NaN", b'{"a":1,"a":2}'],
)
def test_what_is_no_evidence_is_a_mismatch_and_no_crash(copy, content):
    copy.evidence.write_bytes(content)
    done = call("verify", copy.evidence, "--model", copy.model)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("MISMATCH     evidence")


def test_a_cut_or_extended_file_is_found(copy):
    content = copy.evidence.read_bytes()
    for other in (
        content[:-1],
        content + b"\n",
        content.replace(b"\n", b"\r\n"),
        content.replace(b" ", b"  ", 1),
    ):
        copy.evidence.write_bytes(other)
        assert outcomes(copy)["evidence"] is Outcome.MISMATCH


# The run


def test_all_lines_match_the_run(shipped):
    found = outcomes(shipped, shipped.run)
    assert set(found.values()) == {Outcome.MATCH}
    assert len(found) == 13


def test_without_the_run_its_numbers_are_not_checked(shipped):
    found = outcomes(shipped)
    assert [found["evidence"], found["model file"]] == [Outcome.MATCH, Outcome.MATCH]
    assert set(list(found.values())[2:]) == {Outcome.NOT_CHECKED}
    done = call("verify", shipped.evidence, "--model", shipped.model)
    assert (done.returncode, done.stdout.count("needs --run")) == (0, 10)


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (("trial", "completeness"), 0.999999, "all numbers of the trial"),
        (("original", "sha256"), "0" * 64, "original weights"),
        (("forget_set", "count"), 1, "images to forget"),
        (("retain_set", "commitment"), "0" * 64, "images to keep"),
        (("run", "config_sha256"), "0" * 64, "sweep file, manifest and objective"),
        (("outcome", "state"), "UNCONVERGED", "outcome of the solver"),
        (("checkpoint", "sha256"), "0" * 64, "digest of the checkpoint"),
        (("audit", "standing"), "forgotten", "verdicts of the audit"),
        (("metrics",), [{"metric": "fid"}], "metrics"),
        (("front",), [{"trial_id": "00"}], "models of the front"),
    ],
)
def test_a_forged_number_is_found_by_the_run(copy, place, value, line):
    statement = copy.statement
    part = statement["predicate"]
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    copy.evidence.write_bytes(resealed(statement))
    assert outcomes(copy)["evidence"] is Outcome.MATCH  # the seal finds accidents only
    wrong = [name for name, outcome in outcomes(copy, copy.run).items() if outcome is Outcome.MISMATCH]
    assert wrong == [line]


def test_a_sealed_file_of_another_shape_is_a_mismatch_and_no_crash(copy):
    statement = copy.statement
    statement["predicate"] = {"trial": 3, "original": []}
    statement["subject"] = 5
    copy.evidence.write_bytes(resealed(statement))
    done = call("verify", copy.evidence, "--model", copy.model, "--run", copy.run)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_run_that_grew_since_still_matches(copy, tmp_path):
    grown = tmp_path / "quickstart"
    shutil.copytree(copy.run, grown)
    store = RunStore.open(str(grown))
    record = store.records()[copy.statement["predicate"]["trial"]["trial_id"]]
    store.add_metric(
        record, [MetricRow(set="forget", split="heldout", metric="fid", protocol="standard", value=9.0, n=40)]
    )
    assert call("export", grown, tmp_path / "d.safetensors", "--epsilon", "0.5").returncode == 0
    assert set(outcomes(copy, grown).values()) == {Outcome.MATCH}


def test_another_run_of_the_same_sweep_does_not_match(copy, tmp_path):
    config = small_sweep(tmp_path, "seed=1", "epsilon.points=1", "baselines=[]", "solver.steps=20")
    assert run(config) in (0, 4, 7)
    found = outcomes(copy, tmp_path / "quickstart")
    assert found["trial"] is Outcome.MISMATCH
    assert found["images to forget"] is Outcome.MISMATCH  # each run has a salt of its own


def test_a_run_of_an_earlier_version_has_no_commitments(copy, tmp_path):
    older = tmp_path / "quickstart"
    shutil.copytree(copy.run, older)
    (older / "evidence-salt.txt").unlink()
    assert outcomes(copy, older)["images to forget"] is Outcome.NOT_CHECKED
    done = call("export", older, tmp_path / "d.safetensors", "--trial", "highest")
    assert done.returncode == 0, done.stderr
    assert not (older / "evidence-salt.txt").exists()
    statement = json.loads((tmp_path / "d.evidence.json").read_text())
    jsonschema.validate(statement, published_schema())
    assert statement["predicate"]["forget_set"]["commitment"] is None


@pytest.mark.parametrize("salt", ["", "short", "AB" * 32])
def test_a_damaged_salt_is_no_key(copy, tmp_path, salt):
    damaged = tmp_path / "quickstart"
    shutil.copytree(copy.run, damaged)
    (damaged / "evidence-salt.txt").write_text(salt)
    done = call("export", damaged, tmp_path / "d.safetensors", "--trial", "highest")
    assert done.returncode == 6
    assert "64 hexadecimal digits" in done.stderr


def test_a_damaged_checkpoint_of_the_run_is_found(copy, tmp_path):
    damaged = tmp_path / "quickstart"
    shutil.copytree(copy.run, damaged)
    trial = copy.statement["predicate"]["trial"]
    weights = damaged / trial["checkpoint"] / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes(), 9999))
    assert outcomes(copy, damaged)["checkpoint in the run"] is Outcome.MISMATCH


def test_missing_files_are_told_with_3(copy):
    assert call("verify", copy.evidence, "--model", "nowhere").returncode == 3
    assert call("verify", "nowhere", "--model", copy.model).returncode == 3


# Signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Return two pairs of keys as PEM files: (private, public) of ours, and of somebody else."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        private = Ed25519PrivateKey.generate()
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(secret)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


@pytest.fixture
def signed(copy, keys, tmp_path):
    """Return the model, the evidence and the signature of a signed export."""
    out = tmp_path / "signed.safetensors"
    done = call("export", copy.run, out, "--trial", "highest", "--sign-key", keys / "ours.pem")
    assert done.returncode == 0, done.stderr
    return out, tmp_path / "signed.evidence.json", tmp_path / "signed.evidence.dsse.json"


def signature_line(signed, key):
    model, evidence, _ = signed
    return next(line for line in verify(evidence, model, None, key) if line.name == "signature")


def test_the_public_key_of_who_signed_is_needed(signed, keys):
    assert signature_line(signed, keys / "ours.pub").outcome is Outcome.MATCH
    assert signature_line(signed, keys / "theirs.pub").outcome is Outcome.MISMATCH
    assert signature_line(signed, None).outcome is Outcome.NOT_CHECKED


def test_a_seal_made_anew_does_not_pass_the_signature(signed, keys):
    model, evidence, envelope = signed
    statement = json.loads(evidence.read_text())
    statement["predicate"]["trial"]["completeness"] = 1.0
    evidence.write_bytes(resealed(statement))
    assert verify(evidence, model, None)[0].outcome is Outcome.MATCH
    line = signature_line(signed, keys / "ours.pub")
    assert (line.outcome, line.detail) == (Outcome.MISMATCH, "the envelope signs another file")
    forged = json.loads(envelope.read_text()) | {"payload": b64encode(evidence.read_bytes()).decode()}
    envelope.write_text(json.dumps(forged))
    assert signature_line(signed, keys / "ours.pub").detail.startswith("not signed by")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"payload": 1, "payloadType": 2, "signatures": 3}']
)
def test_what_is_no_envelope_is_a_mismatch(signed, keys, content):
    signed[2].write_bytes(content)
    assert signature_line(signed, keys / "ours.pub").detail.startswith("the envelope is damaged")
    signed[2].unlink()
    assert "found no such file" in signature_line(signed, keys / "ours.pub").detail


def test_what_is_no_key_is_refused_before_the_export(copy, keys, tmp_path):
    out = tmp_path / "never.safetensors"
    for key in (keys / "ours.pub", keys / "nowhere.pem", copy.model):
        done = call("export", copy.run, out, "--trial", "highest", "--sign-key", key)
        assert done.returncode == 3
        assert str(key) in done.stderr
    assert not out.exists()


# The verifier for others


def test_the_verifier_needs_nothing_but_python_and_fits_a_hundred_lines(copy, tmp_path):
    source = Path(verify_evidence.__file__)
    assert len(source.read_text().splitlines()) <= 100
    script = shutil.copy(source, tmp_path / "verify_evidence.py")
    manifest = (copy.run / "manifest.csv").read_text().splitlines()
    digests = [line.rpartition(",")[2] for line in manifest if ",forget,train," in line]
    (tmp_path / "digests.txt").write_text("\n".join(digests))
    salt = (copy.run / "evidence-salt.txt").read_text().strip()
    command = [sys.executable, "-I", "-S", script, copy.evidence, copy.model]

    def run_script(*more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False)

    plain = run_script()
    assert (plain.returncode, plain.stdout.count("match ")) == (0, 2)
    opened = subprocess.run(
        [*command, salt, tmp_path / "digests.txt"], capture_output=True, text=True, check=False
    )
    assert (opened.returncode, opened.stdout.count("match ")) == (0, 3)
    (tmp_path / "digests.txt").write_text("\n".join(digests[1:]))
    wrong = subprocess.run(
        [*command, salt, tmp_path / "digests.txt"], capture_output=True, text=True, check=False
    )
    assert (wrong.returncode, "MISMATCH forget set" in wrong.stdout) == (1, True)


# The card


def test_the_hub_reads_the_card(shipped):
    card = ModelCard.load(shipped.card)
    assert card.data.base_model == "someone/digits"
    assert "machine-unlearning" in card.data.tags
    found = {
        (one.metric_type, one.dataset_name, one.dataset_split): one.metric_value
        for one in card.data.eval_results
    }
    trial = shipped.statement["predicate"]["trial"]
    assert found["completeness", "digits, forget images", "train"] == trial["completeness"]
    assert found["retained_quality", "digits, retain images", "heldout"] == trial["retained_quality_heldout"]


def test_the_card_says_what_the_run_knows(shipped):
    text, predicate = shipped.card.read_text(), shipped.statement["predicate"]
    trial = predicate["trial"]
    for part in (
        shipped.statement["subject"][0]["digest"]["sha256"],
        f"| completeness of forgetting | {trial['completeness']:.1%}".replace("%", " % ±"),
        f"| its worst class | {trial['completeness_worst_class']:.1%}".replace("%", " %"),
        f"{trial['gradient_pairs']:,} gradient pairs",
        trial["trial_id"],
        trial["reason"],
        predicate["audit"]["standing"],
        "no guarantee in the sense of differential privacy",
    ):
        assert part in text


def test_the_card_of_a_model_that_nobody_audited_says_so(copy_small_sweep, tmp_path, monkeypatch):
    copy_small_sweep(tmp_path)
    out = tmp_path / "m.safetensors"
    assert call("export", tmp_path / "quickstart", out, "--trial", "highest").returncode == 0
    card = out.with_name("m.card.md").read_text()
    assert "This model was not audited" in card
    (line,) = re.findall(r"```bash\n(pareto-unlearn audit .*)\n```", card)
    (highest,) = (one for one in open_run(str(tmp_path / "quickstart")).records if one.role == "highest")
    assert line == f"pareto-unlearn audit runs/quickstart --trial {highest.trial_id}"
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"```bash\n(pareto-unlearn verify .*)\n```", card)
    assert call(*shlex.split(line)[1:]).returncode == 0
    assert json.loads(out.with_name("m.evidence.json").read_text())["predicate"]["audit"] is None


def test_the_lines_of_the_card_load_the_model(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nothing of the run is here
    (code,) = re.findall(r"```python\n(.*?)```", copy.card.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    weights = load_file(copy.model)
    assert all(torch.equal(weights[name], tensor) for name, tensor in names["model"].state_dict().items())
    assert not names["model"].training
