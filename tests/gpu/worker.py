#!/usr/bin/env python3
"""A CUDA process: says what it sees, and works or waits until it is told to end.

Prints JSON lines: `ready` with what it sees, `rate` while it works, `end`, and `error` with the
call, CUDA's code and its name. Exit status 0, or 3 after an error of CUDA.
It is a client of an MPS daemon where CUDA_MPS_PIPE_DIRECTORY leads to one.
"""

import argparse
import ctypes
import json
import os
import select
import sys
import time

from libcuda import Churn, Cuda, CudaError

MIB = 1 << 20
PR_SET_DUMPABLE = 4


def say(event, **facts):
    line = {"event": event, "time_s": round(time.time(), 6), "pid": os.getpid(), **facts}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def become(uid):
    """Another user, without supplementary groups."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    # As after an exec: else /proc/self would stay root's, and libcuda reads it.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def reach():
    """Whether this user may connect to the daemon of its environment; None where it has none."""
    directory = os.environ.get("CUDA_MPS_PIPE_DIRECTORY")
    return directory and os.access(os.path.join(directory, "control"), os.W_OK)


def told_to_end(until_eof):
    """Whether standard input was closed, or has a line."""
    return until_eof and bool(select.select([0], [], [], 0)[0])


def see(cuda, arguments):
    opened = time.monotonic()
    cuda.init()
    gpu = cuda.open(arguments.gpu)
    seconds = round(time.monotonic() - opened, 4)
    free, total = cuda.memory()
    tried = []
    for mebibytes in arguments.try_mib:
        try:
            cuda.free(cuda.allocate(mebibytes * MIB))
            tried.append({"mebibytes": mebibytes, "code": 0, "name": "CUDA_SUCCESS"})
        except CudaError as error:
            tried.append({"mebibytes": mebibytes, "code": error.code, "name": error.name})
    if arguments.hold_mib:
        address = cuda.allocate(arguments.hold_mib * MIB)
        cuda.fill(address, arguments.hold_mib * MIB // 4)
        cuda.synchronize()
    return {
        "gpu": gpu,
        "uid": os.getuid(),
        "sm_count": cuda.sm_count(),
        "free_bytes": free,
        "total_bytes": total,
        "tried": tried,
        "open_s": seconds,
        "control_reachable": reach(),
    }


def hold(arguments):
    until = time.monotonic() + arguments.seconds
    while time.monotonic() < until and not told_to_end(arguments.until_eof):
        time.sleep(0.02)


def busy(cuda, churn, arguments):
    began = last = time.monotonic()
    done = since = 0
    while last - began < arguments.seconds and not told_to_end(arguments.until_eof):
        for _ in range(20):
            churn.once()
        cuda.synchronize()
        done, since = done + 20, since + 20
        now = time.monotonic()
        if now - last >= arguments.every:
            say("rate", per_s=round(since / (now - last), 1), done=done)
            since, last = 0, now


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["info", "hold", "busy"])
    parser.add_argument("seconds", type=float, nargs="?", default=60.0, help="for hold and busy")
    parser.add_argument("--gpu", help="the uuid of the GPU; the first that it sees by default")
    parser.add_argument("--uid", type=int, help="become that user and group first (root alone)")
    parser.add_argument("--try-mib", type=int, action="append", default=[], metavar="N",
                        help="allocate N MiB, say what came of it, and free them")
    parser.add_argument("--hold-mib", type=int, default=0, metavar="N", help="keep N MiB")
    parser.add_argument("--every", type=float, default=0.2, help="seconds between rates")
    parser.add_argument("--until-eof", action="store_true",
                        help="end when standard input is closed or has a line")
    arguments = parser.parse_args()
    try:
        cuda = Cuda()
    except (OSError, AttributeError) as error:
        say("error", call="dlopen", code=None, name=str(error))
        return 3
    if arguments.uid is not None:
        become(arguments.uid)
    try:
        facts = see(cuda, arguments)
        churn = Churn(cuda) if arguments.mode == "busy" else None
        if churn:
            facts["work"] = churn.work
        say("ready", **facts)
        if arguments.mode == "hold":
            hold(arguments)
        elif churn:
            busy(cuda, churn, arguments)
        cuda.close()
    except CudaError as error:
        say("error", call=error.call, code=error.code, name=error.name, uid=os.getuid(),
            control_reachable=reach())
        # Not by CUDA's own clean-up, which may wait for a server that is gone.
        os._exit(3)
    say("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
