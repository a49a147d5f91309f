"""A whole sweep, from the checked sweep file to the report; ``driver`` is the place to start reading."""

from pareto_unlearn.sweep.driver import SweepOptions, check_sweep, run_sweep

__all__ = ["SweepOptions", "check_sweep", "run_sweep"]
