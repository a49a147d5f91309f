"""Read the data of the page from the store, partly as pandas frames, into one ``Report`` of plain data."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from pareto_unlearn.analysis.robustness import explain_gap, find_gains, find_gap, spread_of_ends
from pareto_unlearn.analysis.scores import median_scores
from pareto_unlearn.catalogue.audits import AUDIT
from pareto_unlearn.catalogue.methods import FIGURE_ORDER
from pareto_unlearn.config import ForgetImages
from pareto_unlearn.foreign_text import no_paths
from pareto_unlearn.records import Phase, RunInfo, Scales, TrialRecord, TrialState, name_bounded
from pareto_unlearn.report.audit_facts import gather_audit
from pareto_unlearn.report.charts import Embedding, FrontView
from pareto_unlearn.report.choice import choose
from pareto_unlearn.report.facts import EpsilonRange, Hypervolume, MethodScores, Report
from pareto_unlearn.report.lines import export_line, run_line
from pareto_unlearn.report.origin import gather_origin
from pareto_unlearn.report.progress import UNSCORED, gather_progress
from pareto_unlearn.report.seeds import front_band, seed_sliders
from pareto_unlearn.report.shown import choose_shown, find_wanted
from pareto_unlearn.report.solution import UNDRAWN, Kind, Measured, Solution, Split
from pareto_unlearn.report.veil import veil
from pareto_unlearn.report.verdict import doubt, verdict
from pareto_unlearn.report.views import (
    class_table,
    curve_places,
    curves,
    drawn_keys,
    finite,
    front_view,
    group,
    image_grid,
    metric_panels,
    placed,
)
from pareto_unlearn.store import StoredRun

if TYPE_CHECKING:
    import pandas as pd

STATE_ORDER = (
    TrialState.DONE,
    TrialState.INFEASIBLE,
    TrialState.UNCONVERGED,
    TrialState.DIVERGED,
    TrialState.FAILED,
    TrialState.INTERRUPTED,
    TrialState.STALE,
)
_KINDS = {
    Phase.ORIGINAL: Kind.ORIGINAL,
    Phase.BOUNDARY: Kind.BOUNDARY,
    Phase.EPSILON: Kind.EPSILON,
    Phase.CHECK: Kind.CHECK,
    Phase.CONTROL: Kind.CONTROL,
    Phase.HARDENED: Kind.HARDENED,
}


RETRIEVAL = "retrieval"
"""The evaluation of an audit that tells whether the original can do its task."""


def gather(
    run: StoredRun,
    sweep_file: str = "",
    forget_images: ForgetImages = ForgetImages.SHOWN,
    pictures: Sequence[str] = (),
) -> Report:
    """Return the data of the whole report.

    Args:
        run: a stored run; its records and tables hold the newest attempt of every trial.
        sweep_file: the text of the resolved sweep file; empty if the run has lost it.
        forget_images: how much of the forget images the page may hold.
        pictures: names of trials to show also in a run that is too large to show all.

    Raises:
        ConfigError: a name in ``pictures`` fits no trial or several.
    """
    records = run.records
    seeds = tuple(sorted({record.seed for record in records}))
    solutions = ordered(tuple(_solution(run, record, seeds) for record in records))
    fronts = tuple(_front(solutions, split, log) for split in Split for log in (False, True))
    columns = drawn_keys(solutions)
    slider = [key for key in columns if solutions[key].kind not in (Kind.BASELINE, Kind.CONTROL)]
    originals = [key for key in columns if solutions[key].kind is Kind.ORIGINAL]
    rows = _rows(run.metrics, solutions)
    metrics = [row for row in rows if row["protocol"] != AUDIT]
    info = run.info
    recommended, unheeded = choose(run, solutions)
    shown = choose_shown(solutions, columns, recommended, find_wanted(run, solutions, pictures))
    middle = slider[len(slider) // 2] if slider else (columns[0] if columns else None)
    return Report(
        name=info.name,
        smoke=info.smoke,
        verdict="".join(
            (
                verdict(solutions, recommended),
                doubt(*_retrieved(rows, originals)),
                _gap(records, info),
                _lost_parts(run),
                unheeded,
            )
        ),
        objective=info.objective,
        code_version=info.code_version,
        config_hash=info.config_hash,
        schema_version=info.schema_version,
        reference_point=info.reference_point,
        seeds=seeds,
        states=_states(solutions),
        steps=tuple(sorted({solutions[key].steps for key in columns} - {0})),
        protocols=tuple(sorted({str(row["protocol"]) for row in metrics})),
        classes_forget=info.classes_forget,
        classes_retain=info.classes_retain,
        ranges=_ranges(info),
        spread_of_ends=spread_of_ends(info.ranges, info.scales),
        hypervolumes=_hypervolumes(solutions, run),
        scores=_scores(solutions, run),
        gains=find_gains(records, info.scales),
        likeness=run.compare_with_retrained(),
        solutions=solutions,
        shown=shown,
        left_out=tuple(key for key in columns if key not in set(shown)),
        pictures_line=run_line(run, "report") + " --pictures",
        slider=tuple(slider),
        seed_sliders=seed_sliders(solutions, slider),
        start=middle if recommended is None else recommended.key,
        recommended=recommended,
        origin=gather_origin(run),
        progress=gather_progress(records, {one.trial_id for one in solutions if one.kind not in UNSCORED}),
        fronts=fronts,
        grid=image_grid(
            veil(_pictures(run, solutions, {*shown, *originals}), solutions, forget_images),
            shown,
            originals[0] if originals else None,
            (*info.classes_forget, *info.classes_retain),
        ),
        class_tables=tuple(class_table(metrics, split, columns, info.classes_forget) for split in Split),
        panels=metric_panels(metrics, solutions),
        audit=gather_audit(run, solutions),
        curves=curves(_curve_rows(run, solutions)),
        embeddings=_embeddings(run, solutions),
        trial_columns=tuple(field.name for field in fields(TrialRecord)),
        trial_rows=_trial_rows(records, solutions),
        sweep_file=sweep_file,
        forget_images=forget_images,
    )


def _retrieved(rows: Sequence[Mapping[str, Any]], originals: Sequence[int]) -> tuple[float | None, float]:
    """Return the least share of an original's pictures nearest to their own truth, and that of guesses."""
    for row in rows:
        if row["protocol"] == AUDIT and row["metric"] == RETRIEVAL and row["key"] in originals:
            return finite(row["low"]), 1.0 / max(row["n"], 1)
    return None, 0.0


