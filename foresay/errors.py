"""Every exception this package raises on purpose, in one tree.

    ForesayError
    ├── InputError        a text, an option or an argument cannot be used
    ├── DataError         a file of queries, responses or targets is unreadable, stale or foreign
    ├── CheckpointError   a checkpoint is missing, incomplete or damaged
    │   └── VerifyError   the golden vectors do not come out again
    ├── BackboneError     the language model is missing, differs, or has a shape we cannot use
    └── DeviceError       the device asked for is not there

A message says what was found, what was expected, and what repairs it, in one line: the command line
prints it as it is and exits with 1. Anything else that escapes is a bug and keeps its traceback.
"""


class ForesayError(Exception):
    """Base of every error of this package; catch it to catch them all."""


class InputError(ForesayError, ValueError):
    """A text, an option or an argument cannot be used."""


class DataError(ForesayError):
    """A file of queries, responses or targets is unreadable, stale, or made from something else."""


class CheckpointError(ForesayError):
    """A checkpoint folder is missing, incomplete or damaged."""


class VerifyError(CheckpointError):
    """The golden vectors of a checkpoint do not come out again here."""


class BackboneError(ForesayError):
    """The language model is missing, is not the one that was trained on, or cannot be used."""


class DeviceError(ForesayError):
    """The device asked for does not exist on this machine."""
