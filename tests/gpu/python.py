#!/usr/bin/env python3
"""The Python package on a real GPU: what its import loads, what `status` says and takes beside nvidia-ml-py,
leases that this process takes, seen by its own CUDA, and the examples with PyTorch: four workers under MPS
beside the same that take turns, ranks of torchrun, a sweep."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from harness import HERE, main, parser, sms

EXAMPLES = HERE.parents[1] / "gpushare-py/examples"

# Each runs in an interpreter of its own and says one line of JSON last.
IMPORT = """
import json, sys, time
began = time.perf_counter()
import gpushare
took = time.perf_counter() - began
maps = open("/proc/self/maps").read()
print(json.dumps({"ms": took * 1000, "mapped": [n for n in ("libcuda", "libnvidia", "libnvrtc") if n in maps]}))
"""

# The same facts twice: with nothing open before, and while this process keeps the driver open.
STATUS = """
import json, statistics, sys, time
import gpushare

def us(call, rounds):
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return round(statistics.median(times) * 1e6, 1)

node = gpushare.Node()
out = {"ours": [gpu.to_dict() for gpu in node.status().gpus]}
try:
    import pynvml as n
except ImportError:
    out["open_close_us"] = us(node.status, 100)
    print(json.dumps(out))
    sys.exit()

# The calls that a status makes, no more and no fewer.
def facts():
    said = {"version": n.nvmlSystemGetDriverVersion(), "cuda": n.nvmlSystemGetCudaDriverVersion(), "gpus": []}
    for index in range(n.nvmlDeviceGetCount()):
        d = n.nvmlDeviceGetHandleByIndex(index)
        gpu = {
            "index": index, "uuid": n.nvmlDeviceGetUUID(d), "model": n.nvmlDeviceGetName(d),
            "minor": n.nvmlDeviceGetMinorNumber(d), "pci": n.nvmlDeviceGetPciInfo(d).busId,
            "memory_bytes": n.nvmlDeviceGetMemoryInfo(d).total, "cores": n.nvmlDeviceGetNumGpuCores(d),
            "compute_mode": n.nvmlDeviceGetComputeMode(d), "mig": n.nvmlDeviceGetMigMode(d),
            "capability": n.nvmlDeviceGetCudaComputeCapability(d),
            "processes": [(p.pid, p.usedGpuMemory) for p in n.nvmlDeviceGetComputeRunningProcesses(d)],
            "graphics": [p.pid for p in n.nvmlDeviceGetGraphicsRunningProcesses(d)],
            "profiles": [],
        }
        for number in range(n.NVML_GPU_INSTANCE_PROFILE_COUNT):
            try:
                profile = n.nvmlDeviceGetGpuInstanceProfileInfo(d, number, version=2)
                raw = profile.id
                places = n.c_uint(0)
                function = n._nvmlGetFunctionPointer("nvmlDeviceGetGpuInstancePossiblePlacements_v2")
                function(d, raw, None, n.byref(places))
                array = (n.c_nvmlGpuInstancePlacement_t * max(places.value, 1))()
                function(d, raw, array, n.byref(places))
                gpu["profiles"].append((raw, profile.sliceCount, [(p.start, p.size) for p in array[:places.value]]))
            except n.NVMLError:
                continue
        said["gpus"].append(gpu)
    return said

def opened():
    n.nvmlInit()
    try:
        return facts()
    finally:
        n.nvmlShutdown()

out["theirs"] = opened()
for name, call in (("open_close_us", node.status), ("ml_py_open_close_us", opened)):
    out[name] = us(call, 100)
n.nvmlInit()
for name, call in (("kept_open_us", node.status), ("ml_py_kept_open_us", facts)):
    call()
    out[name] = us(call, 200)
print(json.dumps(out))
"""

CUDA = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
def begin():
    assert cuda.cuInit(0) == 0
    count, device, context, sms = (ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int())
    cuda.cuDeviceGetCount(ctypes.byref(count))
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxSetCurrent(context) == 0
    cuda.cuDeviceGetAttribute(ctypes.byref(sms), 16, device)
    return count.value, sms.value
"""

