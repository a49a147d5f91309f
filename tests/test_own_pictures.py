"""docs/own_pictures.md: its commands, in its order, lead from a folder of pictures to an exported model."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import call
from image_folders import noise, save

PAGE = (Path(__file__).parent.parent / "docs" / "own_pictures.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^uv run pareto-unlearn (.*)$", PAGE, flags=re.M)]
TINY = (
    "model.side=16", "model.patch=4", "run.executor=local", "run.cpus_per_trial=1",
    "objective.noise_images=16",
    "solver={steps: 8, batch: 4, path: {steps: 24, scan: [1.0]}, bank: {checkpoints: 6}}",
    "epsilon={schedule: grid, points: 2}", "evaluate.audit=off",
)  # fmt: skip
OVERRIDES = [part for one in TINY for part in ("-o", one)]


def test_its_links_and_commands_are_there():
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        assert (root / "docs" / target).exists(), target
    assert [command[0] for command in COMMANDS[:6]] == [
        "init",
        "validate",
        "train",
        "sweep",
        "pick",
        "export",
    ]
    for command in COMMANDS:
        helped = call(command[0], "--help").stdout
        assert all(word in helped for word in command if word.startswith("-"))


@pytest.mark.slow
def test_its_commands_lead_to_an_exported_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for person in range(4):
        for photo in range(10):
            picture = noise(20, 20, person * 100 + photo)
            save(picture, tmp_path / "pictures" / "people" / f"person_{person:02d}" / f"{photo:03d}.png")
    init, validate, train, sweep, pick, export = COMMANDS[:6]
    assert call(*init).returncode == 0
    told = call(*validate, *OVERRIDES)
    assert (told.returncode, "not trained yet" in told.stderr) == (8, True), told.stderr
    assert call(*train, *OVERRIDES, "--steps", 5).returncode == 0
    assert call(*validate, *OVERRIDES).returncode == 0
    done = call(*sweep, *OVERRIDES)
    assert done.returncode in (0, 7), done.stderr  # noise and so few steps need not span a range
    trials = call("ls", sweep[1].replace("people.yaml", "runs/people"), "--json")
    assert '"role": "highest"' in trials.stdout
    picked = call(*pick[:2])
    assert picked.returncode in (0, 3), picked.stderr
    assert call(*export).returncode == 0
    assert Path("forgotten.pth").stat().st_size == pytest.approx(Path("people.pth").stat().st_size, rel=0.01)
