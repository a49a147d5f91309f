"""The numbers that keep random draws apart: with the same seed, no two uses of chance draw the same values.

A draw is decided by a key: a seed, the number of its stream, and often a place such as a step or the number
of an image (``data.seeded_generator``). These numbers decide the results of every sweep, so they never
change; a new use takes a new number.
"""

from enum import IntEnum, unique


@unique
class Stream(IntEnum):
    """One use of chance; grouped by the seed that it goes with."""

    # With the seed of a trial.
    FORGET_BATCHES = 1
    RETAIN_BATCHES = 2
    BANK_BATCHES = 3
    STEP_INPUTS = 35
    STEP_NOISE = 36
    BASELINE = 37
    CURVE_POINTS = 42
    RELEARNING = 43
    RELEARNING_INPUTS = 44

    # With the seed of a training from scratch, which for a control is the seed of its trial.
    INITIAL_WEIGHTS = 10
    CLASSIFIER_WEIGHTS = 11
    TRAINING_BATCHES = 20
    TRAINING_DRAWS = 21

    # With the seed of the sweep.
    NOISE_BANK = 30
    INPUTS = 31
    NOISE = 32
    SECOND_NOISE = 33
    GENERATION = 34
    NOISE_FIT = 38
    SECOND_GENERATION = 39
    AUDIT_DRAWS = 62
    EVALUATED_IMAGES = 63
    HOLE = 40  # added to 1009 times the seed, not part of a key

    # With no seed: the same in every sweep.
    PROBE = 41
    AUDIT_BATCHES = 60
    AUDIT_NOISE = 61
    GENERATED_IMAGES = 50


RANDOM_ORIGINAL_SEED, RANDOM_REFERENCE_SEED = 7, 8
"""Seeds of the random weights that a smoke run takes in place of the original and the reference model."""
