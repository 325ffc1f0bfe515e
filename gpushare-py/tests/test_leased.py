"""The decorator."""

import functools
import inspect
import unittest

import gpushare
from common import MODES

NODE = gpushare.Node(sim="H100-80GB")
NODE.plan(MODES["time_sliced"]).apply()


class Leased(unittest.TestCase):
    def test_each_call_has_a_lease(self) -> None:
        seen = []

        @NODE.leased(gpu=0)
        def train(lease, epochs, *, rate=0.1):
            """Trains."""
            self.assertFalse(lease.released)
            seen.append(lease)
            return epochs, rate

        self.assertEqual(train(3, rate=0.5), (3, 0.5))
        self.assertEqual(train(4), (4, 0.1))
        self.assertEqual((train.__name__, train.__doc__), ("train", "Trains."))
        self.assertNotEqual(seen[0].name, seen[1].name)
        self.assertTrue(all(lease.released for lease in seen))

    def test_its_signature_is_what_callers_give(self) -> None:
        def train(lease: gpushare.Lease, epochs: int, *, rate: float = 0.1) -> None: ...
        def anything(*arguments, **options): ...

        for function, wanted in ((train, "(epochs: int, *, rate: float = 0.1) -> None"), (anything, None)):
            found = inspect.signature(NODE.leased(gpu=0)(function))
            self.assertEqual(str(found), wanted or str(inspect.signature(function)))
        self.assertTrue(str(NODE.leased(gpu=0)(str)()).startswith("<gpushare.Lease "))

        class Model:
            @staticmethod
            @NODE.leased(gpu=0)
            def train(lease, epochs):
                return type(lease), epochs

        self.assertEqual(Model().train(3), (gpushare.Lease, 3))

    def test_what_it_raises_gives_the_lease_back(self) -> None:
        @NODE.leased(gpu=0, count=4)
        def fail(lease):
            raise KeyError

        for _ in range(2):
            with self.assertRaises(KeyError):
                fail()
        NODE.lease(gpu=0, count=4).release()

    def test_what_runs_later_is_refused(self) -> None:
        async def coroutine(lease): ...

        def generator(lease):
            yield

        async def both(lease):
            yield

        with self.assertRaisesRegex(TypeError, "first argument of a method"):

            class Model:
                @NODE.leased(gpu=0)
                def train(self, lease, epochs): ...

        def keywords(*, lease): ...

        for function in (lambda: None, keywords, lambda **lease: None):
            with self.assertRaisesRegex(TypeError, "no first argument"):
                NODE.leased(gpu=0)(function)

        class Runs:
            async def __call__(self, lease): ...

        with self.assertRaisesRegex(TypeError, "a int cannot be called"):
            NODE.leased(gpu=0)(7)
        with self.assertRaisesRegex(TypeError, "a classmethod cannot be called"):
            NODE.leased(gpu=0)(classmethod(coroutine))
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'gup'"):
            NODE.leased(gup=0)
        partial = functools.partial(coroutine)
        for function in (coroutine, generator, both, Runs(), partial):
            with self.assertRaisesRegex(TypeError, "asyncio.to_thread"):
                NODE.leased(gpu=0)(function)

    def test_busy_is_heard_at_the_call(self) -> None:
        @NODE.leased(gpu=0)
        def function(lease): ...

        with NODE.lease(gpu=0, count=4), self.assertRaises(gpushare.DeviceBusyError):
            function()


if __name__ == "__main__":
    unittest.main()
