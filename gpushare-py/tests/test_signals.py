"""Ctrl-C during every wait."""

import re
import signal
import textwrap
import time
import unittest
from pathlib import Path

from common import MODES, Shared, heard, layout


class Interrupted(Shared):
    def interrupted(self, code, send=signal.SIGINT):
        """Sends a signal when the child says that it waits; returns what it says then, and after how long."""
        child = self.child(
            """
            def waiting(event):
                if not told: told.append(say("waits"))
            told = []
            try:
                # Python takes a KeyboardInterrupt through exec(str) for one that nobody caught.
                exec(compile(sys.argv[1], 'argument', 'exec'))
                say("went on")
            except BaseException as error:
                cause = error.__cause__
                say(f"{type(error).__name__} {type(cause).__name__} {getattr(cause, 'outcome', None)}")
            """,
            textwrap.dedent(code),
        )
        self.assertEqual(heard(child), "waits")
        # By then it waits, and the next call is in 100 ms.
        time.sleep(0.3)
        began = time.monotonic()
        child.send_signal(send)
        said = heard(child)
        took = time.monotonic() - began
        self.assertEqual(child.wait(timeout=10), 0)
        self.assertLess(took, 2)
        return said

    def test_while_a_lease_is_waited_for(self) -> None:
        self.node.plan(MODES["exclusive"]).apply()
        with self.node.lease(gpu=0):
            said = self.interrupted("node.lease(gpu=0, timeout=None, progress=waiting)")
        self.assertEqual(said, "KeyboardInterrupt InterruptedTransitionError untouched")
        self.node.lease(gpu=0).release()

    def test_without_a_progress_function(self) -> None:
        self.node.plan(MODES["exclusive"]).apply()
        with self.node.lease(gpu=0):
            said = self.interrupted("say('waits')\nnode.lease(gpu=0, timeout=None)")
        self.assertEqual(said, "KeyboardInterrupt InterruptedTransitionError untouched")

    def test_while_holders_are_waited_for(self) -> None:
        layout(self.node, 0, **{"3g": 1})
        self.busy(self.node.gpus[0].mig_devices[0].uuid)
        before = self.node.status().digest
        plan = "node.plan({'version': 'gpushare/v1', 'gpus': [{'select': 0, 'mode': 'exclusive'}]})"
        said = self.interrupted(f"{plan}.apply(waiting, drain=600)")
        self.assertEqual(said, "KeyboardInterrupt InterruptedTransitionError untouched")
        self.assertEqual(self.node.status().digest, before)

    def test_while_a_lock_is_waited_for(self) -> None:
        spec = "{'version': 'gpushare/v1', 'gpus': [{'select': 0, 'mode': 'exclusive'}]}"
        holder = self.child(
            f"""
            def progress(event):
                say("holds"); heard()
            node.plan({spec}).apply(progress)
            """
        )
        self.assertEqual(heard(holder), "holds")
        said = self.interrupted(f"node.plan({spec}).apply(waiting, timeout=None)")
        self.assertEqual(said, "KeyboardInterrupt InterruptedTransitionError untouched")

    def test_between_steps_all_is_rolled_back(self) -> None:
        before = self.node.status().digest
        child = self.child(
            """
            def progress(event):
                if event.step == 4:
                    signal.raise_signal(signal.SIGINT)
            try:
                node.plan({"version": "gpushare/v1", "gpus": [
                    {"select": 0, "mode": "mig", "mig": {"instances": {"1g": 7}}}]}).apply(progress)
            except KeyboardInterrupt as error:
                say(error.__cause__.outcome)
            """
        )
        self.assertEqual(heard(child), "rolled_back")
        child.wait()
        self.assertEqual(self.node.status().digest, before)
        self.assertIsNone(self.node.gpus[0].unsettled)

    def test_asyncio_ends_as_the_readme_has_it(self) -> None:
        readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
        [code] = re.findall(r"  ```python\n(  async def lease.*?)  ```\n", readme, re.DOTALL)
        self.node.plan(MODES["exclusive"]).apply()
        with self.node.lease(gpu=0):
            said = self.interrupted(
                "import asyncio, threading\n"
                + textwrap.dedent(code)
                + "threading.Timer(0.3, say, ['waits']).start()\nasyncio.run(lease(node, gpu=0))"
            )
        self.assertRegex(said, "^KeyboardInterrupt ")

    def test_a_handler_of_ones_own(self) -> None:
        self.node.plan(MODES["exclusive"]).apply()
        with self.node.lease(gpu=0):
            said = self.interrupted(
                """
                def stop(number, frame): raise SystemExit(0)
                signal.signal(signal.SIGTERM, stop)
                node.lease(gpu=0, timeout=None, progress=waiting)
                """,
                signal.SIGTERM,
            )
            self.assertEqual(said, "SystemExit InterruptedTransitionError untouched")
            # One that only notes it stops nothing.
            said = self.interrupted(
                """
                signal.signal(signal.SIGTERM, lambda *_: None)
                node.lease(gpu=0, timeout=1, progress=waiting)
                """,
                signal.SIGTERM,
            )
        self.assertEqual(said, "WaitTimeoutError NoneType None")


if __name__ == "__main__":
    unittest.main()
