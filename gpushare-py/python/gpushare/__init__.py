"""Share NVIDIA GPUs by time-slicing, MPS and MIG.

Nothing of the driver is loaded before it is asked, and nothing is held open between calls. Calls block,
let other threads run meanwhile, and end at Ctrl-C in the main thread; in asyncio use ``asyncio.to_thread``.
"""

from gpushare import mps
from gpushare._enums import (
    ErrorCode,
    EventKind,
    ExportKind,
    HazardName,
    Moment,
    Outcome,
    SharingMode,
    Verdict,
)
from gpushare._errors import (
    DeviceBusyError,
    DeviceNotFoundError,
    DriverCall,
    DriverError,
    GpuShareError,
    HazardError,
    Holder,
    InsufficientError,
    InterruptedTransitionError,
    InvalidRequestError,
    InvalidStateError,
    LockedError,
    MpsError,
    PanicError,
    PermissionDeniedError,
    RecoveryRequiredError,
    ResetRequiredError,
    StaleError,
    StorageError,
    UnsupportedError,
    WaitTimeoutError,
)
from gpushare._gpushare import (
    Advice,
    Attachment,
    Choice,
    DeviceNode,
    Diagnosis,
    Event,
    Evicted,
    Eviction,
    Exported,
    Finding,
    Gpu,
    GpuPlan,
    GpuProcess,
    Hazard,
    Imported,
    Lease,
    LeasedShare,
    LeaseList,
    MigDevice,
    MpsDaemon,
    Needs,
    Node,
    Plan,
    Recovered,
    Recreated,
    Report,
    Resolution,
    Share,
    Snapshot,
    SpecInForce,
    Split,
    Step,
    Term,
    Unseen,
    Verification,
    VisibleDevice,
    __version__,
)

__all__ = [
    "Advice",
    "Attachment",
    "Choice",
    "DeviceBusyError",
    "DeviceNode",
    "DeviceNotFoundError",
    "Diagnosis",
    "DriverCall",
    "DriverError",
    "ErrorCode",
    "Event",
    "EventKind",
    "Evicted",
    "Eviction",
    "ExportKind",
    "Exported",
    "Finding",
    "Gpu",
    "GpuPlan",
    "GpuProcess",
    "GpuShareError",
    "Hazard",
    "HazardError",
    "HazardName",
    "Holder",
    "Imported",
    "InsufficientError",
    "InterruptedTransitionError",
    "InvalidRequestError",
    "InvalidStateError",
    "Lease",
    "LeaseList",
    "LeasedShare",
    "LockedError",
    "MigDevice",
    "Moment",
    "MpsDaemon",
    "MpsError",
    "Needs",
    "Node",
    "Outcome",
    "PanicError",
    "PermissionDeniedError",
    "Plan",
    "Recovered",
    "RecoveryRequiredError",
    "Recreated",
    "Report",
    "ResetRequiredError",
    "Resolution",
    "Share",
    "SharingMode",
    "Snapshot",
    "SpecInForce",
    "Split",
    "StaleError",
    "Step",
    "StorageError",
    "Term",
    "Unseen",
    "UnsupportedError",
    "Verdict",
    "Verification",
    "VisibleDevice",
    "WaitTimeoutError",
    "__version__",
    "command_path",
    "draw",
    "mps",
    "resolve_visible_devices",
]


def command_path() -> str:
    """The path of the ``gpushare`` command that was installed with this package, for ``cdi_program``.

    FileNotFoundError where none was, such as in a checkout: give the path of one of the same version.
    """
    from gpushare import _command

    return _command.path()


def draw(thing: Snapshot | Gpu | Plan) -> str:
    """HTML with an SVG of each GPU, as notebooks show it: its slices, leases and processes; of a plan,
    before and after. It can be read on light and dark pages, and loads and runs nothing.

    :param thing: what is drawn. A plan tells of what it changes, and of MIG devices that stay.
    """
    from gpushare import _drawing

    return _drawing.draw(thing)


def resolve_visible_devices(string: str | None = None, *, node: Node | None = None) -> Resolution:
    """What CUDA shows a process with that value of ``CUDA_VISIBLE_DEVICES``, without CUDA.

    That CUDA shows no device is an answer, not an error.

    :param string: the value; None is the variable unset.
    :param node: the node, by default this machine's.
    """
    return (Node() if node is None else node)._resolve(string)
