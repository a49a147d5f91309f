"""The errors that a caller may want to catch, each with the exit code that the command line ends with.

ParetoUnlearnError
|-- ConfigError      3  sweep file or data not valid
|-- RunLockedError   5  another driver holds the run
|-- StoreError       6  a committed file is missing or damaged
|-- RangeError       7  no valid range of epsilon
`-- WeightsError     8  weights missing or not matching
"""


class ParetoUnlearnError(Exception):
    """Root of the errors a caller may want to catch; the command line ends with ``exit_code``."""

    exit_code = 1


class ConfigError(ParetoUnlearnError):
    """A sweep file, an override or the data it names is not valid."""

    exit_code = 3


class RunLockedError(ParetoUnlearnError):
    """Another driver holds the run directory."""

    exit_code = 5


class StoreError(ParetoUnlearnError):
    """A committed file is missing, damaged or of a newer schema."""

    exit_code = 6


class RangeError(ParetoUnlearnError):
    """Phase I left no valid range for epsilon."""

    exit_code = 7


class WeightsError(ParetoUnlearnError):
    """Model or metric weights are missing or do not match."""

    exit_code = 8
