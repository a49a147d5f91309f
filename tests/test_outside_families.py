"""Families from outside the package: a single file, and an entry point of an installed package."""

import shutil
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from sweep_text import BASE

from pareto_unlearn.catalogue import family_lookup
from pareto_unlearn.catalogue.families import EMBEDDED, FamilyRow, require_steps
from pareto_unlearn.catalogue.family_lookup import find_family
from pareto_unlearn.config import SweepConfig, config_hash, dump_config, parse_config, result_fields
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import family_of
from pareto_unlearn.records import Phase, TrialSpec
from pareto_unlearn.sweep.worker import Assignment, read_config

EXAMPLE = Path(__file__).parent.parent / "examples" / "autoencoder" / "family.py"


def text(family: object, extra: str = "") -> str:
    model = f"model: {{family: '{family}', checkpoint: x.safetensors{extra}}}\n"
    return f"name: outside\n{model}data: {{dataset: generated, forget_classes: 2}}\n"


def parse(family: object, extra: str = "", *, allow_import: bool = True) -> SweepConfig:
    return parse_config(text(family, extra), "x.yaml", allow_import=allow_import)


def error(family: object, extra: str = "", *, allow_import: bool = True) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(family, extra, allow_import=allow_import)
    assert caught.value.exit_code == 3
    return str(caught.value)


