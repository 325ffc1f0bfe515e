#!/usr/bin/env python3
"""Records how CUDA reads CUDA_VISIBLE_DEVICES on this machine.

    python3 tests/gpu/visible.py --out DIR

For each string of visible-strings.txt a process of its own loads libcuda with that environment,
and says what cuInit answered and which devices it has then. The record is DIR/h200-x2.tsv, named
after the model and number of the GPUs. It changes nothing, makes no context and needs no root.

Its lines have CUDA_DEVICE_ORDER (`-` where it was unset) and the string as JSON (null for unset), what
cuInit answered, how many devices there were, and which. A process that came to no answer has `exit` and
its status, and nothing more.

The record holds no uuid. A device is its place when the variable is unset, and a string stands as it
does in visible-strings.txt, which says how uuids are written there. With the record in
gpushare-core/data, gpushare's resolver is held against it on machines without a GPU.
"""

import argparse
import concurrent.futures
import ctypes
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
STRINGS = HERE / "visible-strings.txt"
VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
AT_ONCE = 8
TIMEOUT = 30.0
ENOUGH = 100.0
"""Seconds after which no further string is asked."""

# What is asked with another order of devices: the order, and the string or None for unset.
ORDERED = [
    (order, text)
    for order in ("FASTEST_FIRST", "PCI_BUS_ID", "", "nonsense")
    for text in (None, "0", "1,0")
]


def devices(hold):
    """In the child: what CUDA says, in one line of JSON; then perhaps holds the GPUs open."""
    cuda = ctypes.CDLL("libcuda.so.1")
    seen = {"init": cuda.cuInit(0), "uuids": []}
    count, version = ctypes.c_int(-1), ctypes.c_int()
    seen["count_rc"] = cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDriverGetVersion(ctypes.byref(version))
    seen["count"], seen["cuda"] = count.value, version.value
    for ordinal in range(count.value):
        device, raw, name = ctypes.c_int(), (ctypes.c_ubyte * 16)(), ctypes.create_string_buffer(96)
        for rc in (
            cuda.cuDeviceGet(ctypes.byref(device), ordinal),
            cuda.cuDeviceGetUuid_v2(ctypes.byref(raw), device),
            cuda.cuDeviceGetName(name, len(name), device),
        ):
            if rc != 0:
                raise SystemExit(f"device {ordinal}: CUDA answered {rc}")
        digits = bytes(raw).hex()
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        seen["uuids"].append("-".join(parts))
        seen["name"] = name.value.decode()
    print(json.dumps(seen), flush=True)
    if hold:
        sys.stdin.read()


def child(text, order, nowhere):
    """The command and the environment of a child."""
    drop = re.compile(r"CUDA_|NVIDIA_")
    environment = {key: value for key, value in os.environ.items() if not drop.match(key)}
    # Without a directory CUDA would look for an MPS daemon in the default one.
    environment["CUDA_MPS_PIPE_DIRECTORY"] = nowhere
    if text is not None:
        environment[VARIABLE] = text
    if order is not None:
        environment[ORDER] = order
    # A locale must not keep a string from being what the record says.
    value = {os.fsencode(k): v.encode() if k == VARIABLE else os.fsencode(v)
             for k, v in environment.items()}
    return [sys.executable, "-I", "-S", __file__, "--child"], value


def ask(text, order, nowhere):
    """What a process with that environment sees."""
    command, environment = child(text, order, nowhere)
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=TIMEOUT, check=False,
        )
    except subprocess.TimeoutExpired:
        return {"exit": "timeout"}
    if done.returncode != 0:
        print(f"{text!r:.200}: exit {done.returncode}: {done.stderr[-300:]}", file=sys.stderr)
        return {"exit": str(done.returncode)}
    return json.loads(done.stdout)


