"""The exceptions: one for each error code, all of them :class:`GpuShareError`.

They are Python classes that the extension module raises. An extension module for the stable ABI
cannot derive its own from ``Exception`` and give them attributes before Python 3.12.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from gpushare._enums import ErrorCode, Outcome


# What is added to these comes last and has a default: pickles of earlier versions lack it.
class Holder(NamedTuple):
    """A process that holds a GPU or an instance of it."""

    pid: int
    command: str
    uid: int | None
    kind: str
    """``compute``, ``graphics``, ``mps_client``, ``foreign_mps``, ``service`` or ``lease``."""
    start_time: int | None = None
    """In clock ticks since boot: with the pid, who it is."""
    protected: str | None = None
    """Why it is never evicted, when it is not."""


class DriverCall(NamedTuple):
    """A failed driver call."""

    call: str
    nvml_return: int
    name: str


class GpuShareError(Exception):
    """Why an operation failed.

    ``str()`` says what was asked, of which GPU, what stood in the way and what to do.
    """

    code: ClassVar[ErrorCode]
    """Each class has its own. This one has none, and is never raised itself."""

    outcome: Outcome
    """What it left behind on the hardware."""
    gpu: str | None
    """The uuid of the GPU it is about."""
    holders: tuple[Holder, ...]
    """BUSY: who is in the way."""
    needs: tuple[str, ...]
    """PERMISSION_DENIED: what is missing."""
    fits: tuple[str, ...]
    """INSUFFICIENT: what would fit."""
    safe: tuple[str, ...]
    """HAZARD: values that do no harm."""
    driver: DriverCall | None
    """DRIVER: the call that failed."""
    evicted: tuple[Holder, ...]
    """Who was ended before it happened, by consent, and stays ended."""
    context: tuple[str, ...]
    """What was being done when it happened, outermost last."""
    os_error: int | None
    """The number of the system's error, where the system gave one: ``errno`` of those that are OSErrors."""
    path: str | None
    """The file or directory that the system's error is about: ``filename`` of those that are OSErrors."""
    simulated: bool | None
    """Whether the node is simulated; None where there was none yet."""

    def __init__(
        self,
        message: str,
        *,
        outcome: Outcome | str = Outcome.UNTOUCHED,
        gpu: str | None = None,
        holders: Iterable[Holder] = (),
        needs: Iterable[str] = (),
        fits: Iterable[str] = (),
        safe: Iterable[str] = (),
        driver: DriverCall | None = None,
        evicted: Iterable[Holder] = (),
        context: Iterable[str] = (),
        os_error: int | None = None,
        path: str | None = None,
        simulated: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.outcome = Outcome(outcome)
        self.gpu = gpu
        self.holders = tuple(holders)
        self.needs = tuple(needs)
        self.fits = tuple(fits)
        self.safe = tuple(safe)
        self.driver = driver
        self.evicted = tuple(evicted)
        self.context = tuple(context)
        self.os_error = os_error
        self.path = path
        self.simulated = simulated
        if isinstance(self, OSError) and os_error is not None:
            # Not through `self`, whose other classes have none of these.
            told: OSError = self
            told.errno, told.strerror, told.filename = os_error, os.strerror(os_error), path

    @property
    def nvml_return(self) -> int | None:
        """What NVML returned, where a driver call failed."""
        return None if self.driver is None else self.driver.nvml_return

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own would lose the attributes, OSError's would take the message for an errno.
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            state |= {name: getattr(self, name) for name in ("errno", "strerror", "filename")}
        return (type(self), self.args, state)

    def __str__(self) -> str:
        # OSError's would say the errno's text instead of what happened.
        return str(self.args[0]) if self.args else ""


class InvalidRequestError(GpuShareError, ValueError):
    """Something asked for makes no sense as written: a spec, a name, a size, an option."""

    code = ErrorCode.INVALID_ARGUMENT


class DeviceNotFoundError(GpuShareError, LookupError):
    """No driver, no GPU, or none of that name."""

    code = ErrorCode.NOT_FOUND


class UnsupportedError(GpuShareError):
    """This GPU or this driver cannot do it."""

    code = ErrorCode.UNSUPPORTED


class PermissionDeniedError(GpuShareError, PermissionError):
    """The caller may not; ``needs`` names what is missing. ``errno`` is set where the system said so."""

    code = ErrorCode.PERMISSION_DENIED


class DeviceBusyError(GpuShareError):
    """Somebody uses what would have to go; ``holders`` names them."""

    code = ErrorCode.BUSY

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that are in the way."""
        return tuple(holder.pid for holder in self.holders)


class InsufficientError(GpuShareError):
    """It does not fit; ``fits`` says what would."""

    code = ErrorCode.INSUFFICIENT


class ResetRequiredError(GpuShareError):
    """Only a reset of the GPU leads there, and none was allowed."""

    code = ErrorCode.RESET_REQUIRED


class StaleError(GpuShareError):
    """The GPU is no longer as it was when the plan was made."""

    code = ErrorCode.STALE


class LockedError(GpuShareError):
    """Another gpushare process is changing the GPU."""

    code = ErrorCode.LOCKED


class InvalidStateError(GpuShareError):
    """The object cannot do that in the state it is in."""

    code = ErrorCode.INVALID_STATE


class HazardError(GpuShareError, ValueError):
    """It would work and do harm; allowed only by name. ``safe`` has values that do none."""

    code = ErrorCode.HAZARD


class WaitTimeoutError(GpuShareError, TimeoutError):
    """It took longer than the caller wanted to wait."""

    code = ErrorCode.TIMEOUT


class DriverError(GpuShareError):
    """The driver refused or failed; ``driver`` is the call."""

    code = ErrorCode.DRIVER


class MpsError(GpuShareError):
    """The MPS daemon refused or failed."""

    code = ErrorCode.MPS


class StorageError(GpuShareError, OSError):
    """A file, directory or process of the system refused or failed: ``errno`` and ``filename`` say how."""

    code = ErrorCode.IO


class InterruptedTransitionError(GpuShareError):
    """The caller asked to stop."""

    code = ErrorCode.INTERRUPTED


class PanicError(GpuShareError, RuntimeError):
    """A defect of gpushare."""

    code = ErrorCode.PANIC


class RecoveryRequiredError(GpuShareError):
    """An unfinished change lies in the way and a person has to decide."""

    code = ErrorCode.RECOVERY_REQUIRED


_CLASSES: dict[int, type[GpuShareError]] = {cls.code: cls for cls in GpuShareError.__subclasses__()}


def _holders(document: Iterable[Mapping[str, Any]]) -> list[Holder]:
    return [Holder(**{name: holder[name] for name in Holder._fields}) for holder in document]


def from_document(message: str, document: Mapping[str, Any]) -> GpuShareError:
    """The exception for a document of schema ``gpushare.error/v1``. The extension module calls it."""
    driver = document["driver"]
    return _CLASSES[document["number"]](
        message,
        outcome=document["outcome"],
        gpu=document["gpu"],
        holders=_holders(document["holders"]),
        needs=document["needs"],
        fits=document["fits"],
        safe=document["safe"],
        driver=None if driver is None else DriverCall(driver["call"], driver["nvml_return"], driver["name"]),
        evicted=_holders(document["evicted"]),
        context=document["context"],
        os_error=document["os_error"],
        path=document["path"],
        simulated=document["simulated"],
    )
