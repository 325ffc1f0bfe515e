"""The words and numbers that are the same in Rust, C and Python."""

from enum import IntEnum, StrEnum


class SharingMode(StrEnum):
    """How a GPU is shared, as observed.

    ``exclusive``, ``time_sliced``, ``mps`` and ``mig`` can be asked for; the others only happen.
    """

    LOST = "lost"
    """The GPU does not answer, or is no longer there."""
    PENDING = "pending"
    """A change of MIG mode waits for a reset."""
    MIG = "mig"
    """MIG is on."""
    CLOSED = "closed"
    """Compute mode PROHIBITED: nobody can use the GPU."""
    FOREIGN = "foreign"
    """An MPS daemon that is not ours serves the GPU."""
    MPS = "mps"
    """An MPS daemon of ours serves the GPU."""
    DEGRADED = "degraded"
    """Our MPS daemon is recorded, and dead."""
    EXCLUSIVE = "exclusive"
    """Compute mode EXCLUSIVE_PROCESS."""
    TIME_SLICED = "time_sliced"
    """Compute mode DEFAULT."""


class ErrorCode(IntEnum):
    """What kind of error. Numbers are never changed and never reused."""

    INVALID_ARGUMENT = 1
    NOT_FOUND = 2
    UNSUPPORTED = 3
    PERMISSION_DENIED = 4
    BUSY = 5
    INSUFFICIENT = 6
    RESET_REQUIRED = 7
    STALE = 8
    LOCKED = 9
    INVALID_STATE = 10
    HAZARD = 11
    TIMEOUT = 12
    DRIVER = 13
    MPS = 14
    IO = 15
    INTERRUPTED = 16
    PANIC = 17
    RECOVERY_REQUIRED = 18


class Outcome(StrEnum):
    """What an error left behind on the hardware."""

    UNTOUCHED = "untouched"
    """Nothing was changed."""
    ROLLED_BACK = "rolled_back"
    """Something was changed and is back as it was."""
    INDETERMINATE = "indeterminate"
    """It is not known; ``recover`` settles it."""