# One that does it right, and what it sees.
RIGHT = CUDA + """
import gpushare, json, sys
node = gpushare.Node()
with node.lease(gpu=sys.argv[1], timeout=10) as lease:
    lease.activate()
    before = lease.verify(inside=False).verdict.value
    count, sms = begin()
    try:
        lease.activate()
        late = "nothing"
    except gpushare.InvalidStateError as error:
        late = str(error)
    inside = lease.verify(inside=True)
    outside = lease.verify()
    print(json.dumps({"before": before, "count": count, "sms": sms, "late": late, "share": lease.share,
        "sm_count": lease.sm_count, "inside": bool(inside), "inside_says": str(inside), "outside": bool(outside)}))
"""

# One that sets a variable wrong after activate(): CUDA says nothing, and it has the whole GPU.
MISSED = CUDA + """
import gpushare, json, os, sys
node = gpushare.Node()
with node.lease(gpu=sys.argv[1], timeout=10) as lease:
    lease.activate()
    os.environ["CUDA_MPS_PIPE_DIRECTORY"] += "x"
    count, sms = begin()
    inside, outside = lease.verify(inside=True), lease.verify()
    print(json.dumps({"sms": sms, "inside": inside.verdict.value, "outside": outside.verdict.value, "why": inside.reasons}))
"""

TORCH = """
import gpushare, json, sys, torch
node = gpushare.Node()
with node.lease(gpu=sys.argv[1], timeout=10) as lease:
    torch.zeros(1, device="cuda")
    try:
        lease.activate()
        said = "nothing"
    except gpushare.InvalidStateError as error:
        said = str(error)
print(json.dumps({"said": said}))
"""


# A parent with a share and CUDA, and two workers of a DataLoader with shares of their own.
LOADER = """
import json, os, sys
import gpushare, torch
from torch.utils import data

node = gpushare.Node()

class Samples(data.Dataset):
    def __init__(self, gpu, mine):
        self.gpu, self.mine = gpu, mine
    def __len__(self):
        return 8
    def __getitem__(self, number):
        said = "its own"
        if os.getpid() != self.mine and sys.argv[2] == "fork":
            try:
                node.status()
                said = "the parent's obeyed"
            except gpushare.InvalidStateError as error:
                said = "refused"
        with gpushare.Node().lease(gpu=self.gpu, timeout=30) as lease:
            return number, os.getpid(), lease.share, said

if __name__ == "__main__":
    with node.lease(gpu=sys.argv[1], timeout=10) as lease:
        lease.activate()
        mine = lease.share
        loader = data.DataLoader(Samples(sys.argv[1], os.getpid()), num_workers=2, batch_size=None,
                                 multiprocessing_context=sys.argv[2])
        seen = [tuple(sample) for sample in loader]
        product = float(torch.ones(4, device="cuda").sum())
        lease.check()
        inside = bool(lease.verify(inside=True))
    print(json.dumps({"mine": mine, "pids": len({s[1] for s in seen}), "shares": sorted({s[2] for s in seen}),
        "said": sorted({s[3] for s in seen}), "product": product, "inside": inside}))
"""


def options():
    made = parser(__doc__)
    made.add_argument("--package", metavar="DIR", help="where the package gpushare lies; as installed by default")
    made.add_argument("--bench", metavar="PATH", help="the benchmark `snapshot`, for what the same takes in Rust")
    made.add_argument("--seconds", type=float, default=8, help="how long the workers work (8)")
    made.add_argument("--only", choices=("import", "status", "lease", "examples"), action="append")
    return made.parse_args()


