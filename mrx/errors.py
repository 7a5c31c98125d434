"""The errors that mrx raises on purpose, with their exit codes.

    MrxError
    ├── UsageError           2   invalid options, parameters or lists
    ├── NoInputError         3   no input matched
    ├── OutputError          4   the output folder cannot be used as it is
    │   └── FormatError      4   a shard is damaged
    │       └── UnknownFormatError   it is of a newer format, or no shard of mrx
    ├── MissingError         5   a device or an optional package is missing
    ├── DeviceFault          5   the device is unusable for the rest of this process
    └── InputError           1   one video failed: it becomes a row and the run goes on
        ├── DecodeError          the video cannot be read
        ├── ShapeError           a method cannot take frames of this shape (also a ValueError)
        ├── StageError           an unexpected error in one stage; see `__cause__`
        └── RunCanceled         the run was stopped while this video was in flight

The exit code is an attribute. `mrx.cli` turns an error into one line and this code.
"""


class MrxError(Exception):
    """Base class of the errors that mrx raises on purpose.

    Attributes:
        exit_code: of the command
        traceback: text of the traceback in a worker process; empty for errors of this process
    """

    exit_code: int = 1
    traceback: str = ""


class UsageError(MrxError):
    """Invalid options, parameters or lists. Raised before any work."""

    exit_code = 2


class NoInputError(MrxError):
    """No input matched."""

    exit_code = 3


class OutputError(MrxError):
    """The output exists with other parameters, is locked, full or not writable."""

    exit_code = 4


class FormatError(OutputError):
    """A shard is damaged, or of a format that this version does not know."""


class UnknownFormatError(FormatError):
    """A file is of a newer format, or no shard of mrx. It is not damaged."""


class MissingError(MrxError):
    """A requested device or optional package is missing."""

    exit_code = 5


class DeviceFault(MrxError):  # noqa: N818 - a fault of the device
    """The device is unusable for the rest of this process."""

    exit_code = 5


class InputError(MrxError):
    """One video failed. It becomes a row of the run, and the run goes on."""


class DecodeError(InputError):
    """The video cannot be read."""


class ShapeError(InputError, ValueError):
    """A method cannot take frames of this shape."""


class StageError(InputError):
    """An unexpected error in one stage; see `__cause__`."""

    def __init__(self, stage: str, cause: Exception) -> None:
        super().__init__(f"internal error in {stage}: {type(cause).__name__}: {cause}")
        self.stage = stage


class RunCanceled(InputError):  # noqa: N818 - a request, no error
    """The run was stopped while this video was in flight."""
