"""The few calls of NVIDIA's libcuda.so.1 that the tests on a GPU make, by ctypes.

Not called cuda.py: a module of that name would hide NVIDIA's package from PyTorch.
"""

import ctypes
import uuid as uuids

MULTIPROCESSOR_COUNT = 16
"""CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT"""

OUT_OF_MEMORY = 2

NAMES = {
    2: "CUDA_ERROR_OUT_OF_MEMORY",
    100: "CUDA_ERROR_NO_DEVICE",
    101: "CUDA_ERROR_INVALID_DEVICE",
    800: "CUDA_ERROR_NOT_PERMITTED",
    805: "CUDA_ERROR_MPS_CONNECTION_FAILED",
    806: "CUDA_ERROR_MPS_RPC_FAILURE",
    807: "CUDA_ERROR_MPS_SERVER_NOT_READY",
    808: "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED",
    809: "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED",
    810: "CUDA_ERROR_MPS_CLIENT_TERMINATED",
}
"""For a library that does not know the name, or is in no state to say it."""

PTX = b"""
.version 6.0
.target sm_70
.address_size 64
.visible .entry churn(.param .u64 churn_result, .param .u32 churn_rounds)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [churn_result];
    ld.param.u32 %r1, [churn_rounds];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r2, 0;
    mov.u32 %r3, 1;
    mov.u32 %r4, 1664525;
    mov.u32 %r5, 1013904223;
AGAIN:
    mad.lo.u32 %r3, %r3, %r4, %r5;
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p1, %r2, %r1;
    @%p1 bra AGAIN;
    st.global.u32 [%rd2], %r3;
    ret;
}
\0"""
"""A kernel that keeps its threads busy for a number of rounds. The driver compiles it."""


class CudaError(Exception):
    """A call of libcuda that failed."""

    def __init__(self, call, code, name):
        super().__init__(f"{call}: {name} ({code})")
        self.call, self.code, self.name = call, code, name


SIGNATURES = {
    "cuInit": [ctypes.c_uint],
    "cuDeviceGetCount": [ctypes.POINTER(ctypes.c_int)],
    "cuDeviceGet": [ctypes.POINTER(ctypes.c_int), ctypes.c_int],
    "cuDeviceGetUuid": [ctypes.c_void_p, ctypes.c_int],
    "cuDeviceGetAttribute": [ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int],
    "cuDevicePrimaryCtxRetain": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int],
    "cuDevicePrimaryCtxRelease_v2": [ctypes.c_int],
    "cuCtxSetCurrent": [ctypes.c_void_p],
    "cuCtxSynchronize": [],
    "cuMemGetInfo_v2": [ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)],
    "cuMemAlloc_v2": [ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t],
    "cuMemFree_v2": [ctypes.c_uint64],
    "cuMemsetD32_v2": [ctypes.c_uint64, ctypes.c_uint, ctypes.c_size_t],
    "cuModuleLoadData": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p],
    "cuModuleGetFunction": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_char_p],
    "cuLaunchKernel": [ctypes.c_void_p]
    + [ctypes.c_uint] * 7
    + [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p)],
    "cuGetErrorName": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
}


class Cuda:
    """libcuda, loaded and not yet initialised: the user may still change."""

    def __init__(self, path="libcuda.so.1"):
        self.library = ctypes.CDLL(path)
        for name, arguments in SIGNATURES.items():
            function = getattr(self.library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
        self.device = None
        self.context = None

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise CudaError(name, code, self.name_of(code))

    def name_of(self, code):
        text = ctypes.c_char_p()
        if self.library.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value:
            return text.value.decode()
        return NAMES.get(code, "unknown")

    def init(self):
        self.call("cuInit", 0)

    def uuids(self):
        """The uuids of the devices that this process sees, in CUDA's order."""
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        found = []
        for ordinal in range(count.value):
            device, raw = ctypes.c_int(), (ctypes.c_char * 16)()
            self.call("cuDeviceGet", ctypes.byref(device), ordinal)
            self.call("cuDeviceGetUuid", ctypes.byref(raw), device.value)
            found.append(f"GPU-{uuids.UUID(bytes=bytes(raw))}")
        return found

    def open(self, gpu=None):
        """A context on the device of that uuid, or on the first."""
        seen = self.uuids()
        ordinal = seen.index(gpu) if gpu in seen else 0
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), ordinal)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device.value)
        self.call("cuCtxSetCurrent", context)
        self.device, self.context = device.value, context
        return seen[ordinal] if seen else None

    def close(self):
        if self.context is not None:
            self.call("cuDevicePrimaryCtxRelease_v2", self.device)
            self.context = None

    def sm_count(self):
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), MULTIPROCESSOR_COUNT, self.device)
        return value.value

    def memory(self):
        """Free and total bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def free(self, address):
        self.call("cuMemFree_v2", address)

    def fill(self, address, words):
        self.call("cuMemsetD32_v2", address, 1, words)

    def synchronize(self):
        self.call("cuCtxSynchronize")


class Churn:
    """Small pieces of work, back to back: a kernel, or memory filled where none can be compiled."""

    WORDS = 16 << 20

    def __init__(self, cuda, rounds=4000):
        self.cuda = cuda
        self.blocks = cuda.sm_count()
        self.function = ctypes.c_void_p()
        module = ctypes.c_void_p()
        try:
            cuda.call("cuModuleLoadData", ctypes.byref(module), PTX)
            cuda.call("cuModuleGetFunction", ctypes.byref(self.function), module, b"churn")
            self.work = "kernel"
        except CudaError as error:
            self.work = f"memset, since {error}"
        self.address = cuda.allocate(4 * self.WORDS)
        # The launch reads the arguments through these, so they have to live as long as we do.
        self.values = ctypes.c_uint64(self.address), ctypes.c_uint32(rounds)
        pointers = [ctypes.cast(ctypes.pointer(value), ctypes.c_void_p) for value in self.values]
        self.arguments = (ctypes.c_void_p * 2)(*pointers)

    def once(self):
        if self.work == "kernel":
            self.cuda.call(
                "cuLaunchKernel", self.function, self.blocks, 1, 1, 128, 1, 1, 0, None,
                self.arguments, None,
            )
        else:
            self.cuda.fill(self.address, self.WORDS)
