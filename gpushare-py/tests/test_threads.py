"""Threads: other threads run while a call waits, and all of them may call."""

import asyncio
import contextlib
import sys
import threading
import time
import unittest

import gpushare
from common import MODES, Shared, mig, spec


class Released(Shared):
    """The GIL is released around every call."""

    def setUp(self):
        super().setUp()
        self.node.plan(MODES["mig"]).apply()

    def turns_beside(self, call, patience=5.0):
        """How many turns another thread gets while a call is made again and again, until it has one. Nobody
        takes the GIL from who holds it: it must be let go."""
        turns, ended = 0, False

        def take_turns():
            nonlocal turns
            while not ended:
                turns += 1
                time.sleep(0)

        interval = sys.getswitchinterval()
        thread = threading.Thread(target=take_turns)
        sys.setswitchinterval(1000)
        try:
            thread.start()
            before, late = turns, time.monotonic() + patience
            while turns == before and time.monotonic() < late:
                call()
            return turns - before
        finally:
            sys.setswitchinterval(interval)
            ended = True
            thread.join()

    def test_others_run_meanwhile(self) -> None:
        self.assertEqual(self.turns_beside(lambda: gpushare.SharingMode("mig"), 0.3), 0)
        # Each is one call, which must let go by itself: nothing to do, and nothing free, will do.
        freed = self.node.lease(mig="1g", create=True)
        plan = self.node.plan(spec({"select": 1, "mode": "mig"}))
        self.assertTrue(plan.is_noop)

        def refused():
            with contextlib.suppress(gpushare.InsufficientError):
                self.node.lease(mig="7g")

        for name, call in {
            "open": self.open,
            "status": self.node.status,
            "gpus": lambda: self.node.gpus,
            "plan": lambda: self.node.plan(mig(0, **{"2g": 1})),
            "apply": plan.apply,
            "recover": self.node.recover,
            "doctor": self.node.doctor,
            "advise": self.node.advise,
            "leases": self.node.leases,
            "lease": refused,
            "release": freed.release,
            "cordon": lambda: self.node.cordon(1, "why"),
            "uncordon": lambda: self.node.uncordon(1),
            "resolve": lambda: gpushare.resolve_visible_devices("0", node=self.node),
            "verify": lambda: gpushare.mps.verify(node=self.node),
            "split": lambda: gpushare.mps.split(2, gpu=0, node=self.node),
        }.items():
            with self.subTest(name):
                self.assertGreater(self.turns_beside(call), 0)
        with self.node.lease(mig="1g") as lease:
            for call in (lease.verify, lease.check, lease.filenos):
                self.assertGreater(self.turns_beside(call), 0, call)

    def test_others_run_while_a_lease_is_waited_for(self) -> None:
        self.node.plan(MODES["exclusive"]).apply()
        with self.node.lease(gpu=0):

            def wait():
                with self.assertRaises(gpushare.WaitTimeoutError):
                    self.node.lease(gpu=0, timeout=0.3)

            self.assertGreater(self.turns_beside(wait), 0)


class Together(Shared):
    def test_one_node_from_many_threads(self) -> None:
        self.node.plan(MODES["time_sliced"]).apply()
        held, most, errors = set(), [0], []
        lock = threading.Lock()

        def work():
            try:
                for _ in range(8):
                    with self.node.lease(timeout=60) as lease:
                        with lock:
                            assert lease.share not in held, "two have one share"
                            held.add(lease.share)
                            most[0] = max(most[0], len(held))
                        self.node.status()
                        with lock:
                            held.remove(lease.share)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assertGreater(most[0], 1)
        self.assertFalse(any(share.leased for share in self.node.leases().shares))

    def test_one_lease_from_many_threads(self) -> None:
        lease, results = self.node.lease(gpu=0), []

        def use():
            for _ in range(20):
                try:
                    lease.verify()
                    lease.filenos()
                    results.append("verified")
                except gpushare.InvalidStateError:
                    results.append("released")
                lease.variables  # noqa: B018

        threads = [threading.Thread(target=use) for _ in range(6)]
        for thread in threads:
            thread.start()
        lease.release()
        for thread in threads:
            thread.join()
        self.assertEqual(len(results), 120)
        self.assertEqual(results[-1], "released")

    def test_another_thread_releases_while_one_waits(self) -> None:
        first = self.node.lease(gpu=0)
        timer = threading.Timer(0.2, first.release)
        timer.start()
        with self.node.lease(gpu=0, timeout=30) as second:
            self.assertEqual(second.share, first.share)
        timer.join()

    def test_asyncio_goes_on(self) -> None:
        async def main():
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.01)

            ticking = asyncio.create_task(tick())
            first = await asyncio.to_thread(self.node.lease, gpu=0)
            with first, contextlib.suppress(gpushare.WaitTimeoutError):
                await asyncio.to_thread(self.node.lease, gpu=0, timeout=0.3)
            ticking.cancel()
            return ticks

        self.assertGreater(asyncio.run(main()), 10)


if __name__ == "__main__":
    unittest.main()
