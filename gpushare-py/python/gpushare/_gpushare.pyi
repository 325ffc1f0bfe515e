from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from os import PathLike
from types import EllipsisType, TracebackType
from typing import Any, Concatenate, Literal, NoReturn, ParamSpec, Self, TypeVar, final

from gpushare._enums import EventKind, ExportKind, HazardName, Moment, SharingMode, Verdict
from gpushare._errors import GpuShareError, Holder

__all__ = [
    "Advice",
    "Attachment",
    "Choice",
    "DeviceNode",
    "Diagnosis",
    "Event",
    "Evicted",
    "Eviction",
    "Exported",
    "Finding",
    "Gpu",
    "GpuPlan",
    "GpuProcess",
    "Hazard",
    "Imported",
    "Lease",
    "LeaseList",
    "LeasedShare",
    "MigDevice",
    "MpsDaemon",
    "Needs",
    "Node",
    "Plan",
    "Recovered",
    "Recreated",
    "Report",
    "Resolution",
    "Share",
    "Snapshot",
    "SpecInForce",
    "Split",
    "Step",
    "Term",
    "Unseen",
    "Verification",
    "VisibleDevice",
    "__version__",
    "_after_fork_in_child",
    "_after_fork_in_parent",
    "_before_fork",
    "_command",
    "_end",
]

__version__: str

_P = ParamSpec("_P")
_R = TypeVar("_R")

