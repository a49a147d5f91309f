"""The last section: where the numbers came from, what they cost, and what is first-order evidence only."""

from pareto_unlearn.analysis.robustness import StepGain
from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.fragments import section, state_badge, text
from pareto_unlearn.report.words import (
    GAINS_NOTE,
    GLOSSARY,
    NO_GAINS_NOTE,
    NONE,
    RESIDUAL_NOTE,
    STATE_MEANINGS,
    number,
    share,
)

NOT_STORED = "not stored in this run"


def _costs(report: Report) -> str:
    """Return a table of what each phase took: trials, gradient pairs, measuring, seconds."""
    heads = ("phase", "trials", "gradient pairs", "measuring, in pairs", "seconds of all workers")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "".join(
        f'<tr><th scope="row">{text(one.phase)}</th><td>{one.trials}</td><td>{one.gradient_pairs:,}</td>'
        f"<td>{NONE if one.measuring_pairs is None else f'{one.measuring_pairs:,.0f}'}</td>"
        f"<td>{one.seconds:,.0f}</td></tr>"
        for one in report.origin.spent
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="What the run cost">'
        f'<table class="gains"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _gain_row(one: StepGain, num_seeds: int) -> str:
    seed = f" · seed {one.checked.seed}" if num_seeds > 1 else ""
    cells = (
        f"{one.checked.steps:,}",
        number(one.checked.f2),
        f"{one.doubled.steps:,}",
        number(one.doubled.f2),
        f"<b>{share(one.gain)}</b>",
        share(one.f1_change, 2),
    )
    return (
        f'<tr><th scope="row">{text(one.checked.label)}{seed}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}"
        f"<td>{state_badge(one.doubled.state, one.doubled.state.lower())}</td></tr>"
    )


def _gains(report: Report) -> str:
    """Return a table of gains from twice the steps, or the command that checks them if none are stored."""
    if not report.gains:
        return f'<p class="prose">{text(NO_GAINS_NOTE)}</p>'
    heads = ("trial", "steps", "f2", "doubled", "f2", "gain in f2", "change of f1", "ended")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "".join(_gain_row(one, len(report.seeds)) for one in report.gains)
    return (
        f'<p class="prose">{text(GAINS_NOTE)}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Gain when the steps are doubled">'
        f'<table class="gains"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def provenance(report: Report) -> str:
    """Return the facts needed to trust and repeat the run."""
    origin = report.origin
    facts = [
        ("run", report.name),
        ("started", origin.started or NOT_STORED),
        ("versions", origin.versions or f"pareto-unlearn {report.code_version}"),
        ("device", ", ".join(origin.devices) or NOT_STORED),
        ("SHA-256 of the weights", origin.weights_sha256 or NOT_STORED),
        ("SHA-256 of manifest.csv", origin.manifest_sha256 or NOT_STORED),
        ("config hash", report.config_hash),
        ("schema version", report.schema_version),
        ("seeds", ", ".join(str(seed) for seed in report.seeds)),
        ("steps a trial", ", ".join(str(steps) for steps in report.steps) or NONE),
        ("images", "; ".join(f"{name} {amount:,}" for name, amount in origin.images) or NOT_STORED),
    ]
    listed = "".join(
        f"<div><dt>{term}</dt><dd><code>{text(value)}</code></dd></div>" for term, value in facts
    )
    terms = "".join(f"<div><dt>{text(term)}</dt><dd>{text(meaning)}</dd></div>" for term, meaning in GLOSSARY)
    sweep = (
        f"<details><summary>sweep.yaml</summary><pre>{text(report.sweep_file)}</pre></details>"
        if report.sweep_file
        else ""
    )
    states = "".join(
        f"<div><dt>{state_badge(state, state.value)}</dt><dd>{text(STATE_MEANINGS.get(state, ''))}</dd></div>"
        for state, _ in report.states
    )
    body = (
        f'<dl class="provenance">{listed}</dl><h3>What it cost</h3>{_costs(report)}'
        f"<h3>Gain in f2 when the steps are doubled</h3>{_gains(report)}<h3>First-order residuals</h3>"
        f'<p class="prose">{text(RESIDUAL_NOTE)}</p>{sweep}'
        f'<details open><summary>Words</summary><dl class="glossary">{terms}{states}</dl></details>'
    )
    return section(
        "provenance",
        "Provenance",
        "What this page was made from: the store of the run and nothing else.",
        body,
    )
