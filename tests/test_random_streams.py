"""Every use of chance has a stream of its own, with the number that it has always had."""

import re
from pathlib import Path

import pytest
import torch

import pareto_unlearn
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.random_streams import RANDOM_ORIGINAL_SEED, RANDOM_REFERENCE_SEED, Stream

PACKAGE = Path(pareto_unlearn.__file__).parent
NUMBERS = {
    "FORGET_BATCHES": 1, "RETAIN_BATCHES": 2, "BANK_BATCHES": 3, "INITIAL_WEIGHTS": 10,
    "CLASSIFIER_WEIGHTS": 11, "TRAINING_BATCHES": 20, "TRAINING_DRAWS": 21, "NOISE_BANK": 30, "INPUTS": 31,
    "NOISE": 32, "SECOND_NOISE": 33, "GENERATION": 34, "STEP_INPUTS": 35, "STEP_NOISE": 36, "BASELINE": 37,
    "NOISE_FIT": 38, "SECOND_GENERATION": 39, "HOLE": 40, "PROBE": 41, "CURVE_POINTS": 42,
    "GENERATED_IMAGES": 50, "RELEARNING": 43, "RELEARNING_INPUTS": 44, "AUDIT_BATCHES": 60, "AUDIT_NOISE": 61,
    "AUDIT_DRAWS": 62, "EVALUATED_IMAGES": 63,
}  # fmt: skip
"""Changing one of them changes the rows of every sweep; new names may be added."""


def test_the_numbers_are_those_of_all_sweeps_so_far():
    assert {name: stream.value for name, stream in Stream.__members__.items()} == NUMBERS
    assert (RANDOM_ORIGINAL_SEED, RANDOM_REFERENCE_SEED) == (7, 8)


def test_no_two_streams_share_a_number():
    numbers = [stream.value for stream in Stream.__members__.values()]
    assert len(set(numbers)) == len(numbers)
    # A stratified order has a stream for every class: a multiple of its own number, plus the class.
    classes = {Stream.FORGET_BATCHES * 100_003 + class_id for class_id in range(21_841)}
    assert classes.isdisjoint(numbers)


@pytest.mark.parametrize("seed", [0, 7, 31])
def test_no_two_streams_draw_the_same_values_from_one_seed(seed):
    draws = {torch.rand(1, generator=seeded_generator(seed, stream)).item() for stream in Stream}
    assert len(draws) == len(Stream)


def test_a_named_stream_draws_what_its_number_draws():
    for stream in Stream:
        named, plain = (seeded_generator(5, number, 2) for number in (stream, int(stream)))
        assert named.initial_seed() == plain.initial_seed()


def test_no_module_has_a_stream_number_of_its_own():
    pattern = re.compile(r"STREAM\w*\s*=\s*\d|seeded_generator\([^)]*\b\d+\b|BatchOrder\([^)]*, \d+\)")
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text().splitlines()
        if pattern.search(line)
    ]
    assert found == []
