"""The model card beside an exported model, in the form of the Hugging Face Hub."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pareto_unlearn import __version__
from pareto_unlearn.analysis.audit import ModelAudit, Verdict
from pareto_unlearn.catalogue.audits import EVALUATIONS
from pareto_unlearn.commands import command_line
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.config.smoke import SMOKE_NOTICE
from pareto_unlearn.config.yaml_source import to_yaml
from pareto_unlearn.finished.evidence import LIMITS, audit_of, training_digests
from pareto_unlearn.records import TrialRecord, name_bounded
from pareto_unlearn.store import StoredRun

__all__ = ["CardFacts", "write_card"]

_NORMAL_95 = 1.96
_NUMBERS = (
    ("completeness", "completeness of forgetting", "forget", "train", "completeness"),
    ("completeness_worst_class", "completeness, worst class", "forget", "train", "completeness_worst_class"),
    (
        "completeness_worst_5pct",
        "completeness, worst 5 % of images",
        "forget",
        "train",
        "completeness_worst_5pct",
    ),
    ("completeness", "completeness of forgetting", "forget", "heldout", "completeness_heldout"),
    (
        "completeness_worst_class",
        "completeness, worst class",
        "forget",
        "heldout",
        "completeness_worst_class_heldout",
    ),
    ("retained_quality", "retained quality", "retain", "train", "retained_quality"),
    ("retained_quality", "retained quality", "retain", "heldout", "retained_quality_heldout"),
)
"""Type and name of a metric, the set and split it belongs to, and its column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card is written from.

    ``file`` is the exported file's name, ``base_model`` an id on the Hub, ``transformers_class`` what loads
    the model's folder, if anything but this package does.
    """

    run: StoredRun
    config: SweepConfig
    record: TrialRecord
    file: str
    sha256: str
    evidence: str
    base_model: str | None = None
    transformers_class: str = ""


def write_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    audit = audit_of(facts.run, facts.record)
    parts = [
        f"---\n{to_yaml(_metadata(facts))}---",
        f"# {facts.run.info.name}: {facts.record.label}",
        *([f"**{SMOKE_NOTICE}**"] if facts.run.info.smoke else []),
        _opening(facts),
        "## What was forgotten, and what it cost\n\n" + _numbers(facts),
        "## Is it gone, or only hidden?\n\n" + _audit(audit, facts),
        "## How it was made\n\n" + _making(facts),
        "## How to load it\n\n" + _loading(facts),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in LIMITS),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: CardFacts) -> dict[str, Any]:
    """Return the head of the card: what the Hub lists and filters by."""
    data = facts.config.data.dataset
    results = [
        {
            "task": {"type": "image-to-image"},
            "dataset": {"type": data, "name": f"{data}, {image_set} images", "split": split},
            "metrics": [{"type": kind, "name": name, "value": value}],
        }
        for kind, name, image_set, split, column in _NUMBERS
        if (value := _finite(getattr(facts.record, column))) is not None
    ]
    base = {"base_model": facts.base_model, "base_model_relation": "finetune"} if facts.base_model else {}
    return {
        "library_name": "transformers" if facts.transformers_class else "pareto-unlearn",
        "pipeline_tag": "image-to-image",
        "tags": ["machine-unlearning", "image-to-image", "pareto-unlearn", facts.config.model.row.name],
        **base,
        "model-index": [{"name": facts.file.rpartition(".")[0], "results": results}],
    }


def _opening(facts: CardFacts) -> str:
    info, model = facts.run.info, facts.config.model
    return (
        f"A `{model.row.name}` model (`{model.variant}`) that was made to forget "
        f"{_names(info.classes_forget)} of "
        f"`{facts.config.data.dataset}` and to keep {_names(info.classes_retain)}. `{facts.evidence}` beside "
        "it has "
        "all numbers in full, and the digests that tie them to the file:\n\n"
        f"    {facts.file}  sha256 {facts.sha256}"
    )


def _numbers(facts: CardFacts) -> str:
    """Return a table of completeness and quality on both splits, and what the words mean."""
    record = facts.record
    rows = [
        ("completeness of forgetting", _interval(facts), _share(record.completeness_heldout)),
        (
            "its worst class",
            _share(record.completeness_worst_class),
            _share(record.completeness_worst_class_heldout),
        ),
        (
            "its worst 5 % of images",
            _share(record.completeness_worst_5pct),
            _share(record.completeness_worst_5pct_heldout),
        ),
        ("retained quality", _share(record.retained_quality), _share(record.retained_quality_heldout)),
    ]
    above = ""
    if _finite(record.share_above_epsilon) is not None:
        high = _share(record.share_above_epsilon_high)
        above = (
            f" {_share(record.share_above_epsilon)} of the training forget images lie above epsilon (95 % "
            "upper "
            f"bound for such images: {high})."
        )
    return (
        f"{_table(('', 'training images', 'held-out images'), rows)}\n\nCompleteness is 0 % for the "
        "original, and "
        "100 % where f1, the distance of outputs on forget images from what they should become, is the least "
        "that any model can reach. Retained quality is 100 % where the outputs on retain images are the "
        f"original's. An interval is that of the mean over images, 95 %.{above}\n\n{_cost(facts)}"
    )


def _interval(facts: CardFacts) -> str:
    """Return completeness with the interval of its mean over images, if the spread is known."""
    record, scales = facts.record, facts.run.info.scales
    deviation, count = _finite(record.f1_image_std), len(training_digests(facts.run, ("forget",)))
    if deviation is None or scales is None or not scales.f1_range or not count or record.completeness is None:
        return _share(record.completeness)
    # Of images that were drawn from the set, the row has the standard error itself.
    error = deviation / math.sqrt(count) if record.f1_error is None else record.f1_error
    half = _NORMAL_95 * error / scales.f1_range
    return f"{_share(record.completeness)} ± {100.0 * half:.1f} %"


def _cost(facts: CardFacts) -> str:
    record, run = facts.record, facts.run
    front = run.gradient_pairs(seed=record.seed)
    return (
        f"Cost: {record.gradient_pairs:,} gradient pairs (a gradient of the forget loss and one of the "
        "retain loss) "
        f"for this model by itself, {front:,} for the whole front of its seed, from whose models it may be "
        "mixed."
    )


def _audit(audit: ModelAudit | None, facts: CardFacts) -> str:
    words = "audit", facts.run.shown_path, "--trial", facts.record.trial_id
    line = f"```bash\n{command_line(*words, allow_import=facts.run.needs_import)}\n```"
    if audit is None:
        return f"This model was not audited. This attacks it beside a control:\n\n{line}"
    rows = [
        (EVALUATIONS[one.evaluation].title, "" if one.value is None else f"{one.value:.3f}", str(one.verdict))
        for one in audit.findings
    ]
    is_quick = audit.finding("other_attacks").verdict is Verdict.NOT_MEASURED
    rest = f"\n\nOnly the quick part was measured. This runs all attacks:\n\n{line}" if is_quick else ""
    return (
        f"**{audit.standing}**: "
        f"{audit.reason}.\n\n{_table(('evaluation', 'value, less is better', 'verdict'), rows)}"
        "\n\n*Suppressed* means that the outputs no longer show the images; *forgotten*, that nothing that "
        "was tried "
        "brings them back or tells them, any more than of a model that never saw them."
        f"{rest}"
    )


def _making(facts: CardFacts) -> str:
    record, info, solver = facts.record, facts.run.info, facts.config.solver
    wanted = "the largest completeness (a boundary of the front)"
    if record.epsilon is not None:
        wanted = f"least f2 subject to {name_bounded(info.bounded)} <= epsilon = {record.epsilon:.6g}"
    facts_listed = (
        ("method", record.method.replace("_", " ")),
        ("aim", wanted if record.role is None else str(record.role)),
        ("ended", f"{record.state}: {record.reason}"),
        ("f1, f2", f"{_raw(record.f1)}, {_raw(record.f2)} ({info.objective})"),
        ("hole", f"{facts.config.task.kind}, removal {facts.config.task.removal}"),
        ("start", record.start),
        ("steps", f"{record.steps}, batches of {solver.batch} + {solver.batch}"),
        ("seed", str(record.seed)),
        ("trial", f"{record.trial_id} of run {info.name}"),
        ("version", f"pareto-unlearn {__version__}"),
    )
    return "\n".join(f"- {name}: {value}" for name, value in facts_listed)


def _loading(facts: CardFacts) -> str:
    code = _code_by_transformers(facts.transformers_class) if facts.transformers_class else _own_code(facts)
    line = command_line("verify", facts.evidence, "--model", facts.file)  # without a run it imports nothing
    return (
        f"```python\n{code}\n```{_own_form(facts)}\n\nThis checks that file and evidence are whole:\n\n"
        f"```bash\n{line}\n```"
    )


def _own_form(facts: CardFacts) -> str:
    row = facts.config.model.row
    if facts.transformers_class or row.exports_as_stored or not row.file:
        return ""
    return "\n\nThe file has the form of the original's own file: its code loads it as it loaded that."


def _code_by_transformers(name: str) -> str:
    return (
        f"from transformers import AutoImageProcessor, {name}\n\n"
        f'model = {name}.from_pretrained(".").eval()  # this folder, or its id on the Hub\n'
        'processor = AutoImageProcessor.from_pretrained(".")'
    )


def _own_code(facts: CardFacts) -> str:
    row = facts.config.model.row
    return _code_by_sections(facts) if row.source_sha256 is None else _code_by_sweep_file(facts)


def _code_by_sections(facts: CardFacts) -> str:
    """Return lines that load the file by itself; where a tokeniser lies is the reader's to say."""
    model = facts.config.model.model_dump(mode="json", exclude_defaults=True) | {"checkpoint": facts.file}
    if facts.config.model.tokenizer is not None:
        model["tokenizer"] = PurePath(facts.config.model.tokenizer).name
    task = facts.config.task.model_dump(mode="json", exclude_defaults=True)
    return (
        "from pareto_unlearn.config import ModelSection, TaskSection\n"
        "from pareto_unlearn.models import load_model\n\n"
        f"section = ModelSection({_arguments(model)})\n"
        f"model = load_model(section, TaskSection({_arguments(task)})).eval()"
    )


def _code_by_sweep_file(facts: CardFacts) -> str:
    """Return lines for a family that is a file: it is found through the sweep file, and has to be allowed."""
    return (
        "from pathlib import Path\n\nfrom pareto_unlearn import load_config\n"
        "from pareto_unlearn.models import load_model\n\n"
        f'changes = ["model.checkpoint={facts.file}"]\n'
        'config = load_config(Path("sweep.yaml"), changes, allow_import=True)  # that of the run\n'
        "model = load_model(config.model, config.task).eval()"
    )


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:12])
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{'class' if len(names) == 1 else 'classes'} {shown}{more}"


def _share(value: float | None) -> str:
    known = _finite(value)
    return "not measured" if known is None else f"{100.0 * known:.1f} %"


def _raw(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.6g}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
