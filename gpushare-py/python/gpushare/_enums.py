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


class Verdict(StrEnum):
    """Whether a process is inside its lease, or a client of an MPS daemon. Only ``attached`` is a yes, and
    true."""

    ATTACHED = "attached"
    """It is."""
    NOT_ATTACHED = "not_attached"
    """It is not."""
    UNKNOWN = "unknown"
    """It cannot be told. It never counts as attached."""

    def __bool__(self) -> bool:
        return self is Verdict.ATTACHED


class EventKind(StrEnum):
    """What happens while a call waits or works."""

    PLANNED = "planned"
    """The GPUs are locked, the plan is consented to, and nothing is changed yet."""
    WAITING_FOR_LOCK = "waiting_for_lock"
    """Another process has the lock of a GPU."""
    DRAINING = "draining"
    """Holders have time to go by themselves."""
    EVICTING = "evicting"
    """A holder is being ended."""
    STEP = "step"
    """A step begins."""
    ROLLING_BACK = "rolling_back"
    """Something failed, or the caller asked to stop: what was done is being undone."""
    RECOVERING = "recovering"
    """What a dead applier left is being settled."""
    WAITING_FOR_SHARE = "waiting_for_share"
    """A lease waits for a share."""
    OTHER = "other"
    """Something that this version has no word for."""


class Moment(StrEnum):
    """When a hook is called. After ``pre-apply`` exactly one of ``post-apply`` and ``failure`` comes, unless
    the process dies."""

    PRE_APPLY = "pre-apply"
    """The GPUs are locked and there is something to do. Nobody was asked for consent yet: whoever the hook
    ends is in the way no more. What it raises leaves all untouched."""
    PRE_MODE = "pre-mode"
    """A step comes next that changes the MIG mode of a GPU or resets it, for the first time in this apply.
    What it raises rolls back. Not called when such a step is undone."""
    POST_APPLY = "post-apply"
    """All is done. What it raises undoes nothing."""
    FAILURE = "failure"
    """It failed, and what was done is undone or cannot be: the error says which."""


class ExportKind(StrEnum):
    """In whose words the state of a node is exported."""

    MIG_PARTED = "mig-parted"
    """A config file of NVIDIA's mig-parted, version v1."""
    DOCKER_RUN = "docker-run"
    """Command lines of ``docker run``, one for each share."""
    COMPOSE = "compose"
    """A Compose file, one service for each share."""
    DEVICE_PLUGIN = "device-plugin"
    """A config file of NVIDIA's device plugin for Kubernetes, version v1."""
    GPU_OPERATOR = "gpu-operator"
    """A ConfigMap for NVIDIA's GPU Operator, with a config of its device plugin."""
    RESOURCE_CLAIM = "resource-claim"
    """Claims for NVIDIA's DRA driver for Kubernetes, one for each device."""
    GRES = "gres"
    """Slurm's gres.conf, with the lines that slurm.conf needs."""
    CDI = "cdi"
    """A specification of the Container Device Interface, one device for each share."""


class HazardName(StrEnum):
    """The names of settings that work and harm, by which they are allowed."""

    HOPPER_PARTIAL_SM = "hopper-partial-sm"
    """A percentage whose SM count leaves parts of half-precision products unwritten."""
    HOPPER_UNMEASURED = "hopper-unmeasured"
    """A partial percentage on a Hopper card on which it was not measured."""
    BYPASS_POSSIBLE = "bypass-possible"
    """A process that misses the MPS daemon gets the whole GPU or MIG device."""
    MINIMUM_SM = "minimum-sm"
    """A percentage so small that the driver's minimum takes its place."""
    SMALL_LIMIT = "small-limit"
    """A memory limit that a CUDA context all but fills."""
