"""The evaluations of an audit: the names of their rows in the store, and what people call them."""

from dataclasses import dataclass

AUDIT = "audit"
"""The protocol of their rows."""
QUICK_GROUP, FULL_GROUP, CLOSENESS_GROUP = "quick", "full", "closeness"
"""What the files of those are named by that are measured after a trial was committed."""

BYSTANDERS = ("bystanders", "heldout")
"""(set, split) of images whose classes the sweep neither forgets nor keeps, where the data set has such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One line of an audit.

    ``title`` is for people, ``question`` says what it asks, and ``limits`` what a pass does not show.
    """

    key: str
    title: str
    question: str
    limits: str


_ROWS = (
    Evaluation(
        key="relearning_gap",
        title="relearning gap",
        question="Do ten forget images bring the others back faster than a model that never saw them learns "
        "them? 0: no faster; 1: back to the original.",
        limits="other attacks, more images, or an attacker with another part of the data",
    ),
    Evaluation(
        key="other_attacks",
        title="other attacks",
        question="The same for attacks that no solve is trained against; the worst of them.",
        limits="attacks that nobody thought of",
    ),
    Evaluation(
        key="membership",
        title="membership",
        question="Can forget images that were trained on be told, by their error, from images of the same "
        "classes that nobody trained on?",
        limits="attacks with shadow models, and single images",
    ),
    Evaluation(
        key="membership_retain",
        title="members kept",
        question="Does the model give the retain set away more than the original did?",
        limits="that the original gave nothing away",
    ),
    Evaluation(
        key="give_away_strangers",
        title="told by picture",
        question="Can forget images that were trained on be told, by the picture alone, from images of the "
        "same classes?",
        limits="detectors other than the roughness of the hole",
    ),
    Evaluation(
        key="give_away_retain",
        title="class told",
        question="Does the picture alone tell a forgotten class from a kept one, more than the control's "
        "does?",
        limits="detectors other than the roughness of the hole",
    ),
    Evaluation(
        key="give_away_bystanders",
        title="class told, others",
        question="Does the picture alone tell a forgotten class from classes that were neither forgotten nor "
        "kept, more than the control's does?",
        limits="detectors other than the roughness of the hole",
    ),
    Evaluation(
        key="bystanders",
        title="others harmed",
        question="How much larger is the error on classes that were neither forgotten nor kept than the "
        "original's?",
        limits="harm to single images",
    ),
    Evaluation(
        key="retrieval",
        title="retrieval",
        question="How often is the filled hole nearer to its own truth than to that of any other image?",
        limits="what a stronger matcher than squared distance finds",
    ),
    Evaluation(
        key="worst_images",
        title="images kept",
        question="Which share of the forget images has an error nearer to the original's than to the "
        "control's? Few images that come back whole hide in a mean.",
        limits="images that an attack brings back",
    ),
    Evaluation(
        key="features",
        title="features",
        question="Do a linear probe of the class or a linear decoder get more out of the encoder than out of "
        "the control's?",
        limits="nonlinear probes",
    ),
    Evaluation(
        key="closeness",
        title="from retrained",
        question="How far are the outputs from those of the control, in units of the original's distance? "
        "Above 1, they are further from a model that never saw the images than before.",
        limits="that two trainings from scratch would be near each other",
    ),
    Evaluation(
        key="klom",
        title="KLOM",
        question="Over several seeds: how far are the errors of each forget image from those of models that "
        "never saw it, in nats beyond what models of one kind are apart?",
        limits="small differences: three or five trainings tell gross ones only",
    ),
)

EVALUATIONS = {row.key: row for row in _ROWS}
"""By key, in the order of the report."""
GAP_ATTACKS = (
    "10 images",
    "10 images, rate 3e-4",
    "10 images, rate 3e-3",
    "10 images, with retain",
    "10 images, with retain, rate 3e-4",
    "10 images, with retain, rate 3e-3",
)
"""The attacks of the relearning gap; they never change, or gaps of different runs would not compare."""
QUICK_ATTACKS = ("10 images, 20 steps", "10 images, 20 relative steps")
"""The attacks that every model of a sweep is put to, in place of those."""
OTHER_ATTACKS = (
    "1 image",
    "50 images",
    "200 images",
    "10 strangers",
    "10 retain images",
    "10 images, rate 1e-4",
    "10 images, plain steps",
    "10 images, relative steps",
    "10 images, with retain, relative steps",
    "10 images, encoder",
    "10 images, decoder",
    "noise, then 10 images",
    "retain images, then 10 images",
)
"""Attacks by relearning that no solve is trained against."""


CHANGED_INPUT, REFITTED_OUTPUTS = "changed input, 8/255", "outputs refitted on retain images"
"""The attacks that train no weight of the model."""

_HOLE = "with another hole: "
OTHER_HOLES = tuple(
    f"{_HOLE}{part}"
    for part in (
        "the middle quarter",
        "the middle three quarters",
        "a border",
        "the upper half",
        "the lower half",
        "the left half",
        "the right half",
        "a quarter of the patches",
        "half of the patches",
        "three quarters of the patches",
    )
)
"""Attacks that ask for another part of the images than unlearning removed; lengths are shares of the side."""

RHO = "distance to the control by the original's"
"""The row of retrain closeness."""
_ERROR_OF_IMAGE = "error_in_hole of "


def error_of_image(image_id: str) -> str:
    """Return the name of the row with the error of one image to forget."""
    return f"{_ERROR_OF_IMAGE}{image_id}"


def image_of(metric: str) -> str | None:
    """Return the id of the image whose error a row holds; None for another row."""
    return metric.removeprefix(_ERROR_OF_IMAGE) if metric.startswith(_ERROR_OF_IMAGE) else None


def lowest_error(attack: str) -> str:
    """Return the name of the row with the lowest error that an attack reaches."""
    return f"lowest error, {attack}"


def at_step(attack: str, step: int) -> str:
    """Return the name of the row with an attack's error after some steps."""
    return f"relearning, {attack}, after {step}"
