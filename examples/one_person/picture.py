"""Draws what a run shows best: people before, and after the most complete model has forgotten one of them.

    uv run python examples/one_person/picture.py runs/one_person docs/pictures/one_person.png

A column is a held-out picture: those to forget first, then one of each of some people who are kept. Rows:
the picture, what the model sees of it, what the original model makes of it, what the unlearned one does.
"""

import argparse
import io
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw

from pareto_unlearn import load_run

ROWS = (("original", "truth"), ("original", "input"), ("original", "output"), ("unlearned", "output"))
LABELS = ("picture", "model sees", "before", "after")
SIDE, LABEL, HEAD, GAP = 96, 78, 18, 12


def choose_columns(samples: pd.DataFrame, forget: int, retain: int) -> list[tuple[str, str]]:
    """Return (set, image id) of the columns: as many to forget as asked for, then one of each class kept."""
    shown = samples[samples.kind == "truth"].drop_duplicates(["set", "image_id"])
    forgotten = shown[shown.set == "forget"].image_id.tolist()
    kept = shown[shown.set == "retain"]
    kept = kept.assign(person=kept.image_id.str.rsplit("/", n=1).str[0]).drop_duplicates("person")
    step = max(len(kept) // retain, 1)
    return [
        *(("forget", one) for one in forgotten[:forget]),
        *(("retain", one) for one in kept.image_id.tolist()[::step][:retain]),
    ]


def draw(run_path: str, trial: str | None, forget: int, retain: int) -> Image.Image:
    """Return the picture of a run; ``trial`` is an id, None the highest boundary."""
    run = load_run(run_path)
    trials = run.trials
    original = trials[trials.phase == "original"].trial_id.iloc[0]
    chosen = trial or trials[trials.role == "highest"].trial_id.iloc[0]
    ids = {"original": original, "unlearned": chosen}
    bytes_of = {
        (row.trial_id, row.set, row.image_id, row.kind): row.image for row in run.samples.itertuples()
    }
    columns = choose_columns(run.samples[run.samples.trial_id == original], forget, retain)
    page = Image.new("RGB", (LABEL + GAP + SIDE * len(columns), HEAD + SIDE * len(ROWS)), "white")
    pen = ImageDraw.Draw(page)
    for number, (name, image_id) in enumerate(columns):
        left = LABEL + SIDE * number + (GAP if name == "retain" else 0)
        if number in (0, forget):
            pen.text((left + 2, 3), "to forget" if name == "forget" else "to keep", fill="black")
        for place, (model, kind) in enumerate(ROWS):
            content = bytes_of[ids[model], name, image_id, kind]
            tile = (
                Image.open(io.BytesIO(content)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            )
            page.paste(tile, (left, HEAD + SIDE * place))
    for place, label in enumerate(LABELS):
        pen.text((2, HEAD + SIDE * place + SIDE // 2 - 6), label, fill="black")
    return page


def main() -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(description="People before and after one of them was forgotten.")
    parser.add_argument("run", help="the run directory")
    parser.add_argument("out", type=Path, help="the PNG to write")
    parser.add_argument("--trial", help="id of the model to show; default: the most complete one")
    parser.add_argument("--forget", type=int, default=3)
    parser.add_argument("--retain", type=int, default=6)
    chosen = parser.parse_args()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    page = draw(chosen.run, chosen.trial, chosen.forget, chosen.retain)
    page.quantize(256).save(chosen.out, optimize=True)  # a third of the bytes


if __name__ == "__main__":
    main()