def copy_to(folder: Path, added: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(EXAMPLE.read_text() + added)
    return path


def test_a_file_is_not_run_unless_that_is_allowed(tmp_path):
    path = copy_to(tmp_path, f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    line = error(f"{path}:FAMILY", allow_import=False)
    assert line.startswith(
        "x.yaml:2: model.family: expected --allow-import beside a family of a file, found `"
    )
    assert not (tmp_path / "ran").exists()
    parse(f"{path}:FAMILY")
    assert (tmp_path / "ran").exists()


def test_what_is_wrong_with_a_file_is_named(tmp_path):
    assert "found none that can be read" in error(tmp_path / "none.py:FAMILY")
    assert "expected `OTHER` to be a Family with a row, found 'nothing of that name'" in error(
        f"{EXAMPLE}:OTHER"
    )
    path = copy_to(tmp_path, "\nraise OSError('no such thing')\n")
    assert f"{path}: running it raised OSError: no such thing" in error(f"{path}:FAMILY")
    path = copy_to(tmp_path, "\nimport beside_it\n")
    assert "it imports beside_it, which is not found; only installed packages and" in error(f"{path}:FAMILY")
    assert f"set PYTHONPATH={path.parent} if beside_it lies beside the file" in error(f"{path}:FAMILY")


def test_a_family_without_a_recipe_is_told_how_it_gets_one():
    row = replace(find_family(f"{EXAMPLE}:FAMILY", allow_import=True), recipe=None, own_recipes={})
    with pytest.raises(ConfigError, match=r"its row has no recipe; add recipe=Recipe\(peak_learning_rate="):
        require_steps(row, "small", None)


def test_variants_and_keys_are_those_of_the_file():
    assert parse(f"{EXAMPLE}:FAMILY").model.variant == "small"
    assert parse(f"{EXAMPLE}:FAMILY", ", variant: tiny").model.variant == "tiny"
    line = error(f"{EXAMPLE}:FAMILY", ", variant: vit_base")
    assert line.endswith("expected small or tiny with family autoencoder, found `vit_base`")
    assert "belongs to palette" in error(f"{EXAMPLE}:FAMILY", ", recompute: true")


def test_a_relative_path_starts_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(copy_to(tmp_path).parent)
    assert parse("mine.py:FAMILY").model.row.name == "autoencoder"


def test_the_content_of_the_file_counts_and_its_place_does_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = parse(f"{copy_to(tmp_path / 'a')}:FAMILY")
    moved = parse(f"{copy_to(tmp_path / 'b')}:FAMILY")
    assert result_fields(first) == result_fields(moved)
    digest = config_hash(first, "0" * 64)
    changed = parse(f"{copy_to(tmp_path / 'a', '# changed')}:FAMILY")
    assert result_fields(changed)["model"]["family"] == "autoencoder"
    assert config_hash(changed, "0" * 64) != digest


def test_a_family_of_the_package_has_no_more_in_its_identity_than_before():
    model = result_fields(parse_config(BASE, "x.yaml"))["model"]
    assert set(model) == {"family", "variant", "predicts", "channels_last", "recompute"}
    assert model["family"] == "digits_mae"


def assignment(config: SweepConfig, digest: str | None) -> Assignment:
    spec = TrialSpec(trial_id="", phase=Phase.ORIGINAL, method="original", seed=0)
    plain = Assignment(
        run_path="",
        config_text=dump_config(config),
        targets_key="",
        code_version="",
        spec=spec,
        family_sha256=digest,
    ).to_plain()
    return Assignment.from_plain(plain)


def test_a_worker_may_run_the_file_that_the_driver_has_read_and_no_other(tmp_path):
    path = copy_to(tmp_path)
    config = parse(f"{path}:FAMILY")
    given = assignment(config, config.model.row.source_sha256)
    assert read_config(given) == config
    copy_to(tmp_path, "# changed")
    with pytest.raises(ConfigError, match="expected the file with SHA-256"):
        read_config(given)


def test_an_unknown_family_is_answered_with_the_nearest(monkeypatch):
    monkeypatch.setattr(family_lookup, "entry_points", lambda **_: [EntryPoint("pallet", "x:ROW", "g")])
    line = error("pallett")
    assert line.startswith(
        "x.yaml:2: model.family: expected one of `digits_mae`, `mae`, `mage`, `palette`, `pallet`, found "
        "the text `pallett`"
    )
    assert line.endswith("did you mean `pallet`?")


@pytest.fixture
def installed(tmp_path, monkeypatch) -> str:
    """A package with a light row and an adapter that is a module of its own."""
    name = f"outside_{tmp_path.name.replace('-', '_')}"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text(
        "from pareto_unlearn.catalogue.families import FamilyRow\n"
        f"ROW = FamilyRow(name='{name}', variants=('big',), file='a file', adapter='{name}.adapter')\n"
    )
    shutil.copy(EXAMPLE, package / "adapter.py")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint(name, f"{name}:ROW", family_lookup.GROUP)
    monkeypatch.setattr(
        family_lookup, "entry_points", lambda **given: [point] if given.get("name", name) == name else []
    )
    return name


def test_an_installed_family_needs_no_permission_and_is_imported_when_used(installed):
    config = parse(installed, allow_import=False)
    assert (config.model.row.name, config.model.variant) == (installed, "big")
    assert f"{installed}.adapter" not in sys.modules
    assert family_of(installed).suffix == ".safetensors"
    assert f"{installed}.adapter" in sys.modules


def test_a_row_under_another_name_is_refused(monkeypatch):
    point = EntryPoint("renamed", "pareto_unlearn.catalogue.families:EMBEDDED", family_lookup.GROUP)
    monkeypatch.setattr(family_lookup, "entry_points", lambda **_: [point])
    assert "to be a FamilyRow of that name with an adapter, found FamilyRow" in error("renamed")


def test_what_a_family_does_not_have_is_refused(monkeypatch):
    plain = FamilyRow(name="plain", variants=("x",), file="y", spaces=("output",), baselines=())
    monkeypatch.setattr(
        family_lookup, "_BUILT_IN", {EMBEDDED.name: EMBEDDED, "plain": replace(plain, adapter="z")}
    )
    monkeypatch.setattr(family_lookup, "entry_points", lambda **_: [])
    for extra, expected in (
        ("objective: {space: encoder}", "expected space output with family plain, found encoder"),
        ("baselines: [noisy_label]", "only what family plain has (none), found noisy_label"),
        ("controls: [retrained]", "expected none with family plain, found retrained"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_config(text("plain") + extra, "x.yaml")
        assert expected in str(caught.value)
