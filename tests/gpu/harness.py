"""What the tests of MPS on a GPU have in common: a private directory, the command, CUDA processes,
what is checked, and how everything is put back."""

import argparse
import contextlib
import json
import math
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from child import Worker

HERE = pathlib.Path(__file__).resolve().parent
WORKER = HERE / "worker.py"
MIB = 1 << 20
GIB = 1 << 30
# What the kernel keeps of the names nvidia-cuda-mps-control and nvidia-cuda-mps-server.
DAEMON_COMM = "nvidia-cuda-mps"


class Refused(Exception):
    """The test was not begun, or could not go on; nothing about gpushare follows from it."""


def sms(percent, total):
    """Multiprocessors that a client sees under a percentage (measured on an H200, driver 580)."""
    return total if percent >= 100 else max(8, 2 * math.floor(percent * total / 200))


def parser(text):
    """The options that every test has."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--gpushare", metavar="PATH", help="the command; from PATH by default")
    made.add_argument("--gpu", default="0", metavar="SEL", help="index or uuid of the GPU (0)")
    return made


def main(name, arguments, body):
    """Runs a test: prints what it finds and one line of JSON last; exits with 0 or 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    report = Report(name)
    try:
        with Session(arguments, report) as session:
            body(session, report)
    except Refused as reason:
        report.refused = str(reason)
    except KeyboardInterrupt:
        report.check("it was not interrupted", False)
    except SystemExit:
        report.check("it ended within its time", False)
    except Exception as error:  # a defect of the test, or an answer that it did not expect
        report.check("the test came to its end", False, f"{type(error).__name__}: {error}")
        traceback.print_exception(error)
    sys.exit(report.close())


class Report:
    """What was found."""

    def __init__(self, name):
        self.name = name
        self.began = time.monotonic()
        self.checks = 0
        self.failed = []
        self.figures = {}
        self.refused = None
        self.skipped = None

    def check(self, what, right, detail=""):
        """A fact that must hold."""
        self.checks += 1
        if not right:
            self.failed.append(what)
        text = f": {str(detail)[:1200]}" if detail != "" else ""
        print(f"{'ok      ' if right else 'WRONG   '}{what}{text}", flush=True)
        return bool(right)

    def say(self, text):
        print(f"        {text}", flush=True)

    def figure(self, name, value):
        self.figures[name] = value
        print(f"figure  {name} = {json.dumps(value)}", flush=True)

    def close(self):
        # A test that was not run, or checked nothing, has shown nothing.
        ok = not self.failed and self.refused is None and (self.checks > 0 or self.skipped)
        line = {"test": self.name, "ok": bool(ok), "checks": self.checks, "failed": self.failed}
        for key in ("refused", "skipped"):
            if getattr(self, key):
                line[key] = getattr(self, key)
        line["seconds"] = round(time.monotonic() - self.began, 1)
        print(json.dumps({**line, **self.figures}), flush=True)
        return 0 if ok else 1


class Answer:
    """What a run of the command came to."""

    def __init__(self, arguments, rc, stdout, stderr, seconds):
        self.arguments, self.rc = arguments, rc
        self.stdout, self.stderr, self.seconds = stdout, stderr, seconds

    @property
    def document(self):
        try:
            return json.loads(self.stdout)
        except ValueError:
            return None

    @property
    def code(self):
        """The error's code, by its name; None where there is none."""
        found = re.search(r"^gpushare: ([A-Z_]+): ", self.stderr, re.MULTILINE)
        return found and found[1]

    def __str__(self):
        said = self.stderr.strip() or self.stdout.strip()[:200]
        return f"exit {self.rc} after {self.seconds:.3f} s, {said or 'nothing said'}"


def query(what, fields, *options):
    """Rows that nvidia-smi prints."""
    command = ["nvidia-smi", f"--query-{what}={fields}", "--format=csv,noheader,nounits", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"nvidia-smi: {error}") from error
    if done.returncode != 0:
        raise Refused(f"nvidia-smi: {done.stdout.strip()} {done.stderr.strip()}")
    return [[cell.strip() for cell in row.split(",")] for row in done.stdout.splitlines() if row]


