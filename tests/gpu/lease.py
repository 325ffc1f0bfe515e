#!/usr/bin/env python3
"""Leases on a real GPU: tenants under MPS with limits that are verified, one that misses its daemon and
is ended, replicas, a holder for another process, and what `doctor` says before and after the daemon
is killed. Compute mode and interval stay what they are."""

import os
import signal
import statistics
import subprocess
import sys
import time

from harness import WORKER, brief, main, parser, sms


def tenant(session, *options, worker=("hold", "60"), shell=None):
    """A CUDA process below `gpushare run`."""
    inner = [sys.executable, str(WORKER), *worker, "--gpu", session.uuid, "--until-eof"]
    if shell:
        inner = ["/bin/sh", "-c", f"{shell}; exec \"$@\"", "sh", *inner]
    command = session.command("run", "--gpu", session.uuid, *options, "--", *inner)
    child = session.child(command, {"CUDA_CACHE_DISABLE": "1"})
    child.seen = child.first()
    return child


def leases(session):
    document = session.run("leases", "--json").document or {}
    for gpu in document.get("gpus", []):
        if gpu.get("uuid") == session.uuid:
            return [share for share in gpu["shares"] if share["holder"]]
    return []


def wait_free(session, timeout=5.0):
    until = time.monotonic() + timeout
    while (held := leases(session)) and time.monotonic() < until:
        time.sleep(0.05)
    return held


