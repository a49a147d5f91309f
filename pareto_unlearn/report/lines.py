"""The commands that the page offers to copy, for a reader who stands where the folder of runs lies."""

from pareto_unlearn.analysis.naming import export_command
from pareto_unlearn.commands import command_line
from pareto_unlearn.records import TrialRecord
from pareto_unlearn.store import StoredRun


def run_line(run: StoredRun, *verb: str, loads_models: bool = False) -> str:
    """Return the command that does something with a run: the words of the verb, then the run.

    ``loads_models`` tells that the verb needs leave to import a family that is a file.
    """
    return command_line(*verb, run.shown_path, allow_import=loads_models and run.needs_import)


def export_line(run: StoredRun, record: TrialRecord) -> str:
    """Return the command that writes a trial's model to a file; empty for one without its own."""
    if record.checkpoint is None:
        return ""
    return export_command(run.shown_path, record, smoke=run.info.smoke, allow_import=run.needs_import)
