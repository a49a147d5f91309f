"""``python -m pareto_unlearn`` is the ``pareto-unlearn`` command."""

from pareto_unlearn.cli import main

main()