def _front(solutions: Sequence[Solution], split: Split, logarithmic: bool) -> FrontView:
    band = front_band(solutions, placed(solutions, split))
    return replace(front_view(solutions, split, logarithmic), band=band)


def _embeddings(run: StoredRun, solutions: Sequence[Solution]) -> tuple[Embedding, ...]:
    """Return, for every trial, the pictures that have a finite place in the plane."""
    by_id = {record.trial_id: record for record in run.records}
    found = ((key, run.store.read_embedding(by_id[one.trial_id])) for key, one in enumerate(solutions))
    return tuple(
        Embedding(
            key=key,
            points=tuple(one for one in points if finite(one.x) is not None and finite(one.y) is not None),
        )
        for key, points in found
        if points
    )


def ordered(solutions: Sequence[Solution]) -> tuple[Solution, ...]:
    """Return the solutions in the order of the page: original, epsilon method, baselines, and the undrawn.

    Each method runs from lowest to highest completeness; its trials without a model follow, by epsilon.
    """

    def rank(solution: Solution) -> tuple[Any, ...]:
        method = solution.method
        place = FIGURE_ORDER.index(method) if method in FIGURE_ORDER else len(FIGURE_ORDER)
        completeness = finite(solution.train.completeness)
        return (
            solution.kind in UNDRAWN,
            place,
            method,
            not solution.has_model,
            completeness is None,
            completeness or 0.0,
            -(finite(solution.epsilon) or 0.0),
            solution.seed,
            solution.trial_id,
        )

    return tuple(sorted(solutions, key=rank))


