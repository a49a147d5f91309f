"""All verbs: --json on every one that reads, and examples in every help that can be typed as they stand.

JSON means: nothing else on stdout, under keys that stay, with the same exit code.
"""

import json
import shlex
import shutil

import pytest
import typer.main
from command_line import call
from small_sweep import QUICKSTART
from synthetic_run import SWEEP_FILE, planned_trials, synthetic_info, synthetic_result, write_run

from pareto_unlearn.cli import app
from pareto_unlearn.cli_examples import EXAMPLES

NO_READS = {
    "sweep", "init", "export", "purge-forget", "train",  # they write, and print the paths of what they wrote
    "schema",  # JSON already
    "eval", "store repair", "track",  # have --json, and measure, mend or copy
}  # fmt: skip
READS: dict[str, tuple[str, set[str]]] = {
    "ls": (
        "RUN",
        {"trial_id", "label", "seed", "state", "f1", "f2", "completeness", "retained_quality_heldout"},
    ),
    "status": ("RUN", {"state", "planned"}),
    "compare": ("RUN RUN", {"runs", "split", "reference", "notes"}),
    "report": ("RUN --table paper1", {"caption", "columns", "rows"}),
    "pick": ("RUN", {"trial_id", "label", "seed", "criteria", "why", "why_not", "export"}),
    "store check": ("RUN", set()),
    "doctor": ("", {"name", "kind", "is_right", "is_there", "is_needed", "detail"}),
    "validate": ("SHEET --smoke", {"file", "name", "valid", "trials", "budget"}),
    "audit": ("SMALL --quick --jobs 1 --trial highest", {"trial_id", "standing", "findings"}),
    "verify": ("EVIDENCE --model MODEL", {"name", "outcome", "detail"}),
}
"""Arguments by verb, and keys that the documents promise (of the first entry of a list)."""


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("json")
    results = [synthetic_result(plan) for seed in (0, 1) for plan in planned_trials(seed)]
    return {"RUN": write_run(str(folder), results, synthetic_info(), SWEEP_FILE), "SHEET": str(QUICKSTART)}


@pytest.fixture
def shipped(verb, copy_small_sweep, tmp_path) -> dict[str, str]:
    if verb not in ("audit", "verify"):
        return {}
    copy_small_sweep(tmp_path)
    small, model = str(tmp_path / "quickstart"), str(tmp_path / "m.safetensors")
    assert call("export", small, model, "--trial", "highest").returncode == 0
    return {"SMALL": small, "MODEL": model, "EVIDENCE": str(tmp_path / "m.evidence.json")}


def verbs() -> set[str]:
    group = typer.main.get_command(app)
    return {
        f"{name} {inner}" if inner else name
        for name, one in group.commands.items()
        for inner in (getattr(one, "commands", None) or {"": None})
    }


def test_every_verb_is_read_here_or_said_to_be_none():
    assert verbs() == {*READS, *NO_READS, "check-family"}


SLOW = ("audit", "validate", "verify")  # with models: seconds each


@pytest.mark.parametrize(
    "verb", [pytest.param(one, marks=pytest.mark.slow if one in SLOW else ()) for one in READS]
)
def test_a_verb_that_reads_prints_json_alone_and_ends_as_without(verb, places, shipped):
    arguments, keys = READS[verb]
    words = [*verb.split(), *((places | shipped).get(word, word) for word in arguments.split())]
    done = call(*words, "--json")
    found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    first = found[0] if isinstance(found, list) and found else found
    assert keys <= set(first)
    if verb not in SLOW:
        assert call(*words).returncode == done.returncode


def test_a_refusal_prints_no_json_and_its_own_code(places, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(places["RUN"], broken)
    part = next((broken / "trials").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    checked = call("store", "check", broken, "--json")
    assert (checked.returncode, bool(json.loads(checked.stdout))) == (6, True)
    for words, code in ((["ls", tmp_path / "none"], 3), (["pick", places["RUN"], "--min-quality", "1"], 3)):
        done = call(*words, "--json")
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("pareto-unlearn: ")


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_every_example_in_the_help_is_parsed(line):
    words = shlex.split(line.partition(" > ")[0])
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("pareto-unlearn", words)


def test_every_verb_has_examples_of_its_own_in_its_help():
    assert set(EXAMPLES) == verbs()
    for verb, lines in EXAMPLES.items():
        told = [line.strip() for line in call(*verb.split(), "--help").stdout.splitlines()]
        for line in lines:
            assert f"pareto-unlearn {line}" in told
            assert line.startswith(f"{verb} ") or line == verb
