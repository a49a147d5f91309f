"""Verbs of the command line for finished runs: which model to take, what it is worth, and the way out."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT
from pareto_unlearn.catalogue.metrics import published_keys_in_words, published_protocols_in_words
from pareto_unlearn.cli_arguments import (
    AllowImport,
    AsJson,
    RunPath,
    TrialName,
    TrialSeed,
    Weights,
    parse_digests,
    print_json,
)
from pareto_unlearn.commands import command_line


def pick(
    run: RunPath,
    knee: Annotated[
        bool, typer.Option("--knee", help="Take the knee of what is left, whatever else is asked for.")
    ] = False,
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--epsilon", help="At least as much forgotten as this fraction of the valid range asks."
        ),
    ] = None,
    min_quality: Annotated[
        float | None, typer.Option("--min-quality", help="Least retained quality, such as 0.98.")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Where quality is measured: heldout or train.")
    ] = "heldout",
    min_completeness: Annotated[
        float | None,
        typer.Option("--min-completeness", help="Least completeness of forgetting, such as 0.95."),
    ] = None,
    worst_class: Annotated[
        bool, typer.Option("--worst-class", help="--min-completeness bounds the class forgotten least.")
    ] = False,
    max_gap: Annotated[
        float | None,
        typer.Option(
            "--max-gap", help="Largest relearning gap (0: as if never seen), as `audit` measures it."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Only models of this seed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Pick one model: all criteria must hold, and of what is left the best in what they do not bound.

    Without criteria it is the recommended model, the knee of the held-out front. The choice is recorded in
    the run (pick.json), and its report is written again: it opens at this model. Exit code 3 if no model
    fits, with the nearest.
    """
    from pareto_unlearn.analysis.picking import Criteria
    from pareto_unlearn.finished.pick import pick_run
    from pareto_unlearn.report import write_report

    criteria = Criteria(
        knee=knee,
        epsilon=epsilon,
        min_quality=min_quality,
        split=split,
        min_completeness=min_completeness,
        worst_class=worst_class,
        max_gap=max_gap,
        seed=seed,
    )
    picked = pick_run(run, criteria)
    if as_json:
        print_json(picked.note | {"export": picked.command})
    else:
        print("\n".join(picked.lines()))
    _say(f"report {write_report(run)}")


def export(
    run: RunPath,
    out: Annotated[
        Path,
        typer.Argument(
            help="The file to write, with the suffix of the original's file (.pth, .ckpt) or .safetensors; a "
            "folder with --hub.",
            show_default=False,
        ),
    ],
    trial: TrialName = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--epsilon", help="Any epsilon, a fraction of the valid range: interpolate a model and verify it."
        ),
    ] = None,
    absolute: Annotated[bool, typer.Option("--absolute", help="Read --epsilon as raw f1.")] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="With --epsilon: the seed whose solutions are mixed.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="With --epsilon: the method whose solutions are mixed, ours or a baseline that left a whole "
            "front.",
        ),
    ] = EPSILON_CONSTRAINT,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    hub: Annotated[
        bool,
        typer.Option(
            "--hub",
            help="Write a folder for the Hugging Face Hub; transformers loads it if the family is mae.",
        ),
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="Id of the original on the Hugging Face Hub, for the card."),
    ] = None,
    sign_key: Annotated[
        Path | None, typer.Option("--sign-key", help="A private key in PEM: sign the evidence with it.")
    ] = None,
    cyclonedx: Annotated[
        bool, typer.Option("--cyclonedx", help="Write a bill of materials too (CycloneDX, model.cdx.json).")
    ] = False,
    allow_import: AllowImport = False,
) -> None:
    """Write an unlearned model, of a trial or of any epsilon, to a file in the form of the original's.

    Beside OUT, say model.safetensors, lie its card (model.card.md) and its evidence (model.evidence.json).
    """
    from pareto_unlearn.finished.shipping import Delivery, Wanted, ship

    if (trial is None) == (epsilon is None):
        raise typer.BadParameter("give either --trial NAME or --epsilon E")
    wanted = Wanted(trial=trial, epsilon=epsilon, absolute=absolute, seed=seed, method=method)
    delivery = Delivery(force=force, hub=hub, base_model=base_model, sign_key=sign_key, cyclonedx=cyclonedx)
    package, digest = ship(run, out, wanted, delivery, allow_import=allow_import, say=_say)
    print(f"{package.model} sha256 {digest}")
    if epsilon is not None:
        from pareto_unlearn.report import write_report

        _say(f"report {write_report(run)}")  # the dial has added a row
    evidence = package.evidence
    # Only with the run are the numbers compared, and whoever reads this line has it.
    words = "verify", evidence, "--model", package.model, "--run", run.rstrip("/")
    check = command_line(*words, allow_import=allow_import)
    _say(f"card {package.card}\nevidence {evidence}; check it: {check}")
    if cyclonedx:
        _say(f"bill of materials {package.bom}")
    if sign_key is not None:
        _say(f"signature {package.signature}; add --public-key PEM to check it too")


