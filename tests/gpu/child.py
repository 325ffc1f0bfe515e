"""A child that prints JSON lines, and how a test waits for them."""

import contextlib
import json
import pathlib
import queue
import subprocess
import tempfile
import threading
import time


class Worker:
    """A child that prints JSON lines."""

    def __init__(self, command, environment):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            env=environment, cwd=pathlib.Path(__file__).parent,
        )
        self.pid = self.process.pid
        self.lines = []
        self.queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for raw in self.process.stdout:
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"event": "text", "text": raw.decode(errors="replace").rstrip()}
            self.lines.append(line)
            self.queue.put(line)
        self.queue.put(None)

    def wait_for(self, *events, timeout=30.0):
        """The next line of one of those events; None where it ended or said nothing in time."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            try:
                line = self.queue.get(timeout=left)
            except queue.Empty:
                return None
            if line is None:
                self.queue.put(None)
                return None
            if line["event"] in events:
                return line
        return None

    def first(self, timeout=60.0):
        """What it saw, or its error."""
        line = self.wait_for("ready", "error", timeout=timeout)
        return line or {"event": "nothing", "stderr": self.stderr()[-2000:]}

    def rates(self, since=0.0):
        """The rates that it printed after a moment (time.time())."""
        return [l["per_s"] for l in self.lines if l["event"] == "rate" and l["time_s"] > since]

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def write(self, text):
        with contextlib.suppress(OSError):
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def end(self, timeout=10.0):
        """Tells it to end, kills it where it does not; its exit status."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self):
        self.process.kill()
        return self.process.wait()

    def running(self):
        return self.process.poll() is None
