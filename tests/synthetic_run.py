"""A stored run as a real sweep would leave it, made without training; numbers follow a measured front.

Real digits with a hole, outputs that fade with completeness, one infeasible, one unconverged, one diverged
and one failed trial, and a baseline far outside the picture.
"""

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

from pareto_unlearn.records import (
    HAS_MODEL,
    SCHEMA_VERSION,
    CurveRow,
    MetricRow,
    Phase,
    Role,
    RunInfo,
    SampleRow,
    Scales,
    TrialRecord,
    TrialResult,
    TrialState,
    ValidRange,
)
from pareto_unlearn.store import RunStore

FORGET = ("0", "1", "2", "3", "4")
RETAIN = ("5", "6", "7", "8", "9")
SCALES = Scales(
    f1_floor=0.525,
    f1_original=1.449,
    variance_retain=0.385,
    f1_floor_heldout=0.527,
    f1_original_heldout=1.431,
    variance_retain_heldout=0.379,
)
FRACTIONS = (0.03, 0.07, 0.14, 0.25, 0.41, 0.6, 0.8)
SWEEP_FILE = (
    "name: digits\nseed: 0\nmodel: {family: digits_mae, checkpoint: builtin}\ndata: {dataset: digits}\n"
    "solver: {steps: 400, batch: 32}\n"
)
# How strongly each forget class clings: the exponent of e, so the mean hides that digit 3 stays.
_CLING = {"0": 1.5, "1": 1.1, "2": 1.9, "3": 0.35, "4": 1.3}


@dataclass(frozen=True)
class Planned:
    """One trial to be made up: where it lands (e, quality loss) and how it ended."""

    phase: Phase
    method: str
    e: float
    loss: float
    role: Role | None = None
    fraction: float | None = None
    weight: float | None = None
    state: TrialState = TrialState.DONE
    reason: str = ""
    seed: int = 0


def front_loss(e: float) -> float:
    """The quality loss of the epsilon method at a normalised f1, as measured: steep near the floor."""
    return 0.0032 * (1.0 - e) / (e + 0.06) ** 0.8


def epsilon_range() -> ValidRange:
    return ValidRange(
        seed=0,
        lower=SCALES.f1_floor + 0.026 * SCALES.f1_range,
        upper=SCALES.f1_original,
        upper_source="original",
        reason="The lowest boundary ended at f1 0.61, dominated by the highest one, so it cannot bound the "
        "range.",
    )


def planned_trials(seed: int = 0) -> list[Planned]:
    """The trials of one seed, in no helpful order."""
    valid = epsilon_range()
    shift = 1.0 + 0.05 * seed
    trials = [Planned(Phase.ORIGINAL, "original", 1.0, 0.0)] if seed == 0 else []
    epsilon = "epsilon_constraint"
    for fraction in FRACTIONS:
        asked = SCALES.normalised_f1(valid.epsilon_at(fraction))
        reached = asked - 0.006 * math.cos(7.0 * fraction) if fraction != 0.41 else asked + 0.035
        state = TrialState.INFEASIBLE if fraction == 0.41 else TrialState.DONE
        reason = (
            "f1 stayed above epsilon by more than the tolerance"
            if fraction == 0.41
            else "f1 is at or below epsilon"
        )
        trials.append(
            Planned(
                Phase.EPSILON,
                epsilon,
                reached,
                shift * front_loss(reached),
                fraction=fraction,
                state=state,
                reason=reason,
                seed=seed,
            )
        )
    trials += [
        Planned(
            Phase.BOUNDARY,
            epsilon,
            0.012,
            shift * 0.0612,
            role=Role.HIGHEST,
            reason="the objectives stopped moving",
            seed=seed,
        ),
        Planned(
            Phase.BOUNDARY,
            epsilon,
            0.092,
            shift * 0.044,
            role=Role.LOWEST,
            state=TrialState.UNCONVERGED,
            reason="f1 still moved by 2 % over the last tenth of the steps",
            seed=seed,
        ),
        Planned(
            Phase.EPSILON,
            epsilon,
            math.nan,
            math.nan,
            fraction=0.9,
            state=TrialState.DIVERGED,
            reason="f2 was not finite at step 57",
            seed=seed,
        ),
        Planned(
            Phase.BASELINE,
            "noisy_label",
            math.nan,
            math.nan,
            state=TrialState.FAILED,
            reason="OutOfMemoryError: 2.1 GiB asked for, 1.4 GiB free; make the batch smaller",
            seed=seed,
        ),
        Planned(Phase.BASELINE, "max_loss", 41.3, 8.7, reason="all steps were taken", seed=seed),
    ]
    for weight, e in zip(
        (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), (0.985, 0.94, 0.79, 0.37, 0.11, 0.031, 0.009), strict=True
    ):
        loss = shift * front_loss(e) * (1.25 if weight < 1 else 1.05)
        trials.append(
            Planned(
                Phase.BASELINE, "composite", e, loss, weight=weight, reason="all steps were taken", seed=seed
            )
        )
    return trials


