"""What this process's own CUDA shows it. Only the library that is loaded already is asked."""

from __future__ import annotations

import ctypes
import os
import uuid

from gpushare._errors import DriverError, UnsupportedError

NOT_INITIALIZED = 3
MULTIPROCESSOR_COUNT = 16


def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None


def _count(library: ctypes.CDLL) -> int | None:
    """How many devices CUDA shows; None where nobody has called cuInit yet. It has no effect."""
    count = ctypes.c_int()
    try:
        call = library.cuDeviceGetCount
    except AttributeError:
        raise DriverError(
            "the libcuda.so.1 that is loaded here has no cuDeviceGetCount: it is not NVIDIA's, and cannot "
            "say whether CUDA has begun; start a process with lease.env() instead"
        ) from None
    code = call(ctypes.byref(count))
    if code == NOT_INITIALIZED:
        return None
    return count.value if code == 0 else 0


def begun() -> bool:
    """Whether CUDA was initialised here, and has read its environment."""
    library = _library()
    return library is not None and _count(library) is not None


def devices() -> list[tuple[str, int, int]] | None:
    """Uuid, multiprocessors and bytes of each device; None where CUDA has not begun."""
    library = _library()
    count = None if library is None else _count(library)
    if library is None or count is None:
        return None
    seen: list[tuple[str, int, int]] = []
    for ordinal in range(count):
        device, raw = ctypes.c_int(), (ctypes.c_char * 16)()
        sm_count, memory = ctypes.c_int(), ctypes.c_size_t()
        calls = {
            "cuDeviceGet": (ctypes.byref(device), ordinal),
            # Version 2 gives a MIG device its own.
            "cuDeviceGetUuid_v2": (raw, device),
            "cuDeviceGetAttribute": (ctypes.byref(sm_count), MULTIPROCESSOR_COUNT, device),
            "cuDeviceTotalMem_v2": (ctypes.byref(memory), device),
        }
        for name, arguments in calls.items():
            try:
                call = getattr(library, name)
            except AttributeError:
                raise UnsupportedError(
                    f"the libcuda that is loaded here has no {name}: it is older than CUDA 11.4, and cannot "
                    "say which devices it shows; ask without inside=True"
                ) from None
            code = call(*arguments)
            if code:
                raise DriverError(f"CUDA does not describe its device {ordinal}: {name} returned {code}")
        seen.append((str(uuid.UUID(bytes=raw.raw)), sm_count.value, memory.value))
    return seen
