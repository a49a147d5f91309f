"""The policy of an audit: thresholds that turn figures into verdicts, from a file that a user can replace."""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from pareto_unlearn.config.value_types import Section
from pareto_unlearn.config.wording import found
from pareto_unlearn.config.yaml_source import (
    Document,
    FileProblem,
    join_problems,
    read_document,
    read_text,
    to_yaml,
)


class Limits(Section):
    """Two thresholds of a figure of which less is better."""

    passed: float = Field(ge=0, description="PASSED up to this value")
    warned: float = Field(ge=0, description="WARNED up to this value, FAILED above")


class AuditPolicy(Section):
    """What counts as passed. Distances from .5 count both sides: too large an error gives away as well."""

    suppressed: float = Field(
        default=0.9, ge=0, le=1, description="completeness from which outputs count as suppressed"
    )
    least_relearned: float = Field(
        default=0.5,
        ge=0,
        description="NO BASELINE where the control's error after the attacks is no more than the original's "
        "by this share: then there is nothing to bring back",
    )
    relearning_gap: Limits = Limits(passed=0.1, warned=0.25)
    other_attacks: Limits = Limits(passed=0.1, warned=0.25)
    membership: Limits = Field(
        default=Limits(passed=0.05, warned=0.1), description="distance of the AUC from .5"
    )
    membership_retain: Limits = Field(
        default=Limits(passed=0.02, warned=0.05),
        description="how much further from .5 the AUC is than the original's",
    )
    give_away_strangers: Limits = Field(
        default=Limits(passed=0.05, warned=0.1), description="distance of the AUC from .5"
    )
    give_away_retain: Limits = Field(
        default=Limits(passed=0.1, warned=0.2),
        description="how much further from .5 the AUC is than the control's",
    )
    give_away_bystanders: Limits = Field(
        default=Limits(passed=0.1, warned=0.2),
        description="how much further from .5 the AUC is than the control's",
    )
    bystanders: Limits = Field(
        default=Limits(passed=0.1, warned=0.5), description="by which share the error exceeds the original's"
    )
    retrieval: Limits = Field(
        default=Limits(passed=0.0, warned=0.05),
        description="how far the share lies above the control's interval",
    )
    worst_images: Limits = Field(
        default=Limits(passed=0.01, warned=0.05),
        description="share of the images to forget",
    )
    features: Limits = Field(
        default=Limits(passed=0.05, warned=0.15),
        description="how much more is read from the features than from the control's, as a share",
    )
    closeness: Limits = Field(
        default=Limits(passed=0.5, warned=1.0), description="rho, a quotient of mean squared distances"
    )
    klom: Limits = Field(
        default=Limits(passed=0.5, warned=2.0),
        description="nats beyond what models that change sides are apart",
    )


def load_policy(path: Path | None) -> AuditPolicy:
    """Return the policy of a YAML file; its keys replace the defaults. None: the defaults.

    Raises:
        ConfigError: the file is missing, or has unknown keys or impossible values.
    """
    if path is None:
        return AuditPolicy()
    document = read_document(read_text(path), str(path))
    problems = list(document.problems)
    try:
        policy = AuditPolicy.model_validate(document.data)
    except ValidationError as error:
        problems += [_problem(details, document) for details in error.errors()]
    if problems:
        raise join_problems(problems)
    return policy


def dump_policy(policy: AuditPolicy) -> str:
    """Return the policy as YAML; reading it returns an equal one."""
    return to_yaml(policy.model_dump(mode="json"))


def _problem(details: ErrorDetails, document: Document) -> FileProblem:
    path = tuple(details["loc"])
    if details["type"] == "extra_forbidden":
        text = f"unknown key; the keys are {', '.join(AuditPolicy.model_fields)}"
    else:
        text = f"{details['msg']}, found {found(details['input'])}"
    return FileProblem(document.place_of(path), path, text)