def trial_id(plan: Planned) -> str:
    return hashlib.sha256(repr(plan).encode()).hexdigest()[:16]


def _record(plan: Planned, steps: int) -> TrialRecord:
    e, loss = plan.e, plan.loss
    epsilon = None if plan.fraction is None else epsilon_range().epsilon_at(plan.fraction)
    f1, f2 = SCALES.f1_floor + e * SCALES.f1_range, loss * SCALES.variance_retain
    heldout_e, heldout_loss = e + 0.03 * (1.0 - e), loss * 1.4
    worst = min(1.0 - e ** _CLING["3"], 1.0 - e) if e <= 1.0 else 1.0 - e
    measured = TrialRecord(
        trial_id=trial_id(plan),
        attempt=1,
        phase=plan.phase,
        role=plan.role,
        method=plan.method,
        seed=plan.seed,
        start="original",
        state=plan.state,
        reason=plan.reason,
        epsilon=epsilon,
        epsilon_fraction=plan.fraction,
        weight=plan.weight,
        f1=f1,
        f2=f2,
        f1_heldout=SCALES.f1_floor_heldout + heldout_e * 0.904,
        f2_heldout=heldout_loss * SCALES.variance_retain_heldout,
        e=e,
        e_heldout=heldout_e,
        completeness=1.0 - e,
        completeness_worst_class=worst,
        completeness_worst_5pct=worst - 0.08 if e < 1.0 else worst,
        completeness_heldout=1.0 - heldout_e,
        completeness_worst_class_heldout=worst - 0.02,
        completeness_worst_5pct_heldout=worst - 0.11,
        retained_quality=1.0 - loss,
        retained_quality_heldout=1.0 - heldout_loss,
        violation=None if epsilon is None else max(0.0, f1 - epsilon),
        multiplier=None if plan.method != "epsilon_constraint" else 0.02 / max(e, 0.01),
        residual_multiplier=0.019 / max(e, 0.01),
        residual_norm_f1=0.31,
        residual_norm_f2=0.012,
        residual_cosine=-0.62,
        steps=0 if plan.phase is Phase.ORIGINAL else steps,
        gradient_pairs=steps,
        measuring_pairs=0.0 if epsilon is None else steps / 8,
        seconds=None if plan.phase is Phase.ORIGINAL else 6.4 + 0.1 * len(plan.reason),
        images_per_second=4100.0,
        num_parameters=20272,
        code_version="0.1.0",
    )
    if plan.state in HAS_MODEL:
        return measured
    fields = [
        "f1_heldout",
        "f2_heldout",
        "e_heldout",
        "completeness_worst_class",
        "completeness_worst_5pct",
        "completeness_heldout",
        "completeness_worst_class_heldout",
        "completeness_worst_5pct_heldout",
        "retained_quality",
        "retained_quality_heldout",
        "completeness",
        "e",
    ]
    blank = None if plan.state is TrialState.FAILED else math.nan
    return replace(measured, f1=blank, f2=blank, violation=blank, steps=57, **dict.fromkeys(fields))


def _curves(plan: Planned, steps: int) -> tuple[CurveRow, ...]:
    if plan.phase is Phase.ORIGINAL or plan.state is TrialState.FAILED:
        return ()
    noise = np.random.default_rng(int(trial_id(plan), 16) % 2**32)
    valid, rows = epsilon_range(), []
    goal = plan.e if math.isfinite(plan.e) else 0.9
    last = steps if math.isfinite(plan.e) else 57
    for step in range(0, last, 2):
        done = 1.0 - math.exp(-5.0 * step / steps)
        e = 1.0 + (goal - 1.0) * done + noise.normal(0.0, 0.02)
        loss = (
            (plan.loss if math.isfinite(plan.loss) else 0.02)
            * (1.0 + 1.5 * math.exp(-4.0 * step / steps))
            * done
        )
        broken = step >= 56 and last == 57
        rows.append(
            CurveRow(
                step=step,
                f1=math.nan if broken else SCALES.f1_floor + e * SCALES.f1_range,
                f2=math.nan if broken else 0.385 * loss * (1.0 + noise.normal(0.0, 0.12)),
                multiplier=0.1 * done,
                control=0.0,
                gradient_norm_f1=0.4,
                gradient_norm_f2=0.02,
                cosine=-0.5,
                learning_rate=0.006 * (1.0 - step / steps),
                epsilon=None if plan.fraction is None else valid.epsilon_at(plan.fraction),
                images_per_second=None,
            )
        )
    return tuple(rows)


def class_completeness(plan: Planned, name: str) -> float:
    """How completely one forget class is gone: class 3 clings, and more so the higher epsilon is."""
    return 1.0 - (plan.e ** _CLING[name] if plan.e <= 1.0 else plan.e)


