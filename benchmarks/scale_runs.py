"""Made-up runs of any number of trials, as a sweep would leave them: what large stores are measured on.

`uv run python benchmarks/scale_runs.py 10000 runs/scale` writes one. Nothing is trained: the rows follow a
measured front, the curves its course, and the pictures are real digits that fade.
"""

import argparse
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, ORIGINAL
from pareto_unlearn.records import (
    MODEL_FILE,
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
from pareto_unlearn.store.filesystem import Disk, LocalStorage

NAME = "scale"
SCALES = Scales(
    f1_floor=0.525,
    f1_original=1.449,
    variance_retain=0.385,
    f1_floor_heldout=0.527,
    f1_original_heldout=1.431,
    variance_retain_heldout=0.379,
)
STEPS, CURVE_POINTS = 400, 200
LOWER_E = 0.026
TRIALS_OF_SEED = 1000
"""Two boundaries and the original are among them; the others are a grid of epsilons."""


class HastyDisk(Disk):
    """Flushes nothing: a run that is made up may be made again."""

    def create(self, path: Path, data: bytes) -> None:
        """Write a new file."""
        path.write_bytes(data)

    def sync_directory(self, path: Path) -> None:
        """Do nothing."""


def sweep_file(trials: int) -> str:
    """Return the sweep file of a run of so many trials."""
    seeds, points = _shape(trials)
    content = {
        "name": NAME,
        "seeds": list(range(seeds)),
        "model": {"family": "digits_mae", "checkpoint": "builtin"},
        "data": {"dataset": "digits", "forget_classes": 5},
        "solver": {"steps": STEPS, "batch": 32},
        "epsilon": {"schedule": "grid", "points": points},
        "controls": [],
    }
    return yaml.safe_dump(content, sort_keys=False)


def write_run(trials: int, folder: str) -> str:
    """Write a run of so many trials, one file per trial and table, and return its path.

    Args:
        trials: a thousand of each seed, or fewer of one seed.
        folder: where to make the run's directory.
    """
    RunStore.create(folder, NAME)
    root = (Path(folder) / NAME).absolute()
    store = RunStore(str(root), LocalStorage(root, HastyDisk()))
    seeds, points = _shape(trials)
    store.write_text("sweep.yaml", sweep_file(trials))
    store.write_text("scales.json", json.dumps(asdict(SCALES)))
    for seed in range(seeds):
        for result in _results(seed, points):
            store.commit(result)
    store.write_info(_info(seeds))
    return store.path


def _shape(trials: int) -> tuple[int, int]:
    """Return the number of seeds and of epsilons of each."""
    seeds = max(1, trials // TRIALS_OF_SEED)
    return seeds, trials // seeds - 3


def _valid_range(seed: int) -> ValidRange:
    return ValidRange(
        seed=seed,
        lower=SCALES.f1_floor + LOWER_E * SCALES.f1_range,
        upper=SCALES.f1_original,
        upper_source="original",
        reason="the lowest boundary is dominated by the highest",
    )


def _info(seeds: int) -> RunInfo:
    return RunInfo(
        name=NAME,
        schema_version=SCHEMA_VERSION,
        code_version="0.1.0",
        config_hash="9f1c5a70e2d3",
        objective="mean squared error of the whole output",
        classes_forget=("0", "1", "2", "3", "4"),
        classes_retain=("5", "6", "7", "8", "9"),
        scales=SCALES,
        ranges=tuple(_valid_range(seed) for seed in range(seeds)),
        reference_point=(SCALES.f1_original, 0.06),
    )


def _results(seed: int, points: int) -> Iterator[TrialResult]:
    valid = _valid_range(seed)
    draws = np.random.default_rng(seed)
    yield _result(seed, Phase.ORIGINAL, 1.0, draws)
    yield _result(seed, Phase.BOUNDARY, LOWER_E, draws, role=Role.HIGHEST)
    yield _result(seed, Phase.BOUNDARY, 0.09, draws, role=Role.LOWEST)
    for place in range(points):
        fraction = (place + 1) / (points + 1)
        e = SCALES.normalised_f1(valid.epsilon_at(fraction))
        yield _result(seed, Phase.EPSILON, e, draws, fraction=fraction)


def _result(
    seed: int,
    phase: Phase,
    e: float,
    draws: np.random.Generator,
    *,
    role: Role | None = None,
    fraction: float | None = None,
) -> TrialResult:
    trial_id = hashlib.sha256(repr((seed, phase, role, fraction)).encode()).hexdigest()[:16]
    e *= 1.0 if fraction is None else 1.0 + draws.normal(0.0, 0.004)
    loss = 0.0032 * (1.0 - e) / (e + 0.06) ** 0.8
    epsilon = None if fraction is None else _valid_range(seed).epsilon_at(fraction)
    numbers = draws.random(8)
    record = TrialRecord(
        trial_id=trial_id,
        attempt=1,
        phase=phase,
        role=role,
        method=ORIGINAL if phase is Phase.ORIGINAL else EPSILON_CONSTRAINT,
        seed=seed,
        start="original",
        # So that the range ends at the original, which `_valid_range` says.
        state=TrialState.INFEASIBLE if role is Role.LOWEST else TrialState.DONE,
        reason="f1 is at or below epsilon",
        epsilon=epsilon,
        epsilon_fraction=fraction,
        f1=SCALES.f1_floor + e * SCALES.f1_range,
        f2=loss * SCALES.variance_retain,
        f1_heldout=SCALES.f1_floor_heldout + (e + 0.02) * 0.904,
        f2_heldout=1.4 * loss * SCALES.variance_retain_heldout,
        e=e,
        e_heldout=e + 0.02,
        completeness=1.0 - e,
        completeness_worst_class=1.0 - e - 0.02 * numbers[0],
        completeness_worst_5pct=1.0 - e - 0.08 * numbers[1],
        completeness_heldout=0.98 - e,
        completeness_worst_class_heldout=0.97 - e,
        completeness_worst_5pct_heldout=0.9 - e,
        retained_quality=1.0 - loss,
        retained_quality_heldout=1.0 - 1.4 * loss,
        violation=None if epsilon is None else 0.0,
        multiplier=0.02 / max(e, 0.01),
        residual_multiplier=0.019 / max(e, 0.01),
        residual_norm_f1=numbers[2],
        residual_norm_f2=0.01 * numbers[3],
        residual_cosine=-numbers[4],
        steps=STEPS,
        gradient_pairs=STEPS,
        measuring_pairs=STEPS / 8,
        seconds=6.0 + numbers[5],
        images_per_second=4000.0 + 100.0 * numbers[6],
        num_parameters=20272,
        code_version="0.1.0",
    )
    return TrialResult(
        record=record,
        curves=() if phase is Phase.ORIGINAL else _curves(e, loss, epsilon, draws),
        metrics=_metrics(e, loss, numbers[7]),
        samples=_samples(e, loss, is_original=phase is Phase.ORIGINAL),
        files={MODEL_FILE: trial_id.encode()},
    )


def _curves(e: float, loss: float, epsilon: float | None, draws: np.random.Generator) -> tuple[CurveRow, ...]:
    done = 1.0 - np.exp(-5.0 * np.arange(CURVE_POINTS) / CURVE_POINTS)
    noise = draws.normal(0.0, 1.0, (3, CURVE_POINTS))
    f1 = SCALES.f1_floor + (1.0 + (e - 1.0) * done + 0.02 * noise[0]) * SCALES.f1_range
    f2 = SCALES.variance_retain * loss * done * (1.0 + 0.12 * noise[1])
    return tuple(
        CurveRow(
            step=place * STEPS // CURVE_POINTS,
            f1=float(f1[place]),
            f2=float(f2[place]),
            multiplier=float(0.1 * done[place]),
            control=0.0,
            gradient_norm_f1=float(0.4 + 0.01 * noise[2][place]),
            gradient_norm_f2=float(0.02 + 0.001 * noise[2][place]),
            cosine=-0.5,
            learning_rate=0.006 * (1.0 - place / CURVE_POINTS),
            epsilon=epsilon,
            images_per_second=None,
        )
        for place in range(CURVE_POINTS)
    )


def _metrics(e: float, loss: float, wobble: float) -> tuple[MetricRow, ...]:
    gone = min(max(1.0 - e, 0.0), 1.0)
    values = {
        ("frechet_distance", "builtin", "forget"): 2.5 + 118.0 * gone,
        ("frechet_distance", "builtin", "retain"): 2.1 + 70.0 * loss + wobble,
        ("inception_score", "builtin", "forget"): 4.6 - 2.7 * gone,
        ("inception_score", "builtin", "retain"): 4.7 - 4.0 * loss,
        ("mse_hole", "pixel", "forget"): 0.006 + 0.05 * gone,
        ("mse_hole", "pixel", "retain"): 0.0055 + 0.02 * loss,
    }
    rows = [
        MetricRow(set=of, split="heldout", metric=metric, protocol=protocol, value=value, n=180)
        for (metric, protocol, of), value in values.items()
    ]
    return *rows, *_class_rows(gone)


def _class_rows(gone: float) -> list[MetricRow]:
    return [
        MetricRow(
            set="forget",
            split=split,
            metric="completeness",
            protocol="objective",
            value=gone - 0.01 * place,
            n=146,
            class_name=name,
        )
        for split in ("train", "heldout")
        for place, name in enumerate("01234")
    ]


@cache
def _digits() -> tuple[np.ndarray, ...]:
    """Return one digit of every class, 16 pixels a side, values 0 to 1."""
    images, labels = load_digits(return_X_y=True)
    found = []
    for digit in range(10):
        pixels = (255.0 * images[np.flatnonzero(labels == digit)[3]].reshape(8, 8) / 16.0).astype(np.uint8)
        found.append(np.asarray(Image.fromarray(pixels).resize((16, 16))) / 255.0)
    return tuple(found)


def _samples(e: float, loss: float, *, is_original: bool) -> tuple[SampleRow, ...]:
    rows = []
    for digit, truth in enumerate(_digits()):
        is_forgotten = digit < 5
        lost = min(max(1.0 - e if is_forgotten else 3.0 * loss, 0.0), 1.0)
        output, hole = truth.copy(), truth.copy()
        output[4:12, 4:12] = (1.0 - lost) * output[4:12, 4:12] + 0.4 * lost
        hole[4:12, 4:12] = 0.5
        kinds = {"output": output} | ({"input": hole, "truth": truth} if is_original else {})
        rows += [
            SampleRow(
                set="forget" if is_forgotten else "retain",
                image_id=f"digits-{digit:04d}",
                class_name=str(digit),
                kind=kind,
                image=_webp(image),
                width=16,
                height=16,
            )
            for kind, image in kinds.items()
        ]
    return tuple(rows)


def _webp(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((255 * np.clip(image, 0.0, 1.0)).astype(np.uint8)).convert("RGB").save(
        buffer, "WEBP", lossless=True
    )
    return buffer.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trials", type=int)
    parser.add_argument("folder")
    given = parser.parse_args()
    print(write_run(given.trials, given.folder))