class Python:
    """Interpreters that use the package on the session's node."""

    def __init__(self, session, package):
        self.session = session
        more = {"GPUSHARE_STATE_DIR": session.root, "CUDA_CACHE_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
        if package:
            path = [str(pathlib.Path(package).resolve()), os.environ.get("PYTHONPATH")]
            more["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        self.environment = session.environment(**more)

    def run(self, command, timeout=120):
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run(command, env=self.environment, cwd=folder, capture_output=True, text=True,
                                  timeout=timeout, check=False)

    def says(self, code, *words):
        """What it says last, as JSON; its error where it says nothing."""
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(code)
            script.flush()
            done = self.run([sys.executable, script.name, *words])
        try:
            return json_of(done.stdout)
        except (ValueError, IndexError):
            return {"failed": done.returncode, "stderr": done.stderr[-1500:], "stdout": done.stdout[-300:]}

    def example(self, name, *words, launch=()):
        return self.run([sys.executable, *launch, str(EXAMPLES / name), *words], timeout=200)


def json_of(text):
    return json.loads(text.strip().splitlines()[-1])


def imports(python, report):
    said = [python.says(IMPORT) for _ in range(9)]
    took = sorted(one.get("ms", 9e9) for one in said)
    report.check("import maps no library of the driver", all(one.get("mapped") == [] for one in said), said[0])
    report.figure("import_ms_median", round(took[len(took) // 2], 2))


def status(python, report, bench):
    said = python.says(STATUS)
    if not report.check("status answers", "ours" in said, said):
        return
    for key in ("open_close_us", "kept_open_us", "ml_py_open_close_us", "ml_py_kept_open_us"):
        if key in said:
            report.figure(f"status_{key}", said[key])
    if "theirs" in said:
        for ours, other in zip(said["ours"], said["theirs"]["gpus"], strict=True):
            # The maker's name is left out of ours.
            other["model"] = other["model"].removeprefix("NVIDIA ")
            same = {key: (ours[key], other[key]) for key in ("index", "uuid", "model", "minor", "memory_bytes")}
            profiles = {(p["id"], p["slices"]): sorted((q["start"], q["size"]) for q in p["placements"])
                        for p in ours["mig"]["profiles"]}
            known = {(p[0], p[1]): sorted(map(tuple, p[2])) for p in other["profiles"]}
            report.check("both say the same of the GPU", all(a == b for a, b in same.values()), same)
            report.check("and of each profile with its placements", profiles == known and known,
                         f"{len(known)} profiles, {sum(map(len, known.values()))} placements")
        report.check("with the driver opened each time it is faster than nvidia-ml-py",
                     said["open_close_us"] < said["ml_py_open_close_us"])
        report.check("and with the driver kept open, too", said["kept_open_us"] < said["ml_py_kept_open_us"])
    if bench:
        done = subprocess.run([bench], capture_output=True, text=True, env=python.environment, timeout=120, check=False)
        report.say(done.stdout.strip())
        for line, key in (("the same, driver closed", "open_close_us"), ("open, snapshot, close", "kept_open_us")):
            found = re.search(rf"{line} +min [\d.]+  median ([\d.]+)", done.stdout)
            if report.check(f"measured in Rust: {line}", found, done.stderr):
                report.figure(f"rust_{key}", float(found[1]))
                report.check("Python takes at most 1.5 times that", said[key] <= 1.5 * float(found[1]),
                             round(said[key] / float(found[1]), 2))


def activation(session, python, report, total):
    said = python.says(RIGHT, session.uuid)
    report.check("after activate() CUDA shows one device, whole", (said.get("count"), said.get("sms")) == (1, total), said)
    report.check("activate() refuses once CUDA has begun", "CUDA" in said.get("late", ""), said.get("late"))
    report.check("the lease verifies from inside and from outside", said.get("inside") and said.get("outside"), said)
    report.check("before CUDA began it was unknown", said.get("before") == "unknown", said.get("before"))
    said = python.says(TORCH, session.uuid) if importlib.util.find_spec("torch") else {"said": "CUDA (no torch)"}
    report.check("with PyTorch, too, it refuses after the first tensor", "CUDA" in said.get("said", ""), said)
    session.enable("--thread-percentage", "25", "--pinned-memory-limit", "4GiB")
    said = python.says(RIGHT, session.uuid)
    wanted = sms(25, total)
    report.check("under MPS it sees its part, and the lease says the same",
                 (said.get("sms"), said.get("sm_count")) == (wanted, wanted), said)
    report.check("that is verified from inside and from outside", said.get("inside") and said.get("outside"), said)
    said = python.says(MISSED, session.uuid)
    report.check("one that misses the daemon has all SMs, and both verify calls say no",
                 (said.get("sms"), said.get("inside"), said.get("outside")) == (total, "not_attached", "not_attached"), said)
    report.check("disable", session.disable("--grace", "0").rc == 0)


def examples(session, python, report, seconds):
    def mode_now():
        gpus = session.run("status", "--json").document["gpus"]
        return next(gpu["mode"] for gpu in gpus if gpu["uuid"] == session.uuid)

    before = mode_now()

    def workers(count, mode):
        session.began = True
        keep = ["--keep-compute-mode"] if mode == "mps" else []
        done = python.example("mps_workers.py", "--gpu", session.uuid, "--workers", str(count), "--mode", mode,
                              "--seconds", str(seconds), *keep)
        found = re.search(rf"{mode}: (\d+) batches per second", done.stdout)
        verified = len(re.findall(r"worker \d, pid .* batches, attached", done.stdout))
        report.check(f"{count} workers, {mode}: done, each verified from inside",
                     done.returncode == 0 and found and verified == count,
                     f"exit {done.returncode}\n{done.stdout}{done.stderr[-1500:]}")
        rate = int(found[1]) if found else 0
        report.figure(f"workers_{count}_{mode}_per_s", rate)
        return rate

    workers(1, "time_sliced")
    rates = []
    # In turn, so that a slow moment hits both.
    for _ in range(2):
        rates.append((workers(4, "time_sliced"), workers(4, "mps")))
    ratios = [round(mps / turns, 2) for turns, mps in rates if turns]
    report.figure("workers_4_mps_to_time_sliced", ratios)
    report.check("the GPU is as it was before them", mode_now() == before, (before, mode_now()))
    answer = session.run("time-slice", "--replicas", "3", "-i", session.uuid)
    report.check("three replicas", answer.rc == 0, answer)
    done = python.example("torchrun_shares.py", launch=("-m", "torch.distributed.run", "--nproc-per-node=3"))
    shares = set(re.findall(r"rank \d of 3: (\S+)", done.stdout))
    report.check("three ranks of torchrun have three shares, and talk",
                 done.returncode == 0 and len(shares) == 3 and done.stdout.count("over the ranks is 6") == 3,
                 f"exit {done.returncode}\n{done.stdout}{done.stderr[-1000:]}")
    for start, wanted in (("fork", ["refused"]), ("spawn", ["its own"])):
        said = python.says(LOADER, session.uuid, start)
        right = (said.get("pids"), said.get("said"), said.get("inside")) == (2, wanted, True)
        report.check(f"workers of a DataLoader ({start}) lease for themselves, and not their parent's share",
                     right and said["mine"] not in said["shares"], said)
    done = python.example("sweep.py", "--workers", "3")
    shares = set(re.findall(r"pid \d+ on (\S+)", done.stdout))
    report.check("a sweep by three workers", done.returncode == 0 and "best: 0.4" in done.stdout and "plain" not in done.stdout,
                 f"exit {done.returncode}\n{done.stdout}{done.stderr[-1000:]}")
    report.check("each on a share of its own", len(shares) in (2, 3), shares)


def body(session, report):
    python = Python(session, arguments.package)
    if python.says("import gpushare; print(1)") != 1:
        report.skipped = "the package gpushare is not installed; name its folder by --package"
        report.say(f"SKIPPED: {report.skipped}")
        return
    only = arguments.only or ("import", "status", "lease", "examples")
    if "import" in only:
        imports(python, report)
    if "status" in only:
        status(python, report, arguments.bench)
    if "lease" in only:
        activation(session, python, report, session.look()["sm_count"])
    if "examples" not in only:
        return
    if importlib.util.find_spec("torch"):
        examples(session, python, report, arguments.seconds)
    else:
        report.say("SKIPPED: the examples: there is no PyTorch")


if __name__ == "__main__":
    arguments = options()
    main("python", arguments, body)