def _metrics(plan: Planned) -> tuple[MetricRow, ...]:
    gone, loss = min(max(1.0 - plan.e, 0.0), 1.0), min(plan.loss, 1.0)
    wobble = 0.06 * math.sin(31.0 * plan.e)
    values = {
        ("frechet_distance", "builtin", "forget"): 2.5 + 118.0 * gone**1.3 * (1 + wobble),
        ("frechet_distance", "builtin", "retain"): 2.1 + 70.0 * loss * (1 + 3 * wobble),
        ("inception_score", "builtin", "forget"): 4.6 - 2.7 * gone**2 + 2 * wobble * gone,
        ("inception_score", "builtin", "retain"): 4.7 - 4.0 * loss + wobble,
        ("embedding_cosine", "builtin", "forget"): 0.985 - 0.33 * gone**1.5,
        ("embedding_cosine", "builtin", "retain"): 0.991 - 0.3 * loss + 0.02 * wobble,
        ("mse_hole", "pixel", "forget"): 0.006 + 0.05 * gone**1.2,
        ("mse_hole", "pixel", "retain"): 0.0055 + 0.02 * loss,
        ("psnr_hole", "pixel", "forget"): -10.0 * math.log10(0.006 + 0.05 * gone**1.2),
        ("psnr_hole", "pixel", "retain"): -10.0 * math.log10(0.0055 + 0.02 * loss),
    }
    rows = [
        MetricRow(set=of, split="heldout", metric=metric, protocol=protocol, value=value, n=180)
        for (metric, protocol, of), value in values.items()
    ]
    for split, gap in (("train", 0.0), ("heldout", 0.03)):
        rows += [
            MetricRow(
                set="forget",
                split=split,
                metric="completeness",
                protocol="objective",
                value=class_completeness(plan, name) - gap,
                n=146,
                class_name=name,
            )
            for name in FORGET
        ]
    return tuple(rows)


@cache
def _digits() -> tuple[np.ndarray, ...]:
    """One real digit a class, 16x16, values 0 to 1."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    first = [images[np.flatnonzero(labels == digit)[3]].reshape(8, 8) / 16.0 for digit in range(10)]
    return tuple(
        np.asarray(Image.fromarray((255 * image).astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC))
        / 255.0
        for image in first
    )


def _webp(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)).convert("RGB").save(
        buffer, "WEBP", lossless=True
    )
    return buffer.getvalue()


def _samples(plan: Planned) -> tuple[SampleRow, ...]:
    noise = np.random.default_rng(5)
    rows = []
    for digit, truth in enumerate(_digits()):
        name = str(digit)
        of = "forget" if name in FORGET else "retain"
        lost = class_completeness(plan, name) if of == "forget" else 3.0 * min(plan.loss, 0.3)
        lost = min(max(abs(lost) if plan.method == "max_loss" else lost, 0.0), 1.0)
        output = truth + noise.normal(0.0, 0.03, truth.shape)
        output[4:12, 4:12] = (1.0 - lost) * output[4:12, 4:12] + lost * (
            0.38 + noise.normal(0.0, 0.05, (8, 8))
        )
        hole = truth.copy()
        hole[4:12, 4:12] = 0.5
        kinds = {"output": output} | ({"input": hole, "truth": truth} if plan.phase is Phase.ORIGINAL else {})
        rows += [
            SampleRow(
                set=of,
                image_id=f"digits-{digit:04d}",
                class_name=name,
                kind=kind,
                image=_webp(image),
                width=16,
                height=16,
            )
            for kind, image in kinds.items()
        ]
    return tuple(rows)


def synthetic_result(plan: Planned, steps: int = 400) -> TrialResult:
    """What one made-up trial would hand to the store."""
    record, modelled = _record(plan, steps), plan.state in HAS_MODEL
    return TrialResult(
        record=record,
        curves=_curves(plan, steps),
        metrics=_metrics(plan) if modelled else (),
        samples=_samples(plan) if modelled else (),
        files={"model.safetensors": record.trial_id.encode()} if modelled else {},
    )


def synthetic_info(name: str = "digits") -> RunInfo:
    return RunInfo(
        name=name,
        schema_version=SCHEMA_VERSION,
        code_version="0.1.0",
        config_hash="9f1c5a70e2d3",
        objective="mean squared error of the whole output",
        classes_forget=FORGET,
        classes_retain=RETAIN,
        scales=SCALES,
        ranges=(epsilon_range(),),
        reference_point=(SCALES.f1_original, 0.06),
    )


def write_run(
    storage: str,
    results: Sequence[TrialResult] | None = None,
    info: RunInfo | None = None,
    sweep_file: str = SWEEP_FILE,
) -> str:
    """Commit results (all trials of seed 0 unless given) and return the path of the run."""
    known = synthetic_info() if info is None else info
    store = RunStore.create(storage, "digits")
    store.write_info(known)
    store.write_text("sweep.yaml", sweep_file)
    for result in [synthetic_result(plan) for plan in planned_trials()] if results is None else results:
        store.commit(result)
    return store.path
