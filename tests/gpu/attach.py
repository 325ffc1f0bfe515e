#!/usr/bin/env python3
"""Clients of gpushare's MPS daemon: what status and verify say of them, and what they see
themselves; one that missed the daemon; other users. Needs root for the last."""

import os
import pathlib
import stat

from harness import GIB, MIB, brief, client_pids, main, parser, read_proc, sms, user_name

PERCENT = 25
LIMIT = 2 * GIB
NOBODY, STRANGER = 65534, 65533


def tried(seen, mebibytes):
    return next((t for t in seen.get("tried", []) if t["mebibytes"] == mebibytes), {})


def two_clients(session, report, total):
    mps = session.enable("--thread-percentage", str(PERCENT), "--pinned-memory-limit", "2GiB")
    config = mps.get("config") or {}
    report.check("status says that our daemon serves", session.serves(), mps)
    report.check("its configuration is what was asked for",
                 config.get("thread_percentage") == PERCENT
                 and config.get("pinned_memory_limit_bytes") == LIMIT, config)
    pipe = mps["directory"]
    report.check("its directory fits the 87 bytes that a daemon takes", len(pipe.encode()) <= 87, pipe)

    options = ["hold", "50", "--try-mib", "1024", "--try-mib", "3072", "--hold-mib", "256"]
    clients = [session.worker(*options, pipe=pipe) for _ in range(2)]
    expected = sms(PERCENT, total)
    for client in clients:
        seen = client.seen
        report.check(f"client {client.pid} sees {expected} of {total} SMs",
                     seen.get("sm_count") == expected, brief(seen))
        report.check("1 GiB of its 2 GiB can be had", tried(seen, 1024).get("code") == 0)
        report.check("3 GiB cannot", tried(seen, 3072).get("code") == 2, tried(seen, 3072))
        report.check("its free memory is within the limit", seen.get("free_bytes", LIMIT) < LIMIT)
    report.figure("sm_count", clients[0].seen.get("sm_count"))
    report.figure("free_mib_after_context", clients[0].seen.get("free_bytes", 0) // MIB)

    gpu = session.status()
    by_pid = {process.get("pid"): process for process in gpu.get("processes") or []}
    known = client_pids(gpu.get("mps") or {})
    report.say(f"servers: {(gpu.get('mps') or {}).get('servers')}")
    for client in clients:
        shown = by_pid.get(client.pid) or {}
        report.check(f"status shows {client.pid} as a client with command and memory",
                     shown.get("kind") == "mps_client" and shown.get("command")
                     and (shown.get("memory_bytes") or 0) >= 256 * MIB, shown)
        report.check("and below its server", client.pid in known, sorted(known))
        answer, verdict = session.verify(client.pid)
        most = verdict.get("at_most") or {}
        report.check(f"verify says that {client.pid} is attached, by exit status 0 too",
                     answer.rc == 0 and verdict.get("verdict") == "attached", answer if answer.rc else "")
        report.check("verify knows at most what",
                     most.get("sm_count") == expected and most.get("thread_percentage") == PERCENT
                     and most.get("memory_bytes") == LIMIT, most)
        report.check("verify has server and memory",
                     verdict.get("server_pid") and (verdict.get("memory_bytes") or 0) >= 256 * MIB,
                     [verdict.get("server_pid"), verdict.get("memory_bytes")])
        report.say(f"declared: {verdict.get('declared')}, reasons: {verdict.get('reasons')}")

    missed = session.worker("hold", "50", pipe=pipe + "x")
    report.check("a misspelt directory gives the whole GPU, without an error",
                 missed.seen.get("sm_count") == total, brief(missed.seen))
    answer, verdict = session.verify(missed.pid)
    report.check("verify says that it is not attached, by exit status 2, and why",
                 answer.rc == 2 and verdict.get("verdict") == "not_attached" and verdict.get("reasons"),
                 [answer.rc, verdict.get("verdict"), verdict.get("reasons")])
    answer, verdict = session.verify(os.getpid())
    report.check("verify does not take a process without CUDA for attached",
                 answer.rc != 0 and verdict.get("verdict") != "attached",
                 [answer.rc, verdict.get("verdict"), verdict.get("reasons")])
    for worker in [missed, *clients]:
        report.check(f"{worker.pid} ends without an error", worker.end() == 0)
    if os.getuid() == 0:
        expect_not_served(session, report, total, pipe, NOBODY, "root's own daemon")
    answer = session.disable("--grace", "10")
    report.check("mps disable when the clients have gone", answer.rc == 0, answer)


def expect_not_served(session, report, total, pipe, uid, whose):
    """Refused by CUDA, or past the daemon with the whole GPU: that is bypass-possible."""
    worker = session.worker("hold", "20", "--uid", str(uid), pipe=pipe)
    seen = worker.seen
    served = worker.pid in client_pids(session.mps())
    how = "past the daemon" if seen["event"] == "ready" else "refused"
    whole = seen["event"] != "ready" or seen["sm_count"] == total
    report.check(f"uid {uid} is not served by {whose}", not served and whole and seen["event"] != "nothing",
                 f"{how}: {brief(seen)}")
    report.check(f"uid {uid} may not connect to it", seen.get("control_reachable") is False,
                 seen.get("control_reachable"))
    worker.end()
    return how


def files(session):
    """Every file below our directories: owner, mode, size and time of change."""
    found = {}
    for top in {session.root, *session.directories}:
        for path in pathlib.Path(top).rglob("*"):
            about = path.lstat()
            found[str(path)] = (user_name(about.st_uid), stat.filemode(about.st_mode), about.st_size, about.st_mtime_ns)
    return found


def expect_served(session, report, pipe, uid, expected, access):
    before = files(session)
    worker = session.worker("hold", "20", "--uid", str(uid), pipe=pipe)
    report.check(f"{access}: uid {uid} is served", worker.seen.get("sm_count") == expected
                 and worker.seen.get("uid") == uid, brief(worker.seen))
    mps = session.mps()
    report.check("and is in status", worker.pid in client_pids(mps), sorted(client_pids(mps)))
    answer, verdict = session.verify(worker.pid)
    report.check("and attached", answer.rc == 0 and verdict.get("verdict") == "attached",
                 verdict.get("reasons"))
    for server in mps.get("servers") or []:
        text = read_proc(server["pid"], "status").decode(errors="replace").splitlines()
        ids = [" ".join(line.split()) for line in text if line.startswith(("Uid", "Gid", "Groups"))]
        report.say(f"server {server['pid']}: {', '.join(ids)}")
    worker.end()
    changed = {}
    for path, about in sorted(files(session).items()):
        if before.get(path, (None,) * 4)[2:] != about[2:]:
            changed[path.removeprefix(session.root + "/")] = about[:3]
            report.say(f"written: {path} {about[:3]}")
    report.figure(f"files_written_{access.replace('--', '').replace('-', '_').replace(' ', '_')}", changed)
    for path in pathlib.Path(session.root).rglob("*.log"):
        lines = path.read_text(errors="replace").splitlines()
        report.say(f"{path.name} has {len(lines)} lines, the last: {lines[-1] if lines else ''}")


def other_users(session, report, total):
    nobody = user_name(NOBODY)
    expected = sms(PERCENT, total)
    for access in [["--any-user"], ["--user", nobody]]:
        mps = session.enable("--thread-percentage", str(PERCENT), *access)
        expect_served(session, report, mps["directory"], NOBODY, expected, " ".join(access))
        if access[0] == "--user":
            how = expect_not_served(session, report, total, mps["directory"], STRANGER, "nobody's daemon")
            report.figure("stranger", how)
        answer = session.disable("--grace", "10")
        report.check(f"mps disable after {' '.join(access)}", answer.rc == 0, answer)


def body(session, report):
    plain = session.look()
    if not report.check("a CUDA process sees the GPU", plain["event"] == "ready", brief(plain)):
        return
    total = plain["sm_count"]
    report.figure("sm_total", total)
    two_clients(session, report, total)
    if os.getuid() == 0:
        other_users(session, report, total)
    else:
        report.say("SKIPPED: other users: only root can be them")


if __name__ == "__main__":
    main("attach", parser(__doc__).parse_args(), body)