def read_proc(pid, name):
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def processes():
    """Pid and name of every process that is not a zombie."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = read_proc(entry, "stat").decode(errors="replace")
            state = stat.rpartition(")")[2].split()
            if state and state[0] not in "ZX":
                yield int(entry), stat.partition("(")[2].rpartition(")")[0]


class Session:
    """A GPU that nobody uses, and a private directory; all is put back at its end."""

    def __init__(self, arguments, report):
        self.options = arguments
        self.report = report
        self.workers = []
        self.directories = set()
        self.root = None
        self.began = False
        found = shutil.which(arguments.gpushare or "gpushare")
        if not found:
            raise Refused(f"there is no {arguments.gpushare or 'gpushare'}; name it by --gpushare")
        self.gpushare = os.path.abspath(found)
        self.index, self.uuid, self.name, mig = self._gpu(arguments.gpu)
        self.compute_mode = self.compute_mode_now()
        self._refuse_unless_free(mig)

    def _gpu(self, selector):
        for row in query("gpu", "index,uuid,name,mig.mode.current"):
            if selector in row[:2]:
                return row
        raise Refused(f"nvidia-smi shows no GPU {selector}")

    def compute_mode_now(self):
        return query("gpu", "compute_mode", "-i", self.uuid)[0][0]

    def _refuse_unless_free(self, mig):
        if mig == "Enabled":
            raise Refused("MIG is on")
        if self.compute_mode != "Default":
            raise Refused(f"compute mode is {self.compute_mode}, and stays so")
        # The test before this one may have ended a moment ago.
        until = time.monotonic() + 3
        while (others := self._others()) and time.monotonic() < until:
            time.sleep(0.2)
        if others:
            raise Refused(f"others use the GPU, or an MPS daemon runs: {others}")

    def _others(self):
        rows = query("compute-apps", "gpu_uuid,pid,name")
        daemons = [[str(pid), comm] for pid, comm in processes() if comm == DAEMON_COMM]
        return [row[1:] for row in rows if row[0] == self.uuid] + daemons

    def __enter__(self):
        # Short, since a pipe directory has at most 87 bytes; others may pass, to be clients.
        self.root = tempfile.mkdtemp(prefix="gs-", dir="/tmp")
        os.chmod(self.root, 0o755)
        self.report.say(f"GPU {self.index} {self.name} {self.uuid}, {self.gpushare}")
        self.report.say(f"state directory {self.root}, user {os.getuid()}")
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for worker in self.workers:
            if worker.running():
                worker.kill()
        report = self.report
        if self.began:
            answer = self.run("mps", "disable", "-i", self.uuid, "--grace", "0")
            if answer.rc != 0:
                report.say(f"mps disable at the end: {answer}")
            left = self.wait_until_gone()
            report.check("at its end no MPS process of the test is left", not left, left)
            self.kill(left)
            mode = self.compute_mode_now()
            report.check("compute mode is what it was", mode == self.compute_mode, mode)
        shutil.rmtree(self.root, ignore_errors=True)

    # The command.

    def environment(self, **more):
        """Ours, without what would lead CUDA or gpushare elsewhere."""
        drop = re.compile(r"CUDA_(VISIBLE|MPS|DEVICE)|GPUSHARE_(SIM|STATE_DIR)|NVIDIA_TF32")
        kept = {key: value for key, value in os.environ.items() if not drop.match(key)}
        return {**kept, **more}

    def command(self, *arguments):
        return [self.gpushare, "--state-dir", self.root, *arguments]

    def run(self, *arguments, timeout=60.0):
        """Runs the command; one that does not end counts as exit status 124."""
        began = time.monotonic()
        with subprocess.Popen(
            self.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=self.environment(),
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
                rc = process.returncode
            except subprocess.TimeoutExpired:
                process.kill()
                # Not communicate: a daemon that kept the pipe would hold us here.
                rc, stdout, stderr = 124, "", f"no end after {timeout} s"
        return Answer(arguments, rc, stdout, stderr, time.monotonic() - began)

    def enabling(self, *options):
        """`mps enable` of this GPU, as it is always called here."""
        self.began = True
        return ["mps", "enable", "-i", self.uuid, "--compute-mode", "unchanged",
                "--allow-hazard", "bypass-possible", *options]

    def try_enable(self, *options):
        return self.run(*self.enabling(*options))

    def enable(self, *options):
        """The `mps` block of status, once the daemon serves. The test ends where it does not."""
        answer = self.try_enable(*options)
        self.report.say(f"mps enable {' '.join(options)}: {answer}")
        if answer.rc != 0:
            raise RuntimeError(f"mps enable {' '.join(options)}: {answer}")
        return self.mps()

    def disable(self, *options):
        return self.run("mps", "disable", "-i", self.uuid, *options)

    def status(self):
        """This GPU in `mps status --json`."""
        answer = self.run("mps", "status", "--json")
        document = answer.document
        if answer.rc not in (0, 2) or not isinstance(document, dict):
            raise RuntimeError(f"mps status: {answer}")
        for gpu in document.get("gpus", []):
            if gpu.get("uuid") == self.uuid:
                directory = (gpu.get("mps") or {}).get("directory")
                if directory:
                    self.directories.add(directory)
                return gpu
        raise RuntimeError("mps status does not show the GPU")

    def mps(self):
        return self.status().get("mps") or {}

    def serves(self, gpu=None):
        """Whether status says that a daemon of ours serves the GPU."""
        gpu = gpu or self.status()
        mps = gpu.get("mps") or {}
        return gpu.get("mode") == "mps" and mps.get("ours") is True and mps.get("alive") is True

    def verify(self, pid):
        """Exit status and document of `mps verify`."""
        answer = self.run("mps", "verify", str(pid), "--json")
        return answer, answer.document or {}

    # Processes.

    def worker(self, *options, pipe=None, ready=True, **environment):
        """A CUDA process on this GPU; with the daemon's directory a client of it."""
        more = {"CUDA_VISIBLE_DEVICES": self.uuid, "CUDA_CACHE_DISABLE": "1", **environment}
        # Without a directory CUDA would look at the default one.
        more["CUDA_MPS_PIPE_DIRECTORY"] = pipe or os.path.join(self.root, "nobody-is-here")
        command = [sys.executable, str(WORKER), *options, "--gpu", self.uuid, "--until-eof"]
        worker = self.child(command, more)
        if ready:
            worker.seen = worker.first()
        return worker

    def child(self, command, environment):
        worker = Worker(command, self.environment(**environment))
        self.workers.append(worker)
        return worker

    def look(self, *options, **more):
        """What a CUDA process sees that ends at once."""
        worker = self.worker("info", *options, **more)
        worker.end()
        return worker.seen

    def ours(self):
        """Processes that gpushare left running for this directory: pid and command line."""
        names = [name.encode() for name in {self.root, *self.directories}]
        found = []
        for pid, comm in processes():
            if comm == DAEMON_COMM:
                text = read_proc(pid, "environ")
            elif comm == "gpushare":
                text = read_proc(pid, "cmdline")
            else:
                continue
            if any(name in text for name in names):
                line = read_proc(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")
                found.append((pid, line.strip() or comm))
        return found

    @staticmethod
    def kill(left):
        """Ends what gpushare left, once that is on the record."""
        for pid, _ in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def wait_until_gone(self, timeout=2.0):
        """Those that are still there after a while: a server ends a moment after its daemon."""
        until = time.monotonic() + timeout
        while (left := self.ours()) and time.monotonic() < until:
            time.sleep(0.02)
        return left


def client_pids(mps):
    """The clients of every server in an `mps` block."""
    return {
        client["pid"] if isinstance(client, dict) else client
        for server in mps.get("servers") or []
        for client in server.get("clients") or []
    }


def brief(seen):
    """What a worker saw, or its error, in a few words."""
    if seen["event"] == "ready":
        return f"{seen['sm_count']} SMs, {seen['free_bytes'] // MIB} MiB free, uid {seen['uid']}"
    return " ".join(str(seen.get(key, "")) for key in ("event", "call", "code", "name", "stderr"))


def user_name(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
