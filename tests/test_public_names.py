"""The public face: few names, all of them real, and nothing heavy until one is used."""

import subprocess
import sys

import pytest
from waiting import STALLED_AFTER

import pareto_unlearn

HEAVY = ("torch", "ray", "pyarrow", "pandas", "plotly", "sklearn", "torchmetrics")


def heavy_modules_after(code: str, prints: str = "") -> set[str]:
    """Run code in a fresh process and return the heavy libraries it has imported, whether it exits or not."""
    script = f"""
import sys
try:
    {code}
except SystemExit as stop:
    assert not stop.code, stop.code
finally:
    print("imported", *(name for name in {HEAVY} if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=STALLED_AFTER, check=True
    )
    assert prints in done.stdout
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_public_names_are_sorted_and_listed_once():
    assert pareto_unlearn.__all__ == sorted(set(pareto_unlearn.__all__))


@pytest.mark.parametrize("name", pareto_unlearn.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(pareto_unlearn, name) is not None


def test_every_public_name_can_be_seen():
    assert set(pareto_unlearn.__all__) <= set(dir(pareto_unlearn))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        _ = pareto_unlearn.load_runs


def test_every_lazy_name_lives_in_a_module_of_the_package():
    for name, value in ((name, getattr(pareto_unlearn, name)) for name in pareto_unlearn.__all__):
        if name != "__version__":
            assert value.__module__.startswith("pareto_unlearn.")


def test_importing_the_package_imports_nothing_heavy():
    assert heavy_modules_after("import pareto_unlearn") == set()


def test_help_imports_nothing_heavy():
    run = (
        "sys.argv = ['pareto-unlearn', '--help']; import runpy; "
        "runpy.run_module('pareto_unlearn', run_name='__main__')"
    )
    assert heavy_modules_after(run, prints="Usage: ") == set()


def test_the_check_for_heavy_imports_sees_them():
    assert "pyarrow" in heavy_modules_after("import pareto_unlearn; pareto_unlearn.load_run")


def test_loading_a_run_imports_no_torch():
    assert "torch" not in heavy_modules_after("import pareto_unlearn; pareto_unlearn.load_run")
