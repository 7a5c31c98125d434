"""Every error that mrx raises on purpose, and the exit code that each one means.

    MrxError
    ├── UsageError           2   options, parameters or lists that cannot be meant
    ├── NoInputError         3   nothing matched
    ├── OutputError          4   the output cannot be used as it is
    │   └── FormatError      4   a shard that this version cannot read
    ├── MissingError         5   a device or an optional package that is not there
    ├── DeviceFault          5   a device that takes no more work from this process
    └── InputError           1   one video's own fault: it becomes a row, the run goes on
        ├── DecodeError          the video cannot be read
        ├── ShapeError           frames that a method cannot take (also a ValueError)
        ├── StageError           a bug, or the machine's fault, in one stage of the video's way
        └── Cancelled            the run was told to stop while this video was in flight

The exit code is an attribute; `mrx.cli` turns an error into one line and that code.
"""


class MrxError(Exception):
    """Anything that mrx raises on purpose."""

    exit_code: int = 1


class UsageError(MrxError):
    """Options, parameters or lists that cannot be meant; nothing was done."""

    exit_code = 2


class NoInputError(MrxError):
    """No input matched."""

    exit_code = 3


class OutputError(MrxError):
    """The output exists with other parameters, is locked, full or not writable."""

    exit_code = 4


class FormatError(OutputError):
    """A shard that is broken, or of a format that this version does not know."""


class MissingError(MrxError):
    """A device or an optional package that was asked for is not there."""

    exit_code = 5


class DeviceFault(MrxError):  # noqa: N818 - the device's, not ours
    """A device failed in a way that no later work of this process gets past."""

    exit_code = 5


class InputError(MrxError):
    """One video's own fault: it becomes a row of the run, and the run goes on."""


class DecodeError(InputError):
    """The video cannot be read."""


class ShapeError(InputError, ValueError):
    """Frames of a shape that a method cannot take."""


class StageError(InputError):
    """A stage of a video's way met what nobody foresaw; its cause is the error that it met."""

    def __init__(self, stage: str, cause: Exception) -> None:
        super().__init__(f"internal error in {stage}: {type(cause).__name__}: {cause}")
        self.stage = stage


class RunCancelled(InputError):  # noqa: N818 - not a fault, a request
    """The run was told to stop while this video was in flight."""