def _requested(record: TrialRecord, scales: Scales | None) -> float | None:
    if record.phase is Phase.CHECK or record.epsilon is None or scales is None or not scales.f1_range:
        return None
    return None if record.reached != record.f1 else 1.0 - scales.normalised_f1(record.epsilon)


def _solution(run: StoredRun, record: TrialRecord, seeds: Sequence[int]) -> Solution:
    suffix = f" · seed {record.seed}" if len(seeds) > 1 and record.phase is not Phase.ORIGINAL else ""
    return Solution(
        trial_id=record.trial_id,
        attempt=record.attempt,
        label=record.label + suffix,
        kind=_KINDS.get(record.phase, Kind.BASELINE),
        method=record.method,
        seed=record.seed,
        state=record.state,
        reason=no_paths(record.reason, run.path),
        epsilon=record.epsilon,
        epsilon_fraction=record.epsilon_fraction,
        train=Measured(
            f1=record.f1,
            f2=record.f2,
            level=record.reached,
            completeness=record.completeness,
            worst_class=record.completeness_worst_class,
            worst_5pct=record.completeness_worst_5pct,
            retained_quality=record.retained_quality,
            requested=_requested(record, run.info.scales),
            f1_error=record.f1_error,
            f2_error=record.f2_error,
        ),
        heldout=Measured(
            f1=record.f1_heldout,
            f2=record.f2_heldout,
            level=record.f1_heldout if record.level_heldout is None else record.level_heldout,
            completeness=record.completeness_heldout,
            worst_class=record.completeness_worst_class_heldout,
            worst_5pct=record.completeness_worst_5pct_heldout,
            retained_quality=record.retained_quality_heldout,
            f1_error=record.f1_error_heldout,
            f2_error=record.f2_error_heldout,
        ),
        violation=record.violation,
        multiplier=record.multiplier,
        residual_multiplier=record.residual_multiplier,
        residual_norm_f1=record.residual_norm_f1,
        residual_norm_f2=record.residual_norm_f2,
        residual_cosine=record.residual_cosine,
        steps=record.steps,
        seconds=record.seconds,
        start=record.start,
        weights=record.checkpoint_sha256,
        export=export_line(run, record),
    )


def _rows(frame: "pd.DataFrame", solutions: Sequence[Solution]) -> list[dict[str, Any]]:
    """Return the rows, each with the index of its solution under ``key``.

    Rows of trials that ended after the records were read are left out.
    """
    keys = {(solution.trial_id, solution.attempt): key for key, solution in enumerate(solutions)}
    rows = cast("list[dict[str, Any]]", frame.to_dict("records"))
    known = ((row, keys.get((row["trial_id"], row["attempt"]))) for row in rows)
    return [row | {"key": key} for row, key in known if key is not None]


def _pictures(run: StoredRun, solutions: Sequence[Solution], shown: Set[int]) -> list[dict[str, Any]]:
    """Return the rows of the samples table that belong to models with these keys."""
    ids = [solutions[key].trial_id for key in shown]
    return _rows(run.samples[run.samples["trial_id"].isin(ids)], solutions)


def _curve_rows(run: StoredRun, solutions: Sequence[Solution]) -> list[dict[str, Any]]:
    """Return the rows of the table of curves that are drawn; the many others never leave the frame."""
    trial = ["trial_id", "attempt"]
    frame = run.curves.sort_values([*trial, "step"], ignore_index=True)
    counts = [int(count) for count in frame.groupby(trial).size()]
    starts = accumulate(counts, initial=0)
    places = [
        start + place for start, kept in zip(starts, curve_places(counts), strict=False) for place in kept
    ]
    return _rows(frame.iloc[places], solutions)


def _states(solutions: Sequence[Solution]) -> tuple[tuple[TrialState, int], ...]:
    counts = Counter(solution.state for solution in solutions)
    return tuple((state, counts[state]) for state in STATE_ORDER if counts[state])


