#!/usr/bin/env python3
"""`mps disable` with a busy client: refused without a grace time, within a second with none; what
the client gets, what is left, and how long `mps enable` takes."""

import statistics
import time

from harness import brief, main, parser


def rate(client, seconds):
    """The median of its rates from now on; 0 where it says none."""
    since = time.time()
    time.sleep(seconds)
    rates = client.rates(since)
    return round(statistics.median(rates), 1) if rates else 0.0


def refused(session, report, client):
    before = rate(client, 2.0)
    answer = session.disable()
    report.check("mps disable with a busy client is BUSY", answer.rc == 1 and answer.code == "BUSY", answer)
    report.check("it names the client", str(client.pid) in answer.stderr)
    report.check("the daemon still serves", session.serves())
    after = rate(client, 2.0)
    report.figure("rate_before_per_s", before)
    report.figure("rate_after_per_s", after)
    report.check("the client runs on at full speed", after >= 0.9 * before > 0)


def ended(session, report, client):
    began = time.time()
    answer = session.disable("--grace", "0")
    report.figure("disable_s", round(answer.seconds, 3))
    report.check("mps disable --grace 0 ends it", answer.rc == 0, answer)
    report.check("within a second", answer.seconds <= 1.0, f"{answer.seconds:.3f} s")
    error = client.wait_for("error", timeout=10) or {}
    report.check("the client gets an error of CUDA", error.get("code") in (719, *range(800, 811)), error)
    report.figure("client_error", [error.get("code"), error.get("name")])
    if error:
        report.figure("client_error_after_s", round(error["time_s"] - began, 3))
    left = session.wait_until_gone(0.5)
    report.check("no MPS process of ours is left", not left, left)
    report.check("compute mode is what it was", session.compute_mode_now() == session.compute_mode)
    report.check("status says that no daemon serves", not session.serves())
    report.check("a CUDA process has the whole GPU again",
                 (seen := session.look()).get("sm_count") == session.total, brief(seen))


def times(session, report, runs=10):
    enable, disable = [], []
    for _ in range(runs):
        answer = session.try_enable("--thread-percentage", "25")
        if answer.rc != 0 or not session.serves():
            report.check("mps enable", False, answer)
            return
        enable.append(answer.seconds)
        answer = session.disable("--grace", "0")
        if answer.rc != 0:
            report.check("mps disable of an idle daemon", False, answer)
            return
        disable.append(answer.seconds)
    report.check(f"{runs} times mps enable and disable", True)
    for name, values in [("enable", enable), ("disable_idle", disable)]:
        in_order = [round(f(values), 4) for f in (min, statistics.median, max)]
        report.figure(f"{name}_s_min_median_max", in_order)


def body(session, report):
    plain = session.look()
    session.total = plain.get("sm_count")
    mps = session.enable("--thread-percentage", "25")
    client = session.worker("busy", "60", pipe=mps["directory"])
    if report.check("a client is at work", client.seen["event"] == "ready", brief(client.seen)):
        report.say(f"its work: {client.seen['work']}")
        refused(session, report, client)
        ended(session, report, client)
    else:
        session.disable("--grace", "0")
    times(session, report)


if __name__ == "__main__":
    main("disable", parser(__doc__).parse_args(), body)
