"""The end of the interpreter while threads that nobody waits for are in calls."""

import time
import unittest

from common import MODES, Shared, alone

PARTS = "import logging, threading, time, gpushare\nsim = 'H100-80GB'\nnode = gpushare.Node(sim=sim)\n"

# What each of three daemon threads does for as long as there is an interpreter.
WORK = {
    "progress": """
        node.lease(gpu=0, timeout=None, progress=lambda event: time.sleep(0.01))
    """,
    "wait": """
        node.lease(gpu=0, timeout=None)
    """,
    "log": """
        logging.basicConfig(level=1, stream=open('/dev/null', 'w'))
        own = gpushare.Node(sim=sim, log_level=1)
        modes = [{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": mode}]}
                 for mode in ("mps", "time_sliced")]
        while True:
            for mode in modes:
                own.plan(mode).apply(progress=lambda event: None)
    """,
    "errors": """
        while True:
            try: node.lease(gpu=0)
            except gpushare.DeviceBusyError: pass
            node.status().gpus[0].mode
    """,
}


class Ended(unittest.TestCase):
    def test_no_thread_brings_it_down(self) -> None:
        for name, work in WORK.items():
            code = f"""
import sys
{PARTS}
node.plan({MODES["exclusive"]!r}).apply()
lease = node.lease(gpu=0)
def work():
{work}
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
lease = lease if {name!r} == "errors" else [lease]
"""
            for _ in range(6 if name == "progress" else 2):
                with self.subTest(name):
                    done = alone(code, check=False, stderr=-1)
                    self.assertEqual(done.returncode, 0, done.stderr[-2000:])

    def test_one_that_takes_too_long_is_left(self) -> None:
        code = f"""
{PARTS}
import sys
lease = node.lease(gpu=0)
def progress(event):
    while True:
        time.sleep(0.05)
thread = threading.Thread(
    target=node.lease, kwargs=dict(gpu=0, timeout=None, progress=progress), daemon=True)
thread.start()
time.sleep(0.3)
lease.release()
print("ends", flush=True)
"""
        began = time.monotonic()
        self.assertEqual(alone(code).stdout, "ends\n")
        self.assertLess(time.monotonic() - began, 10)

    def test_who_ends_it_can_still_call(self) -> None:
        code = f"""
import atexit
heard = []
def last():
    gpushare.Node(sim=sim).plan({MODES["mig"]!r}).apply(heard.append)
    print(bool(heard))
# What is registered first is called last, when gpushare's own is done.
atexit.register(last)
{PARTS}
"""
        self.assertEqual(alone(code).stdout, "True\n")

    def test_it_waits_for_nobody_where_there_is_nobody(self) -> None:
        code = f"""
import atexit, os, warnings
warnings.simplefilter("ignore")
atexit.register(lambda: print(time.monotonic() - began < 1.5))
{PARTS}
lease = node.lease(gpu=0)
def progress(event):
    # A child has none of the callbacks that other threads of its parent are in.
    time.sleep(30)
thread = threading.Thread(
    target=node.lease, kwargs=dict(gpu=0, timeout=None, progress=progress), daemon=True)
thread.start()
time.sleep(0.3)
began = time.monotonic()
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    lease.release()
    os._exit(0)
"""
        self.assertEqual(alone(code).stdout, "True\n")


class Nested(Shared):
    def test_callbacks_within_one_another_have_an_end(self) -> None:
        code = """
            import gpushare
            node, depth = gpushare.Node(sim="H100-80GB"), [0]
            node.plan({"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}]}).apply()
            def again(event=None):
                depth[0] += 1
                node.lease(gpu=0, timeout=1000, progress=again)
            with node.lease(gpu=0):
                try: again()
                except gpushare.InvalidStateError as error: print(depth[0], error)
            # It is over.
            node.lease(gpu=0, progress=again).release()
        """
        self.assertRegex(alone(code).stdout, "^18 more than 16 progress functions")


if __name__ == "__main__":
    unittest.main()
