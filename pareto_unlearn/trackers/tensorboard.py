"""A run as TensorBoard reads it: a folder of event files per trial, with its row for the HPARAMS page."""

import logging
import re
import tempfile
from pathlib import Path

from pareto_unlearn.trackers.facts import Tally, TrackedRun, TrackedTrial
from pareto_unlearn.whole_files import write_bytes_whole

_MARK = "tfevents"


def export(run: TrackedRun, where: str) -> Tally:
    """Write the trials of a run under ``where``/NAME, one event file each; a changed one replaces the older.

    An event file is named by its content, so that a second export finds it.

    Raises:
        OSError: a file cannot be written.
    """
    tally = Tally()
    for trial in run.trials:
        folder = Path(where) / run.info.name / _folder_name(trial)
        name = f"events.out.{_MARK}.{trial.content}"
        if (folder / name).exists():
            tally.same += 1
            continue
        folder.mkdir(parents=True, exist_ok=True)
        older = [path for path in folder.iterdir() if f".{_MARK}." in path.name]
        write_bytes_whole(folder / name, _events(trial))
        for path in older:
            path.unlink()
        tally.updated += bool(older)
        tally.added += not older
    return tally


def _folder_name(trial: TrackedTrial) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", trial.title).strip("_")


def _events(trial: TrackedTrial) -> bytes:
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # it tells of every NaN
    ended = trial.record.steps
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(logdir=folder) as writer:
            parameters = dict(trial.parameters) | {"state": str(trial.record.state)}
            for summary in hparams(parameters, dict(trial.numbers)):
                writer.file_writer.add_summary(summary, walltime=trial.started)
            writer.add_text(
                "how it ended", f"{trial.record.state}: {trial.record.reason}", ended, trial.ended
            )
            for step, values in trial.curves:
                for name, value in values.items():
                    writer.add_scalar(f"curve/{name}", value, step, trial.moment(step))
            for name, value in trial.numbers.items():
                writer.add_scalar(name, value, ended, trial.ended)
        (written,) = Path(folder).iterdir()
        return written.read_bytes()
