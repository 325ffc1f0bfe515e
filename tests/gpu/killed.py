#!/usr/bin/env python3
"""gpushare is killed by SIGKILL at many moments of `mps enable` and `mps disable`, and
`gpushare recover` follows. Afterwards our daemon serves, or nothing of ours runs."""

import collections
import subprocess
import time

from harness import brief, main, parser, sms

PERCENT = 25


def moments(first, last, count):
    return [first + (last - first) * i / max(1, count - 1) for i in range(count)]


def killed_after(session, seconds, *arguments):
    """Runs the command and kills it, and it alone, after that time. Whether it still ran."""
    process = subprocess.Popen(
        session.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=session.environment(),
    )
    until = time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        if left > 0.001:
            time.sleep(left - 0.001)
    process.kill()
    return process.wait() == -9


def settled(session):
    """What recover leads to: `serves`, `nothing`, or what is wrong."""
    answer = session.run("recover", "--timeout", "20")
    if answer.rc != 0:
        return f"recover: {answer}"
    gpu = session.status()
    left = session.ours()
    if session.serves(gpu):
        until = time.monotonic() + 0.5
        while (count := sum("control" in line for _, line in left)) != 1 and time.monotonic() < until:
            time.sleep(0.02)
            left = session.ours()
        return "serves" if count == 1 else f"it serves, and there run {left}"
    mps = gpu.get("mps") or {}
    if gpu.get("mode") == "mps" or gpu.get("unsettled") or mps.get("ours"):
        return f"mode {gpu.get('mode')}, unsettled {gpu.get('unsettled')}, mps {mps}"
    # A daemon on its way would show itself by now.
    time.sleep(0.1)
    left = session.wait_until_gone(0.3)
    # So that what one run left is not counted again by the next ones.
    session.kill(left)
    return f"nothing serves, and there run {left}" if left else "nothing"


def clean(session):
    """To an idle GPU before the next run; what went wrong, or None."""
    answer = session.disable("--grace", "0")
    if answer.rc != 0:
        return f"mps disable afterwards: {answer}"
    left = session.wait_until_gone(1.0)
    session.kill(left)
    return f"left after mps disable: {left}" if left else None


class Tally:
    def __init__(self, report, what):
        self.report, self.what = report, what
        self.outcomes = collections.Counter()
        self.interrupted = 0
        self.wrong = []

    def count(self, moment, killed, outcome, *more):
        self.interrupted += killed
        self.outcomes[outcome if outcome in ("serves", "nothing") else "wrong"] += 1
        for text in [outcome, *more]:
            if text not in ("serves", "nothing", None):
                self.wrong.append(f"{self.what} killed after {moment * 1000:.1f} ms: {text}")
                self.report.say(self.wrong[-1])

    def close(self, runs):
        name = self.what.replace("mps ", "")
        self.report.figure(f"{name}_killed", self.interrupted)
        self.report.figure(f"{name}_outcomes", dict(self.outcomes))
        self.report.check(f"{runs} times {self.what} killed: our daemon serves or nothing of ours runs",
                          not self.wrong and sum(self.outcomes.values()) == runs, self.wrong[:5] or "")
        # Runs that all ended by themselves would show nothing.
        self.report.check("enough of them were still on their way", 4 * self.interrupted >= runs,
                          f"{self.interrupted} of {runs}")


def enabling(session, report, total, runs, longest):
    tally = Tally(report, "mps enable")
    command = session.enabling("--thread-percentage", str(PERCENT))
    for run, moment in enumerate(moments(0.0005, longest, runs)):
        killed = killed_after(session, moment, *command)
        outcome, client, problem = settled(session), None, None
        if outcome == "serves" and run % 4 == 0:
            seen = session.look(pipe=session.mps()["directory"])
            if seen.get("sm_count") != sms(PERCENT, total):
                client = f"a client of it: {brief(seen)}"
        if outcome != "nothing":
            problem = clean(session)
        tally.count(moment, killed, outcome, client, problem)
    tally.close(runs)


def disabling(session, report, runs, longest):
    tally = Tally(report, "mps disable")
    command = ["mps", "disable", "-i", session.uuid, "--grace", "0"]
    for moment in moments(0.0005, longest, runs):
        mps = session.enable("--thread-percentage", str(PERCENT))
        client = session.worker("busy", "60", pipe=mps["directory"])
        unserved = None if client.seen["event"] == "ready" else f"its client: {brief(client.seen)}"
        killed = killed_after(session, moment, *command)
        outcome, fate = settled(session), None
        if outcome == "nothing":
            # Whoever was a client of a daemon that is gone has its error by now, or soon.
            if client.wait_for("error", "end", timeout=5) is None:
                fate = "the client of the daemon that is gone runs on"
        client.kill()
        problem = clean(session) if outcome != "nothing" else None
        tally.count(moment, killed, outcome, unserved, fate, problem)
    tally.close(runs)


def body(session, report):
    plain = session.look()
    if not report.check("a CUDA process sees the GPU", plain["event"] == "ready", brief(plain)):
        return
    # Undisturbed, to know how long there is something to interrupt.
    answer = session.try_enable("--thread-percentage", str(PERCENT))
    report.check("mps enable, undisturbed", answer.rc == 0 and session.serves(), answer)
    client = session.worker("busy", "60", pipe=session.mps().get("directory"))
    ending = session.disable("--grace", "0")
    report.check("mps disable with a client, undisturbed", ending.rc == 0, ending)
    client.kill()
    report.figure("enable_s", round(answer.seconds, 4))
    report.figure("disable_s", round(ending.seconds, 4))

    options = session.options
    longest = max(options.longest_ms / 1000, 1.1 * answer.seconds)
    enabling(session, report, plain["sm_count"], options.enable_runs, longest)
    disabling(session, report, options.disable_runs, max(0.02, min(1.0, ending.seconds)))

    mps = session.enable("--thread-percentage", str(PERCENT))
    seen = session.look(pipe=mps["directory"])
    report.check("after all that mps enable works as ever",
                 seen.get("sm_count") == sms(PERCENT, plain["sm_count"]), brief(seen))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--enable-runs", type=int, default=60, metavar="N")
    options.add_argument("--disable-runs", type=int, default=20, metavar="N")
    options.add_argument("--longest-ms", type=float, default=60.0, metavar="MS",
                         help="kill mps enable up to here, and up to its end (60)")
    main("killed", options.parse_args(), body)