@final
class Snapshot:
    """The state of a node at one moment. It never changes; look again with :meth:`Node.status`."""
    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs, by NVML's index."""
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    @property
    def driver_version(self) -> str:
        """The kernel driver: ``580.159.04``."""
    @property
    def cuda_version(self) -> str | None:
        """The newest CUDA that the driver supports: ``13.0``."""
    @property
    def digest(self) -> str:
        """SHA-256 over the structure of all GPUs: without processes, memory and times."""
    @property
    def void_leases(self) -> tuple[Share, ...]:
        """Leases of shares that are no more."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Snapshot: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def _repr_html_(self) -> str: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Gpu:
    """A GPU as it was observed."""
    @property
    def uuid(self) -> str:
        """Its uuid: the key to it."""
    @property
    def index(self) -> int | None:
        """NVML's index, never a CUDA ordinal. None for a GPU that is lost."""
    @property
    def minor(self) -> int | None:
        """The minor number of its device node."""
    @property
    def pci(self) -> str | None:
        """Its PCI address."""
    @property
    def model(self) -> str:
        """NVML's name without ``NVIDIA``."""
    @property
    def memory_bytes(self) -> int | None:
        """Its memory in bytes."""
    @property
    def sm_count(self) -> int | None:
        """Its streaming multiprocessors."""
    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Major and minor."""
    @property
    def mode(self) -> SharingMode:
        """How it is shared."""
    @property
    def reason(self) -> str:
        """Why it counts as that."""
    @property
    def missing(self) -> tuple[str, ...]:
        """What the observer lacked to see all of it; empty where all was seen."""
    @property
    def compute_mode(self) -> str | None:
        """NVML's compute mode: ``default``, ``exclusive_process``, ``prohibited``; None with MIG on."""
    @property
    def replicas(self) -> int | None:
        """Mode ``time_sliced``: how many leases it admits; None where it is not managed."""
    @property
    def mps(self) -> MpsDaemon | None:
        """The MPS daemon that serves it or should."""
    @property
    def mig_enabled(self) -> bool | None:
        """Whether MIG is on; None for a GPU without MIG."""
    @property
    def mig_profiles(self) -> tuple[str, ...]:
        """The names of the MIG profiles that the driver reports."""
    @property
    def mig_devices(self) -> tuple[MigDevice, ...]:
        """Its MIG devices, by placement."""
    @property
    def shares(self) -> tuple[Share, ...]:
        """What can be leased."""
    @property
    def cordoned(self) -> str | None:
        """Why no new leases of it are given, where somebody stopped that."""
    @property
    def processes(self) -> tuple[GpuProcess, ...]:
        """Who uses it."""
    @property
    def processes_hidden(self) -> bool:
        """Whether the driver did not show who uses it: then nobody may be taken for idle."""
    @property
    def unsettled(self) -> str | None:
        """A change of it that was not finished: see :meth:`Node.recover`."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Gpu: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def _repr_html_(self) -> str: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class MigDevice:
    """A MIG device."""
    @property
    def uuid(self) -> str:
        """Its uuid."""
    @property
    def profile(self) -> str:
        """The name of its profile."""
    @property
    def gi(self) -> int:
        """The id of its GPU instance, which is reused."""
    @property
    def ci(self) -> int:
        """The id of its compute instance, which is reused."""
    @property
    def start(self) -> int | None:
        """The first slot of its GPU instance, where it could be seen."""
    @property
    def memory_bytes(self) -> int | None:
        """Its memory in bytes, shared with the other compute instances of its GPU instance."""
    @property
    def sm_count(self) -> int | None:
        """Its streaming multiprocessors."""
    @property
    def name(self) -> str | None:
        """The name that the spec gave it."""
    @property
    def mps(self) -> MpsDaemon | None:
        """The MPS daemon that serves it or should."""
    @property
    def busy(self) -> bool | None:
        """Whether somebody uses it; None where it could not be seen, which counts as in use."""
    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who uses it, as far as is known."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> MigDevice: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Share:
    """What can be leased: a GPU, a part of one, or a MIG device."""
    @property
    def id(self) -> str:
        """Its id."""
    @property
    def device(self) -> str:
        """The uuid of the GPU or MIG device that it is of."""
    @property
    def leased(self) -> bool:
        """Whether somebody holds it."""
    @property
    def holder(self) -> Holder | None:
        """Who holds it: one process of those that do."""
    @property
    def lease(self) -> str | None:
        """The name of the lease by which it is held."""
    @property
    def for_pid(self) -> int | None:
        """The process for which it is held, where that is not the holder itself."""
    @property
    def inherited(self) -> bool:
        """Whether the process that took it is gone, and others hold on to it."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Share: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class GpuProcess:
    """A process on a GPU."""
    @property
    def pid(self) -> int:
        """Its process id."""
    @property
    def command(self) -> str:
        """Its command, as far as it may be read."""
    @property
    def uid(self) -> int | None:
        """The user it runs as."""
    @property
    def kind(self) -> str:
        """What it is: ``compute``, ``graphics``, ``mps_client``, ``foreign_mps``, ``service``, ``lease``."""
    @property
    def start_time(self) -> int | None:
        """When it started, in clock ticks since boot."""
    @property
    def gi(self) -> int | None:
        """On which GPU instance."""
    @property
    def ci(self) -> int | None:
        """On which compute instance."""
    @property
    def memory_bytes(self) -> int | None:
        """Its device memory in bytes, where the driver says."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> GpuProcess: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class MpsDaemon:
    """An MPS daemon."""
    @property
    def ours(self) -> bool:
        """Whether it is gpushare's."""
    @property
    def alive(self) -> bool:
        """Whether it answers and lets its clients in."""
    @property
    def pid(self) -> int | None:
        """Its process, where it is known."""
    @property
    def health(self) -> str | None:
        """How it is: ``answers``, ``frozen``, ``unknown``, ``gone``; None where it is not ours."""
    @property
    def directory(self) -> str | None:
        """What its clients have in ``CUDA_MPS_PIPE_DIRECTORY``."""
    @property
    def thread_percentage(self) -> float | None:
        """The share of threads in percent that each client gets at most."""
    @property
    def pinned_memory_limit_bytes(self) -> int | None:
        """The device memory in bytes that each client gets at most; None for no limit."""
    @property
    def clients(self) -> tuple[int, ...]:
        """The pids of its clients, as it lists them."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> MpsDaemon: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Event:
    """What happens while a call waits or works. A ``progress`` function is called with it at each step and
    every 100 ms of waiting, on the thread that made the call; what it returns does not count.

    A progress bar of n steps goes on by ``bar.update(event.step - bar.n)`` (tqdm), or
    ``progress.update(task, completed=event.step, total=event.steps, description=event.text)`` (rich).
    """
    @property
    def kind(self) -> EventKind:
        """What happens."""
    @property
    def text(self) -> str:
        """It in words."""
    @property
    def gpu(self) -> str | None:
        """The uuid of the GPU that it is about."""
    @property
    def step(self) -> int:
        """The number of the last step that began, over all GPUs: 0 before the first."""
    @property
    def steps(self) -> int:
        """How many steps there are: 0 before that is known."""
    @property
    def waited(self) -> float:
        """Waiting for a share: the seconds so far."""
    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who is in the way."""
    @staticmethod
    def _from_json(text: str) -> Event: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class GpuPlan:
    """The plan for one GPU."""
    @property
    def uuid(self) -> str:
        """The GPU."""
    @property
    def index(self) -> int | None:
        """NVML's index."""
    @property
    def model(self) -> str:
        """Its model."""
    @property
    def mode_before(self) -> SharingMode:
        """The mode that it is in."""
    @property
    def mode_after(self) -> SharingMode:
        """The mode that it will be in."""
    @property
    def kept(self) -> tuple[str, ...]:
        """The uuids of MIG devices that stay."""
    @property
    def fits_after(self) -> tuple[str, ...]:
        """The profiles of which one would still fit beside the instances afterwards."""
    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> GpuPlan: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Step:
    """One change of one GPU. ``str()`` says it in words."""
    @property
    def gpu(self) -> str:
        """The uuid of the GPU."""
    @property
    def kind(self) -> str:
        """What kind of change: ``create_gpu_instance``, ``set_compute_mode``, ``start_mps``, …"""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Step: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Needs:
    """What apply must be allowed to do. True where it is anything."""
    @property
    def evict(self) -> tuple[Eviction, ...]:
        """Holders that must go: ``allow_evict``."""
    @property
    def reset(self) -> tuple[str, ...]:
        """The uuids of GPUs that may be reset: ``allow_reset``."""
    @property
    def hazards(self) -> tuple[Hazard, ...]:
        """Hazards that must be accepted: ``allow_hazards``."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Needs: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Eviction:
    """Holders that must go."""
    @property
    def gpu(self) -> str:
        """The uuid of the GPU."""
    @property
    def what(self) -> str:
        """What they hold."""
    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who they are; empty where it could not be seen."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Eviction: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Plan:
    """The steps from the state of a node to what was asked for, and what they need.

    ``str()`` explains it. It pickles, and goes on as a document: :meth:`apply` then plans again, and what
    comes out must be the same.
    """
    @property
    def is_noop(self) -> bool:
        """Whether there is nothing to do."""
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done, in this order."""
    @property
    def gpus(self) -> tuple[GpuPlan, ...]:
        """The plan for each selected GPU, by uuid."""
    @property
    def needs(self) -> Needs:
        """What :meth:`apply` must be allowed to do."""
    @property
    def digest(self) -> str:
        """SHA-256 over the structure of the selected GPUs, what was asked for, and the steps."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Plan: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def _repr_html_(self) -> str: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...
    def apply(
        self,
        progress: Callable[[Event], object] | None = None,
        *,
        allow_evict: bool = False,
        allow_reset: bool = False,
        allow_hazards: str | Iterable[str] = (),
        timeout: float | timedelta | None = 0,
        drain: float | timedelta = 0,
        grace: float | timedelta = 30,
        hooks: str
        | PathLike[str]
        | Callable[[Moment, Plan, GpuShareError | None, str | None], object]
        | None = None,
        hook_timeout: float | timedelta = 60,
        cdi: str | PathLike[str] | Literal[False] | None = None,
        cdi_program: str | PathLike[str] | None = None,
        node: Node | None = None,
    ) -> Report:
        """Applies it, if the GPUs are still as it was made for. Needs root.

        After it every GPU is in the old state or in the new one. What ``progress`` raises, and Ctrl-C,
        stop it: what was done is rolled back, and that is raised, with gpushare's own error as its cause.

        :param progress: called with an :class:`Event` at each step and every 100 ms of waiting.
        :param allow_evict: ends the processes that are in the way.
        :param allow_reset: resets GPUs where that is the only way.
        :param allow_hazards: the names of hazards that are accepted.
        :param timeout: seconds to wait for locks: 0 does not wait, None waits for ever.
        :param drain: seconds that processes in the way have to go by themselves.
        :param grace: seconds between SIGTERM and SIGKILL of an evicted process.
        :param hooks: what is done around the change, such as to stop the monitors that hold a GPU open: a
            function that is called ``hook(moment, plan, error, gpu)`` at each :class:`Moment`, ``error`` at the
            failure and ``gpu``, a uuid, before its mode changes, each None elsewhere. Or the path of a directory
            with programs called ``pre-apply``, ``pre-mode``, ``post-apply`` and ``failure``, as far as they are
            there, which read the plan as JSON.
            Nothing is called where nothing is to do. What a function raises before the change stops it, as
            ``progress`` does; an Exception after it is in ``report.failed_hooks``, or in the error.
        :param hook_timeout: seconds that each of the programs may take. Ctrl-C is heard when it has ended.
        :param cdi: the directory in which the GPUs of this plan have CDI specifications from now on, such as
            ``"/var/run/cdi"``, where container runtimes look: a container gets a share by
            ``gpushare.dev/share=NAME``. They follow every change of these GPUs, also one that does not ask for it,
            and are written when nothing else is to do. A relative path counts from the directory that the process
            is in now. False removes them, and there are none from now on; None leaves it as it is.
        :param cdi_program: the absolute path of the ``gpushare`` command with which each container takes a lease
            of its share, such as :func:`command_path`; the container runtime starts it. None for containers
            without leases. It goes with ``cdi``.
        :param node: the node to apply it on, for a plan that was unpickled.
        """

@final
class Report:
    """What was done. ``str()`` says it in words."""
    @property
    def outcome(self) -> str:
        """``unchanged``, ``applied`` or ``recovered``."""
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    @property
    def digest(self) -> str | None:
        """The digest of the plan that was applied."""
    @property
    def step_count(self) -> int:
        """How many steps were done."""
    @property
    def previous(self) -> dict[str, Any]:
        """A spec that leads back to the state before: ``node.plan(report.previous).apply()`` undoes it."""
    @property
    def not_in_previous(self) -> tuple[str, ...]:
        """GPUs whose state before no spec can say, with why."""
    @property
    def recreated(self) -> tuple[Recreated, ...]:
        """MIG devices that were created again in the place of earlier ones."""
    @property
    def evicted(self) -> tuple[Evicted, ...]:
        """Processes that were ended."""
    @property
    def recovered(self) -> tuple[Recovered, ...]:
        """Changes of dead appliers that were settled first."""
    @property
    def failed_hooks(self) -> tuple[str, ...]:
        """What hooks said that failed after the change was done."""
    @property
    def cdi_specifications(self) -> tuple[str, ...]:
        """The paths of the CDI specifications that were written."""
    @property
    def removed_cdi_specifications(self) -> tuple[str, ...]:
        """The paths of the CDI specifications that were removed for good."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Report: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Recreated:
    """A MIG device that was created again."""
    @property
    def gpu(self) -> str:
        """The uuid of its GPU."""
    @property
    def old(self) -> str:
        """Its uuid before."""
    @property
    def new(self) -> str:
        """Its uuid now."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Recreated: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Evicted:
    """A process that was ended."""
    @property
    def gpu(self) -> str:
        """The uuid of the GPU that it was on."""
    @property
    def holder(self) -> Holder:
        """Who it was."""
    @property
    def killed(self) -> bool:
        """Whether it had to be killed."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Evicted: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Recovered:
    """A change of a dead applier that was settled."""
    @property
    def journal(self) -> str:
        """The name of its journal."""
    @property
    def gpus(self) -> tuple[str, ...]:
        """The uuids of its GPUs."""
    @property
    def settled(self) -> str:
        """How it was settled: ``rolled_back``, ``finished``, or ``void`` after a reboot."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Recovered: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class LeasedShare:
    """What a lease gives of one share."""
    @property
    def id(self) -> str:
        """The id of the share."""
    @property
    def gpu(self) -> str:
        """The uuid of its GPU."""
    @property
    def index(self) -> int | None:
        """NVML's index of its GPU, never a CUDA ordinal."""
    @property
    def model(self) -> str:
        """The model of its GPU."""
    @property
    def mode(self) -> SharingMode:
        """How its GPU is shared."""
    @property
    def mig_device(self) -> str | None:
        """The uuid of the MIG device that it is of."""
    @property
    def profile(self) -> str | None:
        """The profile of that MIG device."""
    @property
    def memory_bytes(self) -> int | None:
        """The device memory in bytes that the tenant can use at most; None where unknown."""
    @property
    def sm_count(self) -> int | None:
        """The multiprocessors that the tenant can use at most; None where unknown."""
    @property
    def mps_client(self) -> bool:
        """Whether the tenant is to be a client of an MPS daemon."""
    @property
    def enforced(self) -> tuple[Term, ...]:
        """What the tenant is held to against its will."""
    @property
    def declared(self) -> tuple[Term, ...]:
        """What it is asked for by environment, or admitted to by gpushare alone."""
    @property
    def device_nodes(self) -> tuple[DeviceNode, ...]:
        """The device nodes that it needs: for containers."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> LeasedShare: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Term:
    """What holds a tenant to something, or does not."""
    @property
    def what(self) -> str:
        """What: ``memory``, ``threads``, ``priority``, ``alone``, ``admission``, ``isolation``."""
    @property
    def by(self) -> str | None:
        """Who holds the tenant to it; None where it was only asked to."""
    @property
    def says(self) -> str:
        """In a sentence."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Term: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class DeviceNode:
    """A device node that a share needs."""
    @property
    def path(self) -> str:
        """Where it is, or would be."""
    @property
    def major(self) -> int | None:
        """Its major number, where the kernel says."""
    @property
    def minor(self) -> int | None:
        """Its minor number, where it is known."""
    @property
    def missing(self) -> str | None:
        """Where it is not there: what makes it."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> DeviceNode: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Verification:
    """Whether a process is inside its lease. True when it is: unknown never passes."""
    @property
    def verdict(self) -> Verdict:
        """Attached, not attached or unknown."""
    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in words."""
    @property
    def attachment(self) -> Attachment | None:
        """What the MPS daemon says of it, where its share is one's."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Verification: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Lease:
    """The right of one process tree to one share, or to several.

    It lasts until :meth:`release`, the end of ``with``, collection (with a ResourceWarning), or the end of
    this process; and where :meth:`fileno` handed it on, until the last process that has it is gone. Only
    the first two destroy what was created for it, where ``give_back`` said so.
    """
    @property
    def name(self) -> str:
        """Its name, which ``gpushare leases`` shows."""
    @property
    def released(self) -> bool:
        """Whether it was given back."""
    @property
    def private(self) -> bool:
        """Whether it holds for this user's processes alone, because gpushare is not set up on this node."""
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    @property
    def shares(self) -> tuple[LeasedShare, ...]:
        """What it gives, by share."""
    @property
    def share(self) -> str:
        """The id of its share, where it is one."""
    @property
    def memory_bytes(self) -> int | None:
        """The device memory in bytes that the tenant can use at most; None where unknown."""
    @property
    def sm_count(self) -> int | None:
        """The multiprocessors that the tenant can use at most; None where unknown."""
    @property
    def variables(self) -> dict[str, str]:
        """The variables that the tenant's environment needs set."""
    @property
    def unset(self) -> tuple[str, ...]:
        """The names of variables that the tenant's environment must not have."""
    def env(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a tenant: a copy of ``base``, by default ``os.environ``, with both done. Of a
        lease that lasts.
        """
    def activate(self) -> None:
        """Makes this process its tenant: sets and removes the variables in ``os.environ``. Before CUDA begins,
        which reads them once: afterwards it is an InvalidStateError, since they would be ignored.

        CUDA begins at the first call that needs a GPU, not when torch is imported.

        When the lease ends, what is still as this set it is put back in ``os.environ``. A CUDA that has begun
        stays on the share all the same, for as long as this process lives.
        """
    def fileno(self) -> int:
        """The descriptor that holds its share, and hands the lease on: give it to ``pass_fds``, and the lease
        lasts until the children that have it are gone, too. It is the lease's own and not to be closed.
        """
    def filenos(self) -> tuple[int, ...]:
        """The same of a lease of several shares: give all of them to ``pass_fds``."""
    def verify(self, pid: int | None = None, *, inside: bool = False) -> Verification:
        """Whether a process is inside the lease: on its devices and on no other, and where they are an MPS
        daemon's, as its client. Only a true answer is a yes; who does not use CUDA yet is unknown.

        :param pid: the process, by default this one.
        :param inside: asks this process's own CUDA as well, which knows its multiprocessors exactly. CUDA
            must have begun.
        """
    def check(self) -> None:
        """Refuses a lease that is void: its GPU was partitioned anew, reset or lost, or it was given back."""
    def release(self) -> None:
        """Gives it back; again does nothing. Children that have its descriptor keep the share until they are
        gone, and a call of another thread that asks the lease something keeps it until that returns. What
        was created for it is destroyed where ``give_back`` said so.
        """
    def to_dict(self) -> dict[str, Any]:
        """What it says of itself, in dicts, lists and plain values."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def __reduce__(self) -> NoReturn: ...

@final
class LeaseList:
    """Who has which share of a node. ``str()`` lists it."""
    @property
    def shares(self) -> tuple[Share, ...]:
        """All shares of all GPUs."""
    @property
    def void(self) -> tuple[Share, ...]:
        """Leases of shares that are no more."""
    @property
    def waiting(self) -> int:
        """How many wait for a share."""
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> LeaseList: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Attachment:
    """Whether a process is a client of an MPS daemon of gpushare's. True when it is: unknown never passes."""
    @property
    def verdict(self) -> Verdict:
        """Attached, not attached or unknown."""
    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in words."""
    @property
    def pid(self) -> int:
        """The process."""
    @property
    def device(self) -> str | None:
        """Attached: the uuid of the GPU or MIG device whose daemon serves it."""
    @property
    def server_pid(self) -> int | None:
        """Attached: the process of the server."""
    @property
    def memory_bytes(self) -> int | None:
        """Attached: the device memory in bytes that it uses there, by NVML."""
    @property
    def at_most_sm_count(self) -> int | None:
        """The multiprocessors that the server lets it have at most; None where unknown."""
    @property
    def at_most_thread_percentage(self) -> float | None:
        """The share of threads in percent that the server lets it have at most; None where unknown."""
    @property
    def at_most_memory_bytes(self) -> int | None:
        """The device memory in bytes that the server lets it have at most; None where unknown."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Attachment: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Split:
    """Equal parts of a GPU for MPS clients, without a hazard."""
    @property
    def parts(self) -> int:
        """How many parts."""
    @property
    def thread_percentage(self) -> float:
        """The thread percentage of each."""
    @property
    def sm_count(self) -> int:
        """The multiprocessors of each."""
    @property
    def memory_bytes(self) -> int | None:
        """The memory in bytes of each, in whole MiB; None where it cannot be limited."""
    @property
    def sm_total(self) -> int:
        """The multiprocessors of the device."""
    @property
    def sm_left_over(self) -> int:
        """Multiprocessors that no part has."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Split: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Hazard:
    """A setting that works and harms, on a GPU."""
    @property
    def name(self) -> HazardName:
        """The name by which it is allowed."""
    @property
    def gpu(self) -> str:
        """The uuid of the GPU."""
    @property
    def message(self) -> str:
        """What would happen."""
    @property
    def safe(self) -> tuple[str, ...]:
        """Values that do no harm."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Hazard: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Resolution:
    """What CUDA shows a process with a value of ``CUDA_VISIBLE_DEVICES``. ``str()`` explains it."""
    @property
    def string(self) -> str | None:
        """The value; None for the variable unset."""
    @property
    def outcome(self) -> str:
        """``devices``, ``no_device``, ``invalid_device`` or ``unknown``."""
    @property
    def cu_init(self) -> int | None:
        """What ``cuInit`` answers; None where the outcome is unknown."""
    @property
    def certain(self) -> bool:
        """Whether all of this was measured. If not, :attr:`flags` say what rests on what."""
    @property
    def reason(self) -> str | None:
        """Why, where that does not lie in an entry."""
    @property
    def devices(self) -> tuple[VisibleDevice, ...]:
        """The devices in CUDA's order. Empty unless the outcome is ``devices``."""
    @property
    def flags(self) -> tuple[str, ...]:
        """What was not measured, in words."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Resolution: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class VisibleDevice:
    """A device that CUDA shows."""
    @property
    def ordinal(self) -> int:
        """Its number in CUDA: ``cuda:0``, ``cuda:1``, …"""
    @property
    def kind(self) -> str:
        """``gpu`` or ``mig_device``."""
    @property
    def uuid(self) -> str:
        """Its uuid."""
    @property
    def index(self) -> int | None:
        """NVML's index of the GPU."""
    @property
    def model(self) -> str:
        """NVML's name of the GPU without ``NVIDIA``."""
    @property
    def profile(self) -> str | None:
        """The profile of a MIG device."""
    @property
    def memory_bytes(self) -> int | None:
        """Its memory in bytes."""
    @property
    def sm_count(self) -> int | None:
        """Its streaming multiprocessors."""
    @property
    def mode(self) -> SharingMode:
        """How the GPU is shared."""
    @property
    def parent(self) -> str | None:
        """The uuid of the GPU that a MIG device is on."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> VisibleDevice: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Diagnosis:
    """What was found, what was not looked at, and what is as it should be. ``str()`` tells it."""
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    @property
    def needs_mending(self) -> bool:
        """Whether there is something to mend: an error or a warning."""
    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, the worst first."""
    @property
    def unseen(self) -> tuple[Unseen, ...]:
        """What could not be looked at."""
    @property
    def checked(self) -> tuple[str, ...]:
        """The ids of the checks that found nothing and saw all."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Diagnosis: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Finding:
    """Something that the doctor found."""
    @property
    def id(self) -> str:
        """The check that found it: an id that never changes."""
    @property
    def severity(self) -> str:
        """How bad it is: ``error``, ``warning`` or ``notice``."""
    @property
    def gpu(self) -> str | None:
        """The uuid of the GPU; None where it is about the machine."""
    @property
    def summary(self) -> str:
        """What it is, in a sentence."""
    @property
    def evidence(self) -> tuple[str, ...]:
        """What was seen."""
    @property
    def mend(self) -> str:
        """The command that mends it, or what to do."""
    @property
    def source(self) -> str:
        """Where it is known from that this is so."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Finding: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Unseen:
    """Something that could not be looked at."""
    @property
    def what(self) -> str:
        """What."""
    @property
    def needed(self) -> str:
        """What it would take."""
    @property
    def checks(self) -> tuple[str, ...]:
        """The ids of the checks that could not be made for that, or not wholly."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Unseen: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Advice:
    """The ways to run a workload on a node, the recommended one first. ``str()`` tells them."""
    @property
    def recommended(self) -> str | None:
        """What is recommended: ``exclusive``, ``time_sliced``, ``mps``, ``mig`` or ``mig_with_mps``; None where
        nothing fits.
        """
    @property
    def options(self) -> tuple[Choice, ...]:
        """Every way, the best first."""
    @property
    def best(self) -> Choice | None:
        """The option that is recommended; None where nothing fits."""
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Advice: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Choice:
    """One way to run a workload on a node."""
    @property
    def way(self) -> str:
        """Which way."""
    @property
    def fits(self) -> bool:
        """Whether it gives what was asked for."""
    @property
    def why_not(self) -> str | None:
        """Why it does not."""
    @property
    def spec(self) -> dict[str, Any] | None:
        """The spec that does it, where it fits: for :meth:`Node.plan`."""
    @property
    def gpus(self) -> tuple[str, ...]:
        """The uuids of the GPUs that it takes."""
    @property
    def needs(self) -> Needs | None:
        """What applying it must be allowed to do, where it fits."""
    @property
    def reasons(self) -> tuple[str, ...]:
        """Why one would choose it here."""
    @property
    def lacks(self) -> tuple[str, ...]:
        """What it does not give."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Choice: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Node:
    """The GPUs of one machine, real or simulated.

    A handle that threads can share. Nothing is held open between calls. Everything that is not given is
    taken from the environment where that has it (``GPUSHARE_SIM``, ``GPUSHARE_STATE_DIR``,
    ``GPUSHARE_NVML_PATH``, ``GPUSHARE_NVIDIA_SMI``, ``GPUSHARE_MPS_CONTROL``), unless the program is set-id.

    :param sim: a simulated node: ``"8xH100-80GB"``, ``"2xA100-40GB,1xA30-24GB"``. Without a state
        directory it is in memory and this object's own.
    :param state_dir: where records, journals, locks and leases are, instead of ``/var/lib/gpushare``
        and ``/run/gpushare``. A relative path counts from the directory that the process is in now.
    :param nvml_path: the driver's library instead of the system's ``libnvidia-ml.so.1``, an absolute path;
        ``nvidia_smi`` and ``mps_control`` likewise.
    :param log_level: forwards what happens within the calls of this node to ``logging``, from that level
        on, to loggers below ``gpushare``; ``gpushare.audit`` has each change of the hardware. None
        forwards nothing.
    """
    def __new__(
        cls,
        *,
        sim: str | None = None,
        state_dir: str | PathLike[str] | None = None,
        nvml_path: str | PathLike[str] | None = None,
        nvidia_smi: str | PathLike[str] | None = None,
        mps_control: str | PathLike[str] | None = None,
        log_level: int | str | None = None,
    ) -> Self: ...
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs, observed anew each time. Needs no privilege."""
    def status(self) -> Snapshot:
        """The state of the whole node now. Needs no privilege, and says what it could not see."""
    def to_dict(self) -> dict[str, Any]:
        """The state of the whole node now in dicts, lists and plain values: ``status().to_dict()``."""
    def plan(self, spec: Mapping[str, Any] | str | PathLike[str]) -> Plan:
        """Plans the way to a spec. Changes nothing, and asks no consent.

        :param spec: a dict; the path of a file; or the text of a spec, YAML or JSON. A ``str`` is text when
            it has a line break or begins with ``{``, and else a path.
        """
    def lease(
        self,
        *,
        gpu: int | str | Gpu | None = None,
        mig: str | None = None,
        share: str | Share | None = None,
        visible: str | EllipsisType | None = ...,
        count: int = 1,
        thread_percentage: float | None = None,
        pinned_memory: int | str | None = None,
        min_memory: int | str | None = None,
        min_sm_count: int | None = None,
        timeout: float | timedelta | None = 0,
        create: bool = False,
        give_back: bool = False,
        for_pid: int | None = None,
        allow_hazards: str | Iterable[str] = (),
        progress: Callable[[Event], object] | None = None,
    ) -> Lease:
        """Leases what is asked for, or waits for it as long as ``timeout`` says. Use it with ``with``.

        At most one of ``gpu``, ``mig`` and ``share``; without them any share of any GPU.

        :param gpu: a share of that GPU: NVML's index (never a CUDA ordinal), a uuid or the beginning of
            one, a PCI address, ``"all"`` for any, or a :class:`Gpu`.
        :param mig: a MIG device of that profile, ``"1g.10gb"``; ``"1g"`` is the smallest of a GPU, ``"any"``
            the smallest that has what is asked for.
        :param share: that share, by its id.
        :param visible: only what a process with that value of ``CUDA_VISIBLE_DEVICES`` would see; by
            default that of this process, None for everything.
        :param count: several shares, all or none, of different devices where there are enough.
        :param thread_percentage: MPS: the share of threads that the tenant is asked to take.
        :param pinned_memory: MPS: the device memory that it is asked to take, its context included.
        :param min_memory: devices with at least that much memory: bytes, or text like ``"20GiB"``. In text every
            spelling is a power of 1024, as MPS has it: ``"20GB"`` is ``"20GiB"``, and ``20e9`` is 20 * 10^9.
        :param min_sm_count: devices with at least that many multiprocessors.
        :param timeout: seconds to wait, first come first served: 0 does not wait, None waits for ever.
        :param create: creates the MIG device where none is free. Needs root; nothing is destroyed for it.
        :param give_back: destroys what was created when the lease is released, or its ``with`` ends: not when
            it is collected.
        :param for_pid: notes that the share is held for that process, which is another one.
        :param allow_hazards: names of hazards of the terms that are accepted.
        :param progress: called with an :class:`Event` every 100 ms of waiting; what it raises ends it.
        """
    def leased(
        self,
        *,
        gpu: int | str | Gpu | None = None,
        mig: str | None = None,
        share: str | Share | None = None,
        visible: str | EllipsisType | None = ...,
        count: int = 1,
        thread_percentage: float | None = None,
        pinned_memory: int | str | None = None,
        min_memory: int | str | None = None,
        min_sm_count: int | None = None,
        timeout: float | timedelta | None = 0,
        create: bool = False,
        give_back: bool = False,
        for_pid: int | None = None,
        allow_hazards: str | Iterable[str] = (),
        progress: Callable[[Event], object] | None = None,
    ) -> Callable[[Callable[Concatenate[Lease, _P], _R]], Callable[_P, _R]]:
        """Decorates a function that is to have a lease: each call takes one, gives it to the function as its
        first argument, and gives it back at the end. Takes what :meth:`lease` takes. A method takes its lease
        inside: its first argument is its own.
        """
    def leases(self) -> LeaseList:
        """Who has which share."""
    def cordon(self, gpu: int | str | Gpu, reason: str) -> None:
        """Stops new leases of a GPU until :meth:`uncordon`. Leases that are there stay. Needs root."""
    def uncordon(self, gpu: int | str | Gpu) -> None:
        """Lets a GPU's shares be leased again. Needs root."""
    def recover(
        self,
        progress: Callable[[Event], object] | None = None,
        *,
        timeout: float | timedelta | None = 0,
    ) -> Report:
        """Settles what dead appliers left: rolls it back, or else finishes it. Needs root.

        :param timeout: seconds to wait for locks: 0 does not wait, None waits for ever.
        """
    def doctor(self) -> Diagnosis:
        """What stands in the way of sharing GPUs here, and what mends it. Needs no privilege."""
    def advise(
        self,
        count: int = 1,
        *,
        memory: int | str | None = None,
        kernels: Literal["small", "large", "unknown"] = "unknown",
        isolation: Literal["none", "limits", "strict"] = "none",
        style: Literal["interactive", "batch", "unknown"] = "unknown",
        half_precision: bool = True,
        gpu: int | str | Gpu | None = None,
    ) -> Advice:
        """Which way to share suits a workload here, and the spec that does it.

        :param count: how many processes at the same time.
        :param memory: the device memory of each, its CUDA context included.
        :param kernels: whether one kernel fills a GPU: ``"small"``, ``"large"`` or ``"unknown"``.
        :param isolation: what must hold between them: ``"none"``, ``"limits"`` or ``"strict"``.
        :param style: how they use a GPU over time: ``"interactive"``, ``"batch"`` or ``"unknown"``.
        :param half_precision: whether they compute in bf16 or fp16.
        :param gpu: these GPUs alone.
        """
    def metrics(self) -> str:
        """The node in Prometheus' text format: modes, MIG devices, shares and leases, who computes with how
        much memory by which lease, MPS daemons, hazards in force, and transitions by what came of them.
        What this user may not see is missing.
        """
    def export(
        self,
        kind: ExportKind | str,
        *,
        config: str | None = None,
        image: str | None = None,
        cdi: bool = False,
        node: str | None = None,
        allow_hazards: str | Iterable[str] = (),
        cdi_program: str | PathLike[str] | None = None,
    ) -> Exported:
        """The state of this node in the words of another tool, with what they cannot say. Changes nothing, and
        needs no privilege.

        An option that the kind does not take is an InvalidRequestError.

        :param kind: in whose words: an :class:`ExportKind`, or its word.
        :param config: mig-parted and gpu-operator: the name of the config, by default ``current`` and
            ``gpushare``.
        :param image: docker-run and compose: the image, by default ``IMAGE``.
        :param cdi: docker-run and compose: name devices through CDI, and not through Docker's ``--gpus``.
        :param node: gpu-operator and gres: the name of the node, by default ``NODE``, and for gres lines of a
            file that is that node's own.
        :param allow_hazards: device-plugin, gpu-operator, resource-claim and gres: the names of hazards that
            are accepted.
        :param cdi_program: cdi: the absolute path of the ``gpushare`` command with which each container takes a
            lease of its share, such as :func:`command_path`. None for containers without leases. To keep
            specifications that follow the GPUs, ``cdi`` of :meth:`Plan.apply`.
        """
    def import_config(
        self,
        kind: Literal["mig-parted"],
        source: str | bytes | PathLike[str],
        *,
        config: str | None = None,
    ) -> Imported:
        """The spec that a file of another tool's means on this node, by that tool's own rules; what it would do
        in silence is in the notes, or refused. Changes nothing.

        :param kind: for which tool it was written: ``"mig-parted"``, a config file of version v1 or a
            checkpoint.
        :param source: the path of a file; or its text, YAML or JSON. A ``str`` is text when it has a line break
            or begins with ``{``, and else a path; bytes are text.
        :param config: the name of the config; needed unless the file has one alone.
        """
    def spec_in_force(self) -> SpecInForce:
        """A spec of what is in force here and a reboot or a reload of the driver would take away: the GPUs that
        gpushare manages and those with MIG instances, with placements and names. GPUs that nobody manages are
        left out. ``gpushare persist`` stores it for the next boot.
        """
    def _resolve(self, string: str | None) -> Resolution:
        """Behind :func:`gpushare.resolve_visible_devices`."""
    def _verify_mps(self, pid: int) -> Attachment:
        """Behind :func:`gpushare.mps.verify`."""
    def _split_mps(self, parts: int, gpu: int | str | Gpu | None) -> Split:
        """Behind :func:`gpushare.mps.split`."""
    def _hazards_mps(self, mps: Mapping[str, Any], gpu: int | str | Gpu) -> tuple[Hazard, ...]:
        """Behind :func:`gpushare.mps.hazards`."""
    def __reduce__(self) -> NoReturn: ...

@final
class Exported:
    """The state of a node in the words of another tool. ``str()`` is the text."""
    @property
    def kind(self) -> ExportKind:
        """In whose words."""
    @property
    def text(self) -> str:
        """The text, which ends with a line feed."""
    @property
    def cannot_say(self) -> tuple[str, ...]:
        """What is so on this node and cannot be said in these words, in sentences."""
    @property
    def simulated(self) -> bool:
        """Whether the node is simulated."""
    def to_dict(self) -> dict[str, Any]:
        """The same in dicts, lists and plain values: what the command line prints with ``--json``."""
    @staticmethod
    def _from_json(text: str) -> Exported: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class Imported:
    """A spec, from what was written for another tool. ``str()`` is the spec in YAML."""
    @property
    def spec(self) -> dict[str, Any]:
        """What the text asks of this node's GPUs: for :meth:`Node.plan`."""
    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, in sentences."""
    @staticmethod
    def _from_json(text: str) -> Imported: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

@final
class SpecInForce:
    """A spec of what is in force. ``str()`` is the spec in YAML."""
    @property
    def spec(self) -> dict[str, Any]:
        """What a reboot or a reload of the driver would take away, each GPU by its uuid: for :meth:`Node.plan`."""
    @property
    def cannot_say(self) -> tuple[str, ...]:
        """What is so on this node and no spec can say, in sentences."""
    @staticmethod
    def _from_json(text: str) -> SpecInForce: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, tuple[str]]: ...

def _command(own: Sequence[str], arguments: Sequence[str], /) -> int:
    """Runs the command: ``own`` starts it again, and the first of ``arguments`` is its name. Returns its exit
    status.
    """

def _end() -> None:
    """At exit: calls nobody back any more, and waits for who is called already."""

def _before_fork() -> None:
    """Lets no fork come in the middle of something. Who is in the middle may need the GIL to get on: others'
    handlers run between this and the fork.
    """

def _after_fork_in_parent() -> None:
    """Lets things go on."""

def _after_fork_in_child() -> None:
    """Gives up the leases of a parent in its forked child, but for those that were handed on."""