def verify(
    evidence: Annotated[
        Path, typer.Argument(help="The evidence file, model.evidence.json.", show_default=False)
    ],
    model: Annotated[Path, typer.Option("--model", help="The model file beside it.", show_default=False)],
    run: Annotated[
        str | None, typer.Option("--run", help="The run that it came from: compare all numbers with it.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key", help="A public key in PEM: the evidence must be signed with its private one."
        ),
    ] = None,
    allow_import: AllowImport = False,
    as_json: AsJson = False,
) -> None:
    """Compare a model and its evidence, line by line; exit code 1 if anything does not match."""
    from pareto_unlearn.finished.verifying import Outcome
    from pareto_unlearn.finished.verifying import verify as compare

    lines = compare(evidence, model, run, public_key, allow_import=allow_import)
    if as_json:
        print_json([asdict(line) for line in lines])
    else:
        for line in lines:
            print(f"{line.outcome:11}  {line.name}{f': {line.detail}' if line.detail else ''}")
    raise typer.Exit(1 if any(line.outcome is Outcome.MISMATCH for line in lines) else 0)


def purge_forget(
    run: RunPath,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove the pictures of the images to forget from a run, and say what stays.

    Gone are what its report shows of them, and the cache of inputs, targets and features, which is made again
    from the images by whatever needs it. Models, numbers and the list of images stay, and so does a folder of
    decoded pixels that the sweep shares with others (data.cache_folder), which is named.
    """
    from pareto_unlearn.finished.purge import purge_forget as purge
    from pareto_unlearn.report import write_report

    if not yes:
        typer.confirm(f"Remove the pictures of the images to forget from {run}?", abort=True)
    purged = purge(run)
    print(f"removed {purged.pictures} pictures and {purged.cache_bytes / 1e6:.1f} MB of caches")
    print("What stays:")
    for line in purged.remains:
        print(f"- {line}")
    _say(f"report {write_report(run)}")


def evaluate(
    run: RunPath,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help=f"Any of {published_keys_in_words()}; default: all.",
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help=f"{published_protocols_in_words()}.")
    ] = "standard",
    weights: Weights = None,
    weights_sha256: Annotated[
        list[str] | None,
        typer.Option(
            "--weights-sha256",
            metavar="NAME=HEX",
            help="SHA-256 of a weights file whose publisher names none; may be repeated.",
        ),
    ] = None,
    trial: TrialName = None,
    seed: TrialSeed = None,
    allow_import: AllowImport = False,
    as_json: AsJson = False,
) -> None:
    """Measure published metrics of a finished run from its checkpoints, and write its report again."""
    from pareto_unlearn.finished.rescore import rescore
    from pareto_unlearn.report import write_report

    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    rows = rescore(
        run,
        protocol,
        names,
        weights=weights,
        weights_sha256=parse_digests(weights_sha256 or []),
        trial=trial,
        seed=seed,
        allow_import=allow_import,
        say=_say,
    )
    if as_json:
        print_json([{"trial_id": record.trial_id, **asdict(row)} for record, row in rows])
    else:
        for record, row in rows:
            print(f"{record.trial_id} {row.set} {row.metric} {row.protocol} {row.value:.6g} n={row.n}")
    _say(f"report {write_report(run)}")


def audit(
    run: Annotated[
        str | None, typer.Argument(help="The run directory, e.g. runs/quickstart.", show_default=False)
    ] = None,
    trial: TrialName = None,
    seed: TrialSeed = None,
    every: Annotated[
        bool, typer.Option("--all", help="Audit the baselines too, not only the run's own solutions.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only what the sweep measures of every model, no further attack.")
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="A YAML file of thresholds in place of the built-in ones."),
    ] = None,
    print_policy: Annotated[
        bool, typer.Option("--print-policy", help="Print the thresholds as YAML and stop.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            help="Models audited side by side; one for each free core if not given, one on a GPU.",
        ),
    ] = None,
    allow_import: AllowImport = False,
    as_json: AsJson = False,
) -> None:
    """Attack the models of a finished run: is what they forgot gone, or only hidden?"""
    from pareto_unlearn.config import dump_policy, load_policy

    thresholds = load_policy(policy)
    if print_policy:
        print(dump_policy(thresholds), end="")
        return
    if run is None:
        raise typer.BadParameter("expected a run directory, found none")
    if trial is not None and every:
        raise typer.BadParameter("give either --trial NAME or --all")
    from pareto_unlearn.analysis.naming import find_trial
    from pareto_unlearn.finished.audit import audit_run
    from pareto_unlearn.report import describe, write_audit, write_report
    from pareto_unlearn.store import open_run

    found = audit_run(
        run,
        thresholds,
        trial=trial,
        seed=seed,
        every=every,
        quick=quick,
        jobs=jobs,
        allow_import=allow_import,
        say=_say,
    )
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        print(write_audit(found), end="")
        named = None if trial is None else find_trial(open_run(run).records, trial, seed).trial_id
        for one in found:
            if one.trial_id == named:
                print("\n".join(describe(one)))
    _say(f"report {write_report(run)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