def _lost_parts(run: StoredRun) -> str:
    """Return what a run has lost of its trials, in a sentence or two; empty if all is there."""
    lost, rows = run.store.rows.lost_parts(), run.store.rows.lost_rows()
    text = ""
    if lost:
        listed = ", ".join(f"{name} of {_count_trials(count)}" for name, count in sorted(lost.items()))
        text = f" Attention: files of trials are lost ({listed}), so what was in them is missing below."
    if rows and run.store.holder() is None:  # a sweep that runs writes the row last
        text += (
            f" Attention: {_count_trials(rows)} left files but no row, because a row was lost or its commit "
            "did not end; the sweep's own command runs it again."
        )
    return f"{text} `{run_line(run, 'store', 'check')}` names them." if text else ""


def _count_trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _gap(records: Sequence[TrialRecord], info: RunInfo) -> str:
    """Return a sentence on the gap between training and held-out images; empty if none, or in a smoke run."""
    found = None if info.smoke else find_gap(records)
    return "" if found is None else f" On this front, {explain_gap(found)}."


def _ranges(info: RunInfo) -> tuple[EpsilonRange, ...]:
    scales = info.scales
    return tuple(
        EpsilonRange(
            seed=one.seed,
            raw=(one.lower, one.upper),
            normalised=None
            if scales is None or not scales.f1_range
            else (scales.normalised_f1(one.lower), scales.normalised_f1(one.upper)),
            upper_source=one.upper_source,
            reason=one.reason,
            bounded=name_bounded(info.bounded),
        )
        for one in sorted(info.ranges, key=lambda one: one.seed)
    )


def _compared(solutions: Sequence[Solution]) -> dict[str, list[Solution]]:
    """Return the models of every method that is compared."""
    compared = (s for s in solutions if s.has_model and s.kind not in (Kind.ORIGINAL, Kind.CONTROL, *UNDRAWN))
    return group(compared, lambda s: s.method)


def _scores(solutions: Sequence[Solution], run: StoredRun) -> tuple[MethodScores, ...]:
    """Return every method's scores in fixed units."""
    found = []
    for method, models in _compared(solutions).items():
        seeds = sorted({model.seed for model in models})
        heldout, train = (
            median_scores([run.scores(method, seed, split) for seed in seeds])
            for split in ("heldout", "train")
        )
        found.append(
            MethodScores(
                method=method,
                heldout=heldout,
                train=train,
                gradient_pairs=tuple(run.gradient_pairs(method, seed) for seed in seeds),
                measuring_pairs=_measuring(run, method, seeds),
            )
        )
    return tuple(found)


def _measuring(run: StoredRun, method: str, seeds: Sequence[int]) -> tuple[float, ...]:
    """Return the cost of a method's measuring for each seed; empty if it is not known of every seed."""
    costs = [run.measuring_pairs(method, seed) for seed in seeds]
    known = tuple(cost for cost in costs if cost is not None)
    return known if len(known) == len(costs) else ()


def _hypervolumes(solutions: Sequence[Solution], run: StoredRun) -> tuple[Hypervolume, ...]:
    """Return every method's hypervolume by seed; empty before the reference point is fixed."""
    found = []
    for method, models in _compared(solutions).items():
        seeds = sorted({model.seed for model in models})
        values = [(seed, run.hypervolume(method, seed)) for seed in seeds]
        known = tuple((seed, value) for seed, value in values if value is not None)
        if known:
            found.append(
                Hypervolume(
                    method=method,
                    values=known,
                    gradient_pairs=tuple(run.gradient_pairs(method, seed) for seed, _ in known),
                    measuring_pairs=_measuring(run, method, [seed for seed, _ in known]),
                )
            )
    return tuple(found)


def _trial_rows(
    records: Sequence[TrialRecord], solutions: Sequence[Solution]
) -> tuple[tuple[str | float | int | None, ...], ...]:
    """Return all columns of all records, in the order of the solutions, for the downloads."""
    by_id = {record.trial_id: record for record in records}
    return tuple(
        tuple(
            str(value) if isinstance(value, str) else value
            for value in (getattr(by_id[solution.trial_id], field.name) for field in fields(TrialRecord))
        )
        for solution in solutions
    )
