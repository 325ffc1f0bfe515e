"""What the tests share: simulated nodes, in memory or in a directory that real processes share."""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

import gpushare

# A shell starts what it does not wait for with SIGINT ignored, and children would have it so.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def spec(*entries):
    return {"version": "gpushare/v1", "gpus": list(entries)}


def mig(select=0, **instances):
    """Instances by profile, with _ for the dot: mig(0, **{"1g": 2})."""
    return spec({"select": select, "mode": "mig", "mig": {"instances": instances}})


MODES = {mode: spec({"select": "all", "mode": mode}) for mode in ("exclusive", "time_sliced", "mps", "mig")}


def layout(node, select=0, allow_reset=False, **instances):
    return node.plan(mig(select, **instances)).apply(allow_reset=allow_reset)


class Shared(unittest.TestCase):
    """A simulated node in a directory, which processes share."""

    FLEET = "2xH100-80GB"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.state = str(self.folder / "state")
        self.node = self.open()

    def open(self):
        return gpushare.Node(sim=self.FLEET, state_dir=self.state)

    def command(self, *words, check=True):
        """The gpushare command on the same node."""
        words = [sys.executable, "-m", "gpushare", "--state-dir", self.state, "--sim", self.FLEET, *words]
        return subprocess.run(words, check=check, capture_output=True, text=True)

    def busy(self, target, *options):
        return int(json.loads(self.command("--json", "sim", "busy", str(target), *options).stdout)["pid"])

    def killed_at(self, step):
        """A process that changes GPU 0 is killed when that step begins."""
        process = self.child(
            """
            def progress(event):
                if event.step == int(sys.argv[1]):
                    os.kill(os.getpid(), signal.SIGKILL)
            node.plan({"version": "gpushare/v1", "gpus": [
                {"select": 0, "mode": "mig", "mig": {"instances": {"3g": 1, "1g": 2}}}]}).apply(progress)
            """,
            str(step),
        )
        self.assertEqual(process.wait(), -9)

    def child(self, code, *words, **options):
        """A Python process that has `node`, `say` (a line to its parent) and `heard` (one from it)."""
        head = f"""
            import os, signal, sys, threading, time
            import gpushare
            def say(text): print(text, flush=True)
            def heard(): return sys.stdin.readline().strip()
            node = gpushare.Node(sim={self.FLEET!r}, state_dir={self.state!r})
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=options.pop("stderr", None),
            text=True,
            **options,
        )

        def end():
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

        self.addCleanup(end)
        return process


def heard(process):
    """A line that a child says. A child that hangs says nothing."""
    if not select.select([process.stdout], [], [], 60)[0]:
        raise TimeoutError("the child says nothing")
    return process.stdout.readline().strip()


def real(name):
    """A package of others; where it is not there, the test is skipped aloud."""
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"\nSKIPPED: {name}: it is not installed", file=sys.stderr)
        raise unittest.SkipTest(f"{name} is not installed") from None


def alone(code, *words, check=True, env=None, **options):
    """Runs code in a Python of its own and returns what it printed."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *words],
        check=check,
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        timeout=60,
        **options,
    )
