"""What nvidia-ml-py or nvitop show of this machine's GPUs: a line of tab-separated words for each thing.

read.py nvidia-ml-py|nvitop
"""

import contextlib
import ctypes
import sys


def say(field, *words):
    print(field, *words, sep="\t")


def nvidia_ml_py():
    import pynvml as nvml

    COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}

    def text(value):
        return value.decode() if isinstance(value, bytes) else value

    def number(value):
        return getattr(value, "value", value)

    def ask(function, *arguments):
        """None where the driver has no answer."""
        try:
            return function(*arguments)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            return None

    def all_of(function, owner, profile, of):
        """The handles that a function writes to a buffer of as many as the profile has at most."""
        buffer, count = (of * profile.instanceCount)(), ctypes.c_uint(profile.instanceCount)
        function(owner, profile.id, buffer, ctypes.byref(count))
        return [buffer[place] for place in range(count.value)]

    def instances(uuid, gpu):
        for place in range(nvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
            profile = ask(nvml.nvmlDeviceGetGpuInstanceProfileInfo, gpu, place)
            if profile is None:
                continue
            for gi in all_of(nvml.nvmlDeviceGetGpuInstances, gpu, profile, nvml.c_nvmlGpuInstance_t):
                info = nvml.nvmlGpuInstanceGetInfo(gi)
                where = info.placement
                say("gpu_instance", uuid, info.profileId, info.id, where.start, where.size)
                compute_instances(uuid, gi, info.id)

    def compute_instances(uuid, gi, gi_id):
        for place in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            profile = ask(nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo, gi, place, 0)
            if profile is None:
                continue
            for ci in all_of(
                nvml.nvmlGpuInstanceGetComputeInstances, gi, profile, nvml.c_nvmlComputeInstance_t
            ):
                info = nvml.nvmlComputeInstanceGetInfo_v2(ci)
                where = info.placement
                say("compute_instance", uuid, gi_id, info.profileId, info.id, where.start, where.size)

    def device(uuid, mig):
        ids = number(nvml.nvmlDeviceGetGpuInstanceId(mig)), number(nvml.nvmlDeviceGetComputeInstanceId(mig))
        name = text(nvml.nvmlDeviceGetName(mig))
        say("mig_device", uuid, name.rpartition(" MIG ")[2], text(nvml.nvmlDeviceGetUUID(mig)))
        memory = nvml.nvmlDeviceGetMemoryInfo(mig)
        say("mig_memory", uuid, *ids, memory.total)
        say("mig_used", uuid, *ids, memory.used)

    nvml.nvmlInit()
    for index in range(nvml.nvmlDeviceGetCount()):
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = text(nvml.nvmlDeviceGetUUID(gpu))
        say("index", uuid, nvml.nvmlDeviceGetIndex(gpu))
        say("name", uuid, text(nvml.nvmlDeviceGetName(gpu)))
        say("pci", uuid, text(nvml.nvmlDeviceGetPciInfo(gpu).busId))
        memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
        say("memory", uuid, memory.total)
        say("used", uuid, memory.used)
        modes = ask(nvml.nvmlDeviceGetMigMode, gpu) or ["-", "-"]
        say("mig", uuid, modes[0])
        say("mig_pending", uuid, modes[1])
        say("compute_mode", uuid, COMPUTE_MODES.get(ask(nvml.nvmlDeviceGetComputeMode, gpu), "-"))
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(gpu):
            say("process", uuid, process.pid, process.usedGpuMemory)
            if process.gpuInstanceId != 0xFFFFFFFF:
                say("process_instance", uuid, process.pid, process.gpuInstanceId, process.computeInstanceId)
        if modes[0] == 1:
            instances(uuid, gpu)
            for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                with contextlib.suppress(nvml.NVMLError_NotFound):
                    device(uuid, nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place))
    nvml.nvmlShutdown()


def nvitop():
    from nvitop import Device

    MODES = {"Disabled": 0, "Enabled": 1}

    def known(value):
        return "-" if value == "N/A" else value

    for gpu in Device.all():
        uuid = gpu.uuid()
        say("index", uuid, gpu.index)
        say("name", uuid, gpu.name())
        say("pci", uuid, gpu.bus_id())
        say("memory", uuid, gpu.memory_total())
        say("used", uuid, gpu.memory_used())
        say("mig", uuid, MODES.get(gpu.mig_mode(), "-"))
        say("compute_mode", uuid, known(gpu.compute_mode()).lower().replace(" ", "_"))
        for pid, process in gpu.processes().items():
            say("process", uuid, pid, process.gpu_memory())
        for mig in gpu.mig_devices():
            ids = mig.gpu_instance_id(), mig.compute_instance_id()
            say("mig_device", uuid, mig.name().rpartition(" MIG ")[2], mig.uuid())
            say("mig_memory", uuid, *ids, mig.memory_total())
            say("mig_used", uuid, *ids, mig.memory_used())
            for pid in mig.processes():
                say("process_instance", uuid, pid, *ids)


{"nvidia-ml-py": nvidia_ml_py, "nvitop": nvitop}[sys.argv[1]]()
