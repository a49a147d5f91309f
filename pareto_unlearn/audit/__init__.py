"""The audit of a model: is what it forgot gone, or only hidden?

Every evaluation is a row of the table ``metrics`` under the protocol ``audit``, measured on one model alone.
What the rows prove is decided where they are read, beside those of a control (``analysis.audit``): a model
that never saw the forget images learns them in a few steps too, and guesses much of them from what it sees.
"""

from pareto_unlearn.audit.panel import audit_closeness, audit_full, audit_quick
from pareto_unlearn.audit.subject import Photos, Subject

__all__ = ["Photos", "Subject", "audit_closeness", "audit_full", "audit_quick"]