class Machine:
    """The GPUs in CUDA's order: what the placeholders of a string stand for."""

    def __init__(self, seen):
        self.uuids = seen["uuids"]
        self.name, self.cuda = seen.get("name", ""), seen["cuda"]

    def expand(self, text):
        """The string that CUDA gets; None where it names a GPU that is not here."""
        try:
            return re.sub(r"\{([^{}]+)\}", self._placeholder, text)
        except IndexError:
            return None

    def _placeholder(self, match):
        inner = match[1]
        if inner == "!":
            begun = {uuid[0] for uuid in self.uuids}
            return next(digit for digit in "fedcba" if digit not in begun)
        if repeated := re.fullmatch(r"(.+)\*(\d+)", inner, re.DOTALL):
            return repeated[1] * int(repeated[2])
        gpu, length, capital = re.fullmatch(r"(\d+)(?::(\d+)(u?))?", inner).groups()
        uuid = self.uuids[int(gpu)]
        if length is None:
            return f"GPU-{uuid}"
        begin = uuid[: int(length)]
        return begin.upper() if capital else begin

    def places(self, uuids):
        return ",".join(str(self.uuids.index(uuid)) for uuid in uuids) or "-"

    def header(self):
        """What has to be known of the machine to repeat the record without it."""
        common = len(os.path.commonprefix(self.uuids)) if len(self.uuids) > 1 else 0
        digits = [re.match(r"\d*", uuid)[0] for uuid in self.uuids]
        cuda = f"{self.cuda // 1000}.{self.cuda % 1000 // 10}"
        driver = next(iter(query("driver_version")), ["unknown"])[0]
        return [
            "# How CUDA read CUDA_VISIBLE_DEVICES. Written by tests/gpu/visible.py, which says what the columns mean.",
            f"# {len(self.uuids)} GPUs: {self.name}; driver {driver}, CUDA {cuda},"
            f" {time.strftime('%Y-%m-%d', time.gmtime())}",
            *(f"# NVML {line}" for line in nvml(self.uuids)),
            f"# gpus {len(self.uuids)}",
            "# common " + str(common),
            *(f"# digits {gpu} {found}".rstrip() for gpu, found in enumerate(digits)),
            "order\tstring\tcuInit\tcount\tdevices",
        ]


def query(fields):
    """What nvidia-smi says of each GPU; nothing where it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"nvidia-smi: {error}", file=sys.stderr)
        return []
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]


def nvml(uuids):
    """How NVML orders the devices of CUDA."""
    rows = query("index,uuid,mig.mode.current,compute_mode,pci.bus_id")
    by_bus = sorted(row[4] for row in rows)
    for index, uuid, mig, mode, bus in rows:
        uuid = uuid.removeprefix("GPU-")
        place = uuids.index(uuid) if uuid in uuids else "no device"
        yield (
            f"index {index} is CUDA's {place} and by PCI address {by_bus.index(bus)};"
            f" MIG {mig}, compute mode {mode}"
        )


def strings():
    lines = STRINGS.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line and not line.startswith("#")]


def row(machine, order, text, seen):
    columns = ["-" if order is None else json.dumps(order), json.dumps(text)]
    if "exit" in seen:
        columns += [f"exit {seen['exit']}", "-", "-"]
    else:
        count = seen["count"] if seen["count_rc"] == 0 else f"error {seen['count_rc']}"
        columns += [str(seen["init"]), str(count), machine.places(seen["uuids"])]
    return "\t".join(columns)


def record(out):
    began = time.monotonic()
    command, environment = child(None, None, str(out))
    # It holds the GPUs open: opening them anew takes longer than all the rest.
    with subprocess.Popen(
        [*command, "--hold"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder, tempfile.TemporaryDirectory(prefix="gs-") as nowhere:
        machine = Machine(json.loads(holder.stdout.readline()))
        if not machine.uuids:
            raise SystemExit("CUDA sees no device when the variable is unset")
        wanted = [(None, None, None)] + [(order, text, text) for order, text in ORDERED]
        wanted += [(None, text, machine.expand(text)) for text in strings()]
        wanted = [one for one in wanted if one[1] is None or one[2] is not None]

        def answer(one):
            if time.monotonic() - began > ENOUGH:
                return None
            return ask(one[2], one[0], nowhere)

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(zip(wanted, pool.map(answer, wanted)))
        holder.stdin.close()
    rows = [row(machine, *one[:2], seen) for one, seen in answers if seen is not None]
    model = re.sub(r"^NVIDIA ", "", machine.name).split()[0].lower()
    path = out / f"{model}-x{len(machine.uuids)}.tsv"
    path.write_text("\n".join([*machine.header(), *rows]) + "\n", encoding="utf-8")
    print(f"{path}: {len(rows)} of {len(wanted)} in {time.monotonic() - began:.1f} s")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where the record goes")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return devices(arguments.hold)
    if arguments.out is None:
        parser.error("--out is needed")
    arguments.out.mkdir(parents=True, exist_ok=True)
    return record(arguments.out)


if __name__ == "__main__":
    main()