def start_up(session, report):
    """What `run` adds to the start of a command."""
    def median(command, rounds=30):
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run(command, env=session.environment(), check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1000

    alone = median(["/bin/true"])
    cold = median(session.command("run", "--gpu", session.uuid, "--", "/bin/true"))
    report.figure("run_adds_ms_driver_closed", round(cold - alone, 2))
    # As with persistence mode: somebody holds every GPU of the machine open.
    keeper = subprocess.Popen(["nvidia-smi", "-l", "1"], stdout=subprocess.DEVNULL)
    time.sleep(1.0)
    open_ = median(session.command("run", "--gpu", session.uuid, "--", "/bin/true"))
    report.figure("run_adds_ms_gpus_open", round(open_ - alone, 2))
    keeper.kill()
    keeper.wait()


def whole_gpu(session, report, total):
    child = tenant(session)
    report.check("a tenant of the whole GPU sees all of it",
                 child.seen.get("sm_count") == total, brief(child.seen))
    held = leases(session)
    report.check("leases shows it as the holder, by its own pid: run became it",
                 [share["holder"]["pid"] for share in held] == [child.pid], held)
    refused = session.run("run", "--gpu", session.uuid, "--", "true")
    report.check("nobody else gets it meanwhile", (refused.rc, refused.code) == (125, "BUSY"), refused)
    report.check("it ends without an error", child.end() == 0)
    report.check("and the share is free", not wait_free(session), leases(session))

    stranger = session.worker("hold", "30", "--hold-mib", "16")
    refused = session.run("run", "--gpu", session.uuid, "--", "true")
    report.check("a process without a lease is in the way of the whole GPU, and named",
                 refused.code == "BUSY" and str(stranger.pid) in refused.stderr, refused)
    report.check("it ends, too", stranger.end() == 0)


def replicas(session, report, total):
    dry = session.run("time-slice", "-i", session.uuid, "--replicas", "4", "--dry-run", "--json")
    plan = dry.document or {}
    steps = [step["step"] for gpu in plan.get("gpus", []) for step in gpu["steps"]]
    if not report.check("four replicas change nothing but the record", steps == ["write_record"], steps):
        return
    session.run("time-slice", "-i", session.uuid, "--replicas", "4")
    children = [tenant(session) for _ in range(4)]
    report.check("four tenants at once", all(c.seen.get("sm_count") == total for c in children),
                 [brief(c.seen) for c in children])
    fifth = session.run("run", "--gpu", session.uuid, "--timeout", "0.3", "--", "true")
    report.check("no fifth, also after waiting", (fifth.rc, fifth.code) == (125, "TIMEOUT"), fifth)
    os.kill(children[0].pid, signal.SIGKILL)
    began = time.monotonic()
    next_one = session.run("run", "--gpu", session.uuid, "--timeout", "10", "--", "true")
    report.check("when one is killed, who waits gets its share", next_one.rc == 0, next_one)
    report.figure("share_of_a_killed_tenant_after_s", round(time.monotonic() - began, 3))
    for child in children[1:]:
        child.end()
    wait_free(session)


def under_mps(session, report, total):
    mps = session.enable("--max-clients", "4")
    pipe = mps["directory"]
    start_up(session, report)
    options = ["hold", "60", "--try-mib", "1024", "--try-mib", "3072", "--hold-mib", "128"]
    first = tenant(session, "--thread-percentage", "25", "--pinned-memory-limit", "2GiB", "--verify",
                   worker=options)
    second = tenant(session, "--thread-percentage", "50", "--pinned-memory-limit", "4GiB", "--verify",
                    worker=options)
    for child, percent, fits in ((first, 25, False), (second, 50, True)):
        seen = child.seen
        report.check(f"the tenant with {percent} % sees {sms(percent, total)} of {total} SMs",
                     seen.get("sm_count") == sms(percent, total), brief(seen))
        tried = {t["mebibytes"]: t["code"] for t in seen.get("tried", [])}
        report.check("its memory limit holds", tried.get(1024) == 0 and (tried.get(3072) == 0) == fits,
                     tried)
    time.sleep(1.5)
    report.check("both are verified and live on", first.running() and second.running())
    held = leases(session)
    report.check("leases shows what they declared",
                 sorted(share["lease"]["terms"].get("thread_percentage", 0) for share in held) == [25, 50],
                 held)
    refused = session.run("run", "--gpu", session.uuid, "--thread-percentage", "50", "--", "true")
    report.check("more than 100 % is not promised", refused.code == "BUSY", refused)
    hazard = session.run("run", "--gpu", session.uuid, "--thread-percentage", "20", "--", "true")
    report.check("a percentage that corrupts is refused", hazard.code == "HAZARD", hazard)

    began = time.monotonic()
    lost = tenant(session, "--thread-percentage", "10", "--verify",
                  shell="export CUDA_MPS_PIPE_DIRECTORY=/tmp/nobody-is-here")
    lost.process.wait(timeout=30)
    report.check("a tenant that misses the daemon is ended, and run fails",
                 lost.process.returncode == 125 and "not inside its share" in lost.stderr(),
                 [lost.process.returncode, lost.stderr()[-300:]])
    report.figure("missed_daemon_ended_after_s", round(time.monotonic() - began, 2))

    sleeper = subprocess.Popen(["sleep", "60"])
    answer = session.run("lease", "--gpu", session.uuid, "--thread-percentage", "10",
                         "--pid", str(sleeper.pid), "--json")
    lease = answer.document or {}
    report.check("a lease for another process", answer.rc == 0 and lease.get("variables"), answer)
    client = session.worker("hold", "30", pipe=lease["variables"]["CUDA_MPS_PIPE_DIRECTORY"],
                            CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=lease["variables"]
                            ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"])
    report.check("its variables give what it says", client.seen.get("sm_count") == lease["shares"][0]
                 ["sm_count"], [brief(client.seen), lease["shares"][0]["sm_count"]])
    client.end()
    sleeper.kill()
    sleeper.wait()
    for child in (first, second):
        child.process.stdin.close()
        report.check("a verified tenant's exit status is run's", child.process.wait(timeout=30) == 0)
    left = wait_free(session)
    report.check("all shares are free again", not left, left)
    return pipe


def diagnosed(session):
    answer = session.run("doctor", "--json")
    found = (answer.document or {}).get("findings", [])
    return answer, [finding for finding in found if finding.get("gpu") in (session.uuid, None)]


def doctor(session, report):
    answer, before = diagnosed(session)
    report.say(f"before: {[finding['id'] for finding in before]}")
    daemon = session.mps().get("pid")
    os.kill(daemon, signal.SIGKILL)
    time.sleep(0.5)
    answer, after = diagnosed(session)
    new = [finding for finding in after if finding["id"] not in [b["id"] for b in before]]
    report.check("the doctor finds a daemon that was killed, by exit status 2, and says what mends it",
                 answer.rc == 2 and any(f["id"] == "daemon-dead" and f.get("mend") for f in new), new)
    report.figure("new_findings", [finding["id"] for finding in new])


def body(session, report):
    total = session.look().get("sm_count")
    whole_gpu(session, report, total)
    replicas(session, report, total)
    under_mps(session, report, total)
    doctor(session, report)


if __name__ == "__main__":
    main("lease", parser(__doc__).parse_args(), body)
