"""Examples of every verb, which stand at the end of its --help; a test parses each."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "sweep": (
        "sweep sweeps/quickstart.yaml",
        "sweep sweeps/quickstart.yaml --dry-run",
        "sweep sweeps/imagenet_mae.yaml --dry-run --card h100",
    ),
    "validate": ("validate sweeps/quickstart.yaml -o solver.steps=800",),
    "init": ("init digits", "init folder pictures/people --forget anna -o people.yaml"),
    "report": (
        "report runs/quickstart --forget-images none --out for-others.html",
        "report runs/quickstart --watch",
        "report runs/quickstart --table paper1 --format latex",
    ),
    "compare": ("compare runs/a runs/b", "compare runs/a runs/b --html a-and-b.html"),
    "ls": ("ls runs/quickstart", "ls runs"),
    "status": ("status runs/quickstart", "status runs/quickstart --watch"),
    "store check": ("store check runs/quickstart",),
    "store repair": ("store repair runs/quickstart",),
    "track": ("track runs/quickstart tensorboard tensorboard",),
    "pick": ("pick runs/quickstart --min-quality 0.97", "pick runs/quickstart --knee --json"),
    "export": (
        "export runs/quickstart model.safetensors --trial highest",
        "export runs/quickstart dialled.safetensors --epsilon 0.3",
    ),
    "verify": ("verify model.evidence.json --model model.safetensors --run runs/quickstart",),
    "purge-forget": ("purge-forget runs/quickstart",),
    "eval": ("eval runs/quickstart --metrics fid,kid --trial highest",),
    "audit": ("audit runs/quickstart", "audit runs/quickstart --trial 'epsilon 14.6%'"),
    "doctor": ("doctor", "doctor sweeps/imagenet_vqgan.yaml"),
    "schema": ("schema > sweep.schema.json",),
    "check-family": ("check-family my_model.py:FAMILY --allow-import",),
    "train": ("train people.yaml", "train people.yaml --leave-out-forget"),
}
"""Command lines by verb, without the program's name."""


def epilog(verb: str) -> str:
    """Return the end of a verb's help; the first character keeps click from joining the lines."""
    lines = "\n".join(f"  pareto-unlearn {line}" for line in EXAMPLES[verb])
    return f"\b\nExamples:\n{lines}"
