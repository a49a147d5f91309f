"""How fast image files become tensors, on each of the ways that a sweep may take.

    uv run python benchmarks/data_throughput.py

Makes its own folder of JPEG files of 500 x 375 pixels, ImageNet's usual size, and prints one row per format:
files read and checked once, decoded on demand, decoded into the cache, and read from the cache. The files are
in the page cache of the machine, so a slow disk is not part of the numbers. Decoding on demand uses one
thread, as a trial with one CPU does; checking and filling the cache use all cores.

A second table shows whether reading keeps up with a step that leaves the CPU free, as a step on a GPU does:
the time of a step with its images read in line, and read ahead. From the CPU time of an image follows how
many threads the step needs when nothing else uses the cores.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import machine_facts
from PIL import Image

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import BatchOrder, SplitData, load_split, reading_ahead, write_manifest
from pareto_unlearn.records import PixelFormat

WIDTH, HEIGHT, CLASSES, BATCH = 500, 375, 4, 32
STEP_SECONDS, STEP_BATCH, STEPS = 0.05, 64, 12
FORMATS = {
    "224 squash bicubic": PixelFormat(side=224, channels=3, fit="squash"),
    "256 crop bicubic": PixelFormat(side=256, channels=3, fit="crop"),
    "256 squash bilinear": PixelFormat(side=256, channels=3, fit="squash", resample="bilinear"),
}

SECTION = DataSection(dataset="folder", root="images", forget_classes=2, retain_classes=None)


def main() -> None:
    """Make the files, measure every format, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="JPEG files to make (default: 1000)")
    count = parser.parse_args().images
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="data-throughput-") as name:
        folder = Path(name)
        size = make_images(folder / "images", count)
        print(f"{count} files of {size / count / 1000:.0f} kB; {machine_facts()}\n")
        print(
            "| format | load_split, s | checked, images/s | on demand | filling the cache | from the cache |"
        )
        print("|---|---|---|---|---|---|")
        for label, pixels in FORMATS.items():
            cells = " | ".join(
                f"{value:.2f}" if value < 1 else f"{value:.0f}" for value in measure(folder, pixels)
            )
            print(f"| {label} | {cells} |", flush=True)
        print_steps(folder, FORMATS["224 squash bicubic"], sorted({1, 2, os.cpu_count() or 1}))


def print_steps(folder: Path, pixels: PixelFormat, threads: list[int]) -> None:
    """Print the time of a step of batch 64 + 64, by number of threads and source of its images."""
    print(
        f"\n| a step of {STEP_SECONDS * 1000:.0f} ms, ms | threads | in line | read ahead | CPU of an image |"
    )
    print("|---|---|---|---|---|")
    for name, cache in (("decoded", None), ("from the cache", folder / f"cache-{pixels}")):
        split = load_split(SECTION.model_copy(update={"root": str(folder / "images")}), 0, pixels, cache)
        for count in threads:
            torch.set_num_threads(count)
            started = time.process_time()
            plain = step_seconds(split, is_ahead=False)
            cpu = (time.process_time() - started) / (STEPS * 2 * STEP_BATCH)
            ahead = step_seconds(split, is_ahead=True)
            cells = " | ".join(f"{1000 * value:.0f}" for value in (plain, ahead))
            print(f"| {name} | {count} | {cells} | {1000 * cpu:.2f} |", flush=True)


def step_seconds(split: SplitData, *, is_ahead: bool) -> float:
    """Return the mean time of a step, which reads its images and then sleeps as long as a GPU computes."""
    sets = [split.forget_train.images, split.retain_train.images]
    orders = [BatchOrder(len(images), STEP_BATCH, 0, place) for place, images in enumerate(sets)]
    if is_ahead:
        orders = [reading_ahead(order, images) for order, images in zip(orders, sets, strict=True)]

    def run() -> None:
        for step in range(STEPS):
            batches = [order(step) for order in orders]
            for images, rows in zip(sets, batches, strict=True):
                images[rows]
            time.sleep(STEP_SECONDS)

    return seconds(run) / STEPS


def make_images(root: Path, count: int) -> int:
    """Write smooth random pictures with some grain; return their bytes."""
    generator, total = np.random.default_rng(0), 0
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        grainy = np.clip(smooth + generator.normal(0.0, 12.0, smooth.shape), 0, 255).astype(np.uint8)
        path = root / f"c{number % CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grainy).save(path, quality=90)
        total += path.stat().st_size
    return total


def measure(folder: Path, pixels: PixelFormat) -> list[float]:
    """Return seconds of load_split, then images per second of each way."""
    section = SECTION.model_copy(update={"root": str(folder / "images")})
    started = time.perf_counter()
    split = load_split(section, 0, pixels)
    loading = time.perf_counter() - started
    cached = load_split(section, 0, pixels, folder / f"cache-{pixels}")
    total = sum(len(images) for _, _, images in split.items())
    return [
        loading,
        total / seconds(lambda: write_manifest(split)),
        draw_batches(split, total // 4),
        total / seconds(lambda: [images.images[[0]] for _, _, images in cached.items()]),
        draw_batches(cached, 4 * total),
    ]


def draw_batches(split: SplitData, count: int) -> float:
    """Return images per second of about ``count`` images in mini-batches of the retain set."""
    images = split.retain_train
    order, steps = BatchOrder(len(images), BATCH, 0, 0), max(1, count // BATCH)

    def draw() -> None:
        for step in range(steps):
            images.images[order(step)]

    return steps * BATCH / seconds(draw)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
