"""The commands that the documentation shows, page by page, and how each is tried."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)

_REASONS = {
    "REPOSITORY stands for where the reader found it": """
git clone REPOSITORY pareto-unlearn
cd pareto-unlearn
""",
    "installs from a package index": """
python3 -m pip install uv
uv venv
uv sync --extra s3
uv pip install --torch-backend=cpu -e .
uv pip install --no-deps vintagify==0.1.2
uv pip install --no-deps demosaicnet==0.0.14
""",
    "is what runs this": """
uv run pytest
""",
    "trains for minutes; tests/test_pretrain.py trains in few steps": """
uv run pareto-unlearn train digits_mae digits_mae.safetensors
uv run pareto-unlearn train digits_classifier digits_classifier.safetensors
""",
    "tests/test_examples.py runs the examples, in few steps and where their packages are installed": """
uv run pareto-unlearn train examples/autoencoder/sweep.yaml autoencoder.safetensors --allow-import
uv run pareto-unlearn sweep examples/autoencoder/sweep.yaml --allow-import
uv run pareto-unlearn export runs/autoencoder unlearned.safetensors --epsilon 0.3 --allow-import
uv run --no-sync pareto-unlearn sweep examples/cyclegan/sweep.yaml --allow-import
uv run --no-sync pareto-unlearn export runs/cyclegan G_A2B.pth --epsilon 0.3 --allow-import
uv run --no-sync pareto-unlearn sweep examples/demosaicking/sweep.yaml --allow-import
uv run --no-sync pareto-unlearn export runs/demosaicking bayer.pth --epsilon 0.3 --allow-import
""",
    "starts Ray again and again; tests/test_store_searcher.py runs these": """
uv run python examples/ray_tune/resume_grid.py grid 0.1 0.2
uv run python examples/ray_tune/warm_start.py search 20
uv run python examples/ray_tune/best_set.py front 10
""",
    "needs published weights of 3 GB; tests/test_rescore.py measures with drawn ones": """
uv run pareto-unlearn eval runs/NAME --metrics fid,kid,is,clip --protocol standard --weights FOLDER
""",
    "audits runs that are not solved here": """
uv run pareto-unlearn audit runs/audited
uv run pareto-unlearn audit runs/identities --all --allow-import
""",
    "needs pictures that a package of others makes": """
uv run pareto-unlearn sweep benchmarks/front_problems/identities.yaml --allow-import -o 'controls=[retrained]' -o 'solver.relearning={steps: 1600, every: 8}' -o epsilon.points=3
""",  # noqa: E501
    "tests/test_own_pictures.py runs these in their order, on small pictures": """
python3 -m pip install --no-deps --ignore-requires-python --target gan gan_face_generate==1.1.1
uv run python examples/one_person/make_people.py gan pictures/people
uv run pareto-unlearn init folder pictures/people --forget person_02 -o people.yaml
uv run pareto-unlearn validate people.yaml
uv run pareto-unlearn train people.yaml
uv run pareto-unlearn sweep people.yaml
uv run pareto-unlearn pick runs/people --min-quality 0.97
uv run pareto-unlearn export runs/people forgotten.pth --trial highest
uv run pareto-unlearn train sweeps/one_person.yaml
uv run pareto-unlearn sweep sweeps/one_person.yaml
uv run python examples/one_person/picture.py runs/one_person docs/pictures/one_person.png
uv run pareto-unlearn init folder pictures/people --forget one.txt -o single.yaml
""",
    "tests/test_evidence.py signs with keys that it makes, and runs the verifier": """
openssl genpkey -algorithm ed25519 -out key.pem
openssl pkey -in key.pem -pubout -out key.pub
uv run --extra sign pareto-unlearn export runs/quickstart signed.safetensors --trial highest --sign-key key.pem
uv run --extra sign pareto-unlearn verify signed.evidence.json --model signed.safetensors --public-key key.pub
python verify_evidence.py model.evidence.json model.safetensors
""",  # noqa: E501
    "tests/test_trackers.py exports to each, where its package is installed": """
uv run --extra tensorboard pareto-unlearn track runs/quickstart tensorboard tracked/tensorboard
uv run --extra optuna pareto-unlearn track runs/quickstart optuna tracked/optuna.db
uv run --extra mlflow pareto-unlearn track runs/quickstart mlflow tracked/mlflow.db
uv run --extra wandb pareto-unlearn track runs/quickstart wandb tracked/wandb
""",
    "needs a cluster, weights and ImageNet; tests/test_file_sweeps.py runs it on small files": """
RAY_ADDRESS=HEAD:6379 uv run pareto-unlearn sweep sweeps/imagenet_mae.yaml
""",
}
NOT_RUN = {command: reason for reason, text in _REASONS.items() for command in text.split("\n") if command}
"""Commands that are not run, with the reason."""

_SWEEP_ONLY = ("--check-convergence", "--dashboard", "--retry-failed")
_IN_FEW_STEPS = {"solver.relearning={}": "solver.relearning={steps: 8}"}
SMALL_QUALITY = ("0.97", "0.5")
"""The quality that is asked for, and what the small sweep reaches in its few steps."""


class Block(NamedTuple):
    """The commands of a fenced block; they follow one another in one folder."""

    page: str
    commands: tuple[str, ...]

    @property
    def run(self) -> tuple[str, ...]:
        """Those that are run."""
        return tuple(command for command in self.commands if command not in NOT_RUN)


def read_blocks() -> list[Block]:
    """Return the blocks of all pages, equal ones once."""
    found: dict[tuple[str, ...], Block] = {}
    for page in PAGES:
        for text in re.findall(r"^```(?:bash|console|sh|shell)\n(.*?)^```", page.read_text(), re.M | re.S):
            commands = tuple(
                part for line in text.splitlines() for part in _without_comment(line).split(" && ") if part
            )
            found.setdefault(commands, Block(str(page.relative_to(ROOT)), commands))
    return list(found.values())


def _without_comment(line: str) -> str:
    return re.sub(r"\s+#\s.*$", "", line.removeprefix("$ ")).strip()


def arguments_of(command: str) -> list[str]:
    """Return the arguments of ``pareto-unlearn`` in a command; it must be one of that program.

    The quickstart sweep is continued, and a hardened model added to it in few steps. Of any other sweep the
    file, its overrides, data and weights are checked, as the verb ``validate`` does. An audit takes the short
    attacks alone; ``tests/test_audit.py`` has the others.
    """
    words = shlex.split(command)
    small = _IN_FEW_STEPS | dict([SMALL_QUALITY])
    arguments = [small.get(word, word) for word in words[words.index("pareto-unlearn") + 1 :]]
    is_added = not set(arguments[1:]) - {"sweeps/quickstart.yaml", "-o", *_IN_FEW_STEPS.values()}
    if arguments[0] == "audit" and "--print-policy" not in arguments:
        return [*arguments, "--quick"]
    if arguments[0] != "sweep" or is_added or {"--print-config", "--card"} & set(arguments):
        return arguments
    return ["validate", *(word for word in arguments[1:] if word not in _SWEEP_ONLY)]
