#!/usr/bin/env python3
"""Eight threads ask `gpushare mps status --json` without a pause: every answer is right. The daemon
itself serves one session at a time and breaks off the others."""

import statistics
import threading
import time

from harness import GIB, brief, client_pids, main, parser

PERCENT = 25


def wrong_with(session, answer, client):
    """What is wrong with an answer; None where nothing is."""
    document = answer.document
    if answer.rc != 0 or not isinstance(document, dict):
        return str(answer)
    gpus = [gpu for gpu in document.get("gpus", []) if gpu.get("uuid") == session.uuid]
    if len(gpus) != 1:
        return f"{len(gpus)} GPUs of the uuid"
    mps = gpus[0].get("mps") or {}
    config = mps.get("config") or {}
    if not session.serves(gpus[0]):
        return f"mode {gpus[0].get('mode')}, mps {mps}"
    if (config.get("thread_percentage"), config.get("pinned_memory_limit_bytes")) != (PERCENT, 2 * GIB):
        return f"config {config}"
    if client not in client_pids(mps):
        return f"the client is missing: {mps.get('servers')}"
    return None


def body(session, report):
    mps = session.enable("--thread-percentage", str(PERCENT), "--pinned-memory-limit", "2GiB")
    client = session.worker("hold", "60", pipe=mps["directory"])
    if not report.check("a client holds", client.seen["event"] == "ready", brief(client.seen)):
        return
    options = session.options
    lock = threading.Lock()
    seconds, wrong = [], []
    until = time.monotonic() + options.seconds

    def ask():
        while time.monotonic() < until:
            answer = session.run("mps", "status", "--json", timeout=20)
            problem = wrong_with(session, answer, client.pid)
            with lock:
                seconds.append(answer.seconds)
                if problem:
                    wrong.append(problem)

    threads = [threading.Thread(target=ask) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds.sort()
    report.figure("threads", options.threads)
    report.figure("answers", len(seconds))
    report.figure("wrong", len(wrong))
    report.figure("answer_s_median_p99_max", [
        round(value, 4)
        for value in (statistics.median(seconds), seconds[int(0.99 * (len(seconds) - 1))], seconds[-1])
    ])
    for problem in wrong[:5]:
        report.say(problem)
    report.check("every answer is right", not wrong and len(seconds) >= options.threads,
                 f"{len(wrong)} of {len(seconds)} wrong")
    report.check("the client was not disturbed", client.end() == 0)


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=8, metavar="N")
    options.add_argument("--seconds", type=float, default=6.0, metavar="S")
    main("command", options.parse_args(), body)
