#!/usr/bin/env python3
"""Products of 512 x 512 fp32 matrices per second by 1, 2, 4 and 8 processes at once: without MPS, as
clients of a daemon that was started by hand, and of gpushare's at 100 %. Needs PyTorch."""

import contextlib
import json
import os
import subprocess
import sys
import time

from harness import HERE, client_pids, main, parser

SIZE = 512
BATCH = 100
# Measured by hand on an H200 (driver 580.159.04): MPS against none, all processes together.
MEASURED = {1: 0.98, 2: 1.63, 4: 2.33, 8: 2.09}


def child():
    """Multiplies from the moment it is ready; counts from one moment on to another."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    a, b = (torch.randn(SIZE, SIZE, device="cuda") for _ in range(2))
    product = torch.empty_like(a)

    def batch():
        for _ in range(BATCH):
            torch.mm(a, b, out=product)
        torch.cuda.synchronize()

    for _ in range(20):
        batch()
    expected = (a.double() @ b.double()).float()
    right = bool(torch.allclose(product, expected, rtol=1e-3, atol=1e-2))
    print(json.dumps({"event": "ready", "torch": torch.__version__, "right": right}), flush=True)
    first, last = map(float, sys.stdin.readline().split())
    ends = []
    while (now := time.time()) < last:
        batch()
        if now >= first:
            ends.append(time.time())
    rate = BATCH * (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0
    print(json.dumps({"event": "rate", "per_s": rate, "time_s": time.time()}), flush=True)


@contextlib.contextmanager
def by_hand(session):
    """NVIDIA's daemon as its guide starts it, in a directory of its own."""
    pipe = session.root + "/hand"
    os.mkdir(pipe)
    environment = {**session.environment(), "CUDA_MPS_PIPE_DIRECTORY": pipe,
                   "CUDA_MPS_LOG_DIRECTORY": pipe, "CUDA_VISIBLE_DEVICES": session.uuid}
    control = [os.environ.get("GPUSHARE_MPS_CONTROL", "nvidia-cuda-mps-control")]
    subprocess.run(control + ["-d"], env=environment, check=True, timeout=30)
    try:
        yield pipe
    finally:
        subprocess.run(control, input="quit -t 5\n", text=True, env=environment, timeout=60,
                       capture_output=True)
        time.sleep(1)


def rates_of(session, report, count, window, pipe, how):
    """One process alone waits for its own launches, which take their time as they like: the best of
    three runs."""
    runs = [together(session, report, count, window, pipe, how) for _ in range(3 if count == 1 else 1)]
    return max((rates for rates in runs if rates), key=sum, default=None)


def together(session, report, count, window, pipe, how):
    """The rates of so many processes in one common window."""
    environment = {"CUDA_VISIBLE_DEVICES": session.uuid,
                   "CUDA_MPS_PIPE_DIRECTORY": pipe or session.root + "/nobody-is-here"}
    command = [sys.executable, str(HERE / "throughput.py"), "--child"]
    workers = [session.child(command, environment) for _ in range(count)]
    ready = [worker.first(90) for worker in workers]
    fine = all(line["event"] == "ready" and line.get("right") for line in ready)
    if not report.check(f"{count} with {how}: ready, and their products are right", fine,
                        "" if fine else [line for line in ready if line["event"] != "ready"][:1]):
        for worker in workers:
            worker.kill()
        return None
    if how == "gpushare's MPS":
        clients = client_pids(session.mps())
        pids = {worker.pid for worker in workers}
        report.check(f"{count} with MPS: all are clients", pids <= clients, sorted(pids - clients))
    # Half a second of work by all before the window begins.
    first = time.time() + 0.8
    for worker in workers:
        worker.write(f"{first} {first + window}\n")
    lines = [worker.wait_for("rate", timeout=window + 20) for worker in workers]
    for worker in workers:
        worker.end()
    rates = [line["per_s"] if line else 0.0 for line in lines]
    report.check(f"{count} with {how}: all worked through the window", min(rates) > 0)
    return rates


def body(session, report):
    options = session.options
    table = {}
    for count in options.processes:
        table["no_mps", count] = rates_of(session, report, count, options.window, None, "no MPS")
    with by_hand(session) as pipe:
        for count in options.processes:
            table["hand", count] = rates_of(session, report, count, options.window, pipe, "MPS by hand")
    pipe = session.enable()["directory"]
    for count in options.processes:
        table["mps", count] = rates_of(session, report, count, options.window, pipe, "gpushare's MPS")
    answer = session.disable("--grace", "10")
    report.check("mps disable", answer.rc == 0, answer)

    report.say("processes   no MPS, together   MPS by hand   gpushare's MPS   MPS/none   gpushare/hand   by hand before")
    ratios, kept = {}, {}
    for count in options.processes:
        plain, hand, shared = (table[how, count] for how in ("no_mps", "hand", "mps"))
        if not report.check(f"{count} were measured in each way", plain and hand and shared):
            continue
        ratios[count] = round(sum(shared) / sum(plain), 3)
        kept[count] = round(sum(shared) / sum(hand), 3)
        sums = "   ".join(f"{sum(rates) / 1000:8.1f}k" for rates in (plain, hand, shared))
        report.say(f"{count:9}   {sums}   {ratios[count]:5.2f}   {kept[count]:5.2f}   {MEASURED.get(count, '')}")
        for how, rates in (("no_mps", plain), ("hand", hand), ("mps", shared)):
            report.figure(f"{how}_{count}_per_s", [round(rate) for rate in rates])
    report.figure("ratios", ratios)
    report.figure("gpushare_to_hand", kept)
    for count, ratio in kept.items():
        report.check(f"{count} processes lose at most 10 % to a daemon started by hand", ratio >= 0.9, ratio)
    # Not the figures themselves, which are this machine's: only that MPS is what it is for.
    if 1 in ratios:
        report.check("one process loses at most 15 % by MPS", ratios[1] >= 0.85, ratios[1])
    for count in (2, 4, 8):
        if count in ratios:
            report.check(f"{count} processes gain at least 20 % by MPS", ratios[count] >= 1.2, ratios[count])


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child()
        sys.exit()
    options = parser(__doc__)
    options.add_argument("--window", type=float, default=4.0, metavar="S", help="seconds counted (4)")
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    main("throughput", options.parse_args(), body)
