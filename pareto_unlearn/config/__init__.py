"""The typed sweep file: reads YAML and returns a frozen, fully resolved ``SweepConfig``.

Only this package imports the YAML reader and the validator. It is light to import: no torch, Ray or pyarrow.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from pareto_unlearn.config.audit_policy import AuditPolicy, Limits, dump_policy, load_policy
from pareto_unlearn.config.budget import count_front_steps, known_slots, spend_budget
from pareto_unlearn.config.comparison_section import Baseline, ControlModel
from pareto_unlearn.config.data_section import DataSection, ProxySection
from pareto_unlearn.config.epsilon_section import SCHEDULES, AdaptiveEpsilon, GridEpsilon, ListEpsilon
from pareto_unlearn.config.identity import (
    TrialIds,
    config_hash,
    describe_difference,
    former_config_hashes,
    measuring_fields,
    result_fields,
    trial_id,
)
from pareto_unlearn.config.json_schema import make_json_schema
from pareto_unlearn.config.mask_text import open_mask_text
from pareto_unlearn.config.measurements import (
    Measurement,
    dropped_measurements,
    for_measuring,
    measurements_of,
)
from pareto_unlearn.config.model_section import (
    ALLOW_IMPORT,
    ModelSection,
    ObjectiveSection,
    SamplingSection,
    is_redrawn,
)
from pareto_unlearn.config.presets import fill_preset
from pareto_unlearn.config.problems import problems_of
from pareto_unlearn.config.report_section import ForgetImages, forget_images_of, subject_of
from pareto_unlearn.config.retired import drop_retired, refuse_retired
from pareto_unlearn.config.schema import EvaluateSection, RunSection, SweepConfig
from pareto_unlearn.config.smoke import as_smoke
from pareto_unlearn.config.solver_section import (
    BankSection,
    BoundarySection,
    BudgetSection,
    ControlSection,
    ConvergenceSection,
    HoldSection,
    LowestSection,
    PathSection,
    RelearningSection,
    SolverSection,
)
from pareto_unlearn.config.stored_family import names_family_file
from pareto_unlearn.config.task_section import TaskSection
from pareto_unlearn.config.yaml_source import (
    Document,
    apply_override,
    join_problems,
    read_document,
    read_text,
    to_yaml,
)

__all__ = [
    "AdaptiveEpsilon",
    "AuditPolicy",
    "BankSection",
    "Baseline",
    "BoundarySection",
    "BudgetSection",
    "ControlModel",
    "ControlSection",
    "ConvergenceSection",
    "DataSection",
    "EvaluateSection",
    "ForgetImages",
    "GridEpsilon",
    "HoldSection",
    "Limits",
    "ListEpsilon",
    "LowestSection",
    "Measurement",
    "ModelSection",
    "ObjectiveSection",
    "PathSection",
    "ProxySection",
    "RelearningSection",
    "RunSection",
    "SamplingSection",
    "SolverSection",
    "SweepConfig",
    "TaskSection",
    "TrialIds",
    "as_smoke",
    "config_hash",
    "count_front_steps",
    "describe_difference",
    "dropped_measurements",
    "dump_config",
    "dump_policy",
    "for_measuring",
    "forget_images_of",
    "former_config_hashes",
    "is_redrawn",
    "known_slots",
    "load_config",
    "load_policy",
    "make_json_schema",
    "measurements_of",
    "measuring_fields",
    "names_family_file",
    "open_mask_text",
    "parse_config",
    "result_fields",
    "subject_of",
    "trial_id",
]


def load_config(path: Path, overrides: Sequence[str] = (), *, allow_import: bool = False) -> SweepConfig:
    """Return the sweep of a file with its overrides, after checking all values and filling in all defaults.

    Args:
        path: the YAML file, at most 1 MB of UTF-8.
        overrides: texts ``key.path=value`` with values in YAML. The last of two for one key counts; a list is
            replaced as a whole. Overriding ``epsilon.schedule`` drops the file's keys of other schedules.
        allow_import: run the code of the file that ``model.family`` may name.

    Raises:
        ConfigError: lists all problems, one per line: place, key, expected value, found value.
    """
    return parse_config(read_text(path), str(path), overrides, allow_import=allow_import)


def parse_config(
    text: str, name: str, overrides: Sequence[str] = (), *, allow_import: bool = False, stored: bool = False
) -> SweepConfig:
    """Return the sweep of a text, as ``load_config`` does for a file; errors call the text ``name``.

    With ``stored`` it is the sweep of a run, which a former release may have made: its retired keys are left
    out. Anywhere else they are refused.
    """
    document = read_document(text, name)
    (drop_retired if stored else refuse_retired)(document)
    for number, override in enumerate(overrides):
        apply_override(document, override, number)
    _drop_other_schedules(document)
    fill_preset(document)
    problems, config = list(document.problems), None
    try:
        config = SweepConfig.model_validate(document.data, context={ALLOW_IMPORT: allow_import})
    except ValidationError as error:
        problems += problems_of(error, document)
    if problems or config is None:
        raise join_problems(problems)
    return spend_budget(config, document)


def dump_config(config: SweepConfig) -> str:
    """Return the resolved sweep as YAML, in the order of the schema; reading it returns an equal config."""
    return to_yaml(config.model_dump(mode="json"))


def _drop_other_schedules(document: Document) -> None:
    """Drop the file's keys of other schedules where an override chooses the schedule.

    So the override alone is enough to choose another schedule.
    """
    epsilon = document.data.get("epsilon")
    place = document.places.get(("epsilon", "schedule"))
    if place is None or not place.is_override or not isinstance(epsilon, dict):
        return
    chosen = SCHEDULES.get(str(epsilon["schedule"]))
    known = {key for section in SCHEDULES.values() for key in section.model_fields}
    for key in known - set(chosen.model_fields if chosen else known):
        if key in epsilon and not document.place_of(("epsilon", key)).is_override:
            del epsilon[key]
