"""Applying: progress, consent, and every way to stop it."""

import datetime
import io
import os
import pickle
import threading
import time
import unittest
import weakref

import gpushare
from common import MODES, Shared, heard, layout, mig, real, spec
from gpushare import EventKind, Outcome

MANY = mig(0, **{"1g": 7})


class Progress(unittest.TestCase):
    def setUp(self):
        self.node = gpushare.Node(sim="H100-80GB")

    def test_it_hears_every_step(self) -> None:
        events, plan = [], self.node.plan(MANY)
        report = plan.apply(events.append)
        self.assertIs(events[0].kind, EventKind.PLANNED)
        steps = [event for event in events if event.kind is EventKind.STEP]
        self.assertEqual([event.step for event in steps], list(range(1, len(plan.steps) + 1)))
        self.assertEqual({event.steps for event in events}, {len(plan.steps)})
        self.assertEqual([str(event) for event in steps], [str(step) for step in plan.steps])
        self.assertEqual({event.gpu for event in steps}, {self.node.gpus[0].uuid})
        self.assertEqual(report.step_count, len(plan.steps))
        with self.assertRaises(AttributeError):
            events[0].step = 1

    def test_a_bar_goes_on_by_one(self) -> None:
        class Bar:  # as tqdm has it
            n = 0

            def update(self, n):
                assert n >= 0
                self.n += n
                return True

        bar, plan = Bar(), self.node.plan(MANY)
        plan.apply(progress=lambda event: bar.update(event.step - bar.n))
        self.assertEqual(bar.n, len(plan.steps))

    def test_the_bars_that_there_are(self) -> None:
        tqdm, plan = real("tqdm"), self.node.plan(MANY)
        with tqdm.tqdm(total=len(plan.steps), file=io.StringIO()) as bar:
            plan.apply(progress=lambda event: bar.update(event.step - bar.n))
        self.assertEqual(bar.n, len(plan.steps))

    def test_the_bars_of_rich(self) -> None:
        real("rich")
        console, bars = real("rich.console"), real("rich.progress")
        plan = self.node.plan(MANY)
        with bars.Progress(console=console.Console(file=io.StringIO())) as progress:
            task = progress.add_task("", total=None)
            plan.apply(
                progress=lambda event: progress.update(
                    task, completed=event.step, total=event.steps, description=event.text
                )
            )
        [done] = progress.tasks
        self.assertTrue(done.finished)
        self.assertEqual((done.completed, done.description), (len(plan.steps), str(plan.steps[-1])))

    def test_nothing_to_do_tells_nothing(self) -> None:
        layout(self.node, **{"1g": 7})
        events = []
        self.assertEqual(self.node.plan(MANY).apply(events.append).outcome, "unchanged")
        self.assertEqual(events, [])
        for call in (self.node.plan(MANY).apply, self.node.recover):
            with self.assertRaisesRegex(TypeError, "progress"):
                call(7)

    def test_events_are_values(self) -> None:
        events = []
        plan = self.node.plan(MANY)
        plan.apply(events.append)
        with self.node.lease(mig="1g", count=7), self.assertRaises(gpushare.WaitTimeoutError):
            self.node.lease(mig="1g", timeout=0.25, progress=events.append)
        self.assertGreater(events[-1].waited, 0)
        self.assertEqual([holder.pid for holder in events[-1].holders], [os.getpid()])
        for event in events:
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                again = pickle.loads(pickle.dumps(event, protocol))
                self.assertEqual((again, hash(again), str(again)), (event, hash(event), str(event)))
                for name in ("kind", "gpu", "step", "steps", "waited", "holders"):
                    self.assertEqual(getattr(again, name), getattr(event, name))
            self.assertIs(weakref.ref(event)(), event)
        self.assertEqual(len(set(events)), len(events))
        with self.assertRaises(gpushare.InvalidRequestError):
            gpushare.Event._from_json("{}")
        for thing in (self.node, plan):
            self.assertIs(weakref.ref(thing)(), thing)

    def test_what_it_raises_rolls_back_and_goes_on(self) -> None:
        class Mine(Exception):
            pass

        before = self.node.status().digest
        steps = len(self.node.plan(MANY).steps)
        for wanted in range(steps + 1):
            calls = []

            def progress(event, wanted=wanted, calls=calls):
                calls.append(event)
                if event.step == wanted:
                    raise Mine(wanted)

            with self.assertRaises(Mine) as caught:
                self.node.plan(MANY).apply(progress)
            self.assertEqual(caught.exception.args, (wanted,))
            cause = caught.exception.__cause__
            self.assertIsInstance(cause, gpushare.InterruptedTransitionError)
            self.assertIs(cause.outcome, Outcome.ROLLED_BACK if wanted > 1 else cause.outcome)
            self.assertIn(cause.outcome, (Outcome.ROLLED_BACK, Outcome.UNTOUCHED))
            # After it raised nobody asks it again.
            self.assertEqual(len(calls), wanted + 1)
            self.assertEqual(self.node.status().digest, before, wanted)
            self.assertIsNone(self.node.gpus[0].unsettled)

    def test_a_cause_of_its_own_is_kept(self) -> None:
        def progress(event):
            if event.step == 4:
                raise ValueError from KeyError("why")

        with self.assertRaises(ValueError) as caught:
            self.node.plan(MANY).apply(progress)
        cause = caught.exception.__cause__
        self.assertIsInstance(cause, KeyError)
        # What became of the GPU comes after it.
        self.assertIsInstance(cause.__cause__, gpushare.InterruptedTransitionError)
        self.assertIs(cause.__cause__.outcome, Outcome.ROLLED_BACK)

    def test_causes_in_a_circle_have_an_end(self) -> None:
        first, second = ValueError("first"), KeyError("second")
        first.__cause__, second.__cause__ = second, first

        def progress(event):
            raise first

        with self.assertRaisesRegex(ValueError, "first"):
            self.node.plan(MANY).apply(progress)
        self.assertIs(second.__cause__, first)

    def test_it_may_look_at_the_node(self) -> None:
        seen = []
        self.node.plan(mig(0, **{"1g": 2})).apply(lambda _: seen.append(len(self.node.gpus[0].mig_devices)))
        self.assertEqual(seen[0], 0)
        self.assertLessEqual(max(seen), 2)

    def test_what_cannot_be_called_is_heard_when_it_is(self) -> None:
        before = self.node.status().digest
        with self.assertRaises(TypeError):
            self.node.plan(MANY).apply(progress=7)
        self.assertEqual(self.node.status().digest, before)

    def test_wrong_arguments(self) -> None:
        plan = self.node.plan(MANY)
        for key in ("timeout", "drain", "grace"):
            for value in ("1", [], object()):
                with self.assertRaisesRegex(TypeError, key):
                    plan.apply(**{key: value})
            for value in (-1, float("nan"), 10**400, datetime.timedelta(days=-1)):
                with self.assertRaisesRegex(gpushare.InvalidRequestError, key):
                    plan.apply(**{key: value})
        for value in (7, [7], object()):
            with self.assertRaisesRegex(TypeError, "allow_hazards"):
                plan.apply(allow_hazards=value)
        with self.assertRaisesRegex(gpushare.InvalidRequestError, 'allow_hazards: "all" is no hazard'):
            plan.apply(allow_hazards="all")
        for keywords in ({"allow_evict": 1}, {"allow_reset": "yes"}, {"node": 1}, {"evict": True}):
            with self.assertRaisesRegex(TypeError, next(iter(keywords)), msg=keywords):
                plan.apply(**keywords)
        with self.assertRaisesRegex(TypeError, "^allow_evict: str is not True or False"):
            plan.apply(allow_evict="no")
        with self.assertRaisesRegex(TypeError, "^progress: it cannot be called"):
            plan.apply(progress=True)
        with self.assertRaises(TypeError):
            plan.apply(None, True)
        self.assertEqual(self.node.gpus[0].mode, "time_sliced")
        plan.apply(timeout=None, drain=datetime.timedelta(0), grace=1, allow_hazards=iter(()))


class Consent(Shared):
    def test_a_hazard_is_allowed_by_name(self) -> None:
        plan = self.node.plan(spec({"select": 0, "mode": "mps", "mps": {"thread_percentage": 33}}))
        with self.assertRaises(gpushare.HazardError) as caught:
            plan.apply()
        self.assertTrue(caught.exception.safe)
        self.assertIs(caught.exception.outcome, Outcome.UNTOUCHED)
        self.assertIsInstance(caught.exception, ValueError)
        self.assertEqual(plan.apply(allow_hazards=[h.name for h in plan.needs.hazards]).outcome, "applied")

    def test_a_reset_is_allowed(self) -> None:
        node = gpushare.Node(sim="A100-40GB")
        with self.assertRaises(gpushare.ResetRequiredError):
            node.plan(MODES["mig"]).apply()
        node.plan(MODES["mig"]).apply(allow_reset=True)
        self.assertEqual(node.gpus[0].mode, "mig")

    def test_holders_are_ended_by_consent_alone(self) -> None:
        layout(self.node, 0, **{"3g": 1})
        pid = self.busy(self.node.gpus[0].mig_devices[0].uuid, "--command", "python x.py")
        plan = self.node.plan(mig(0, **{"7g": 1}))
        self.assertEqual(plan.needs.evict[0].holders[0].command, "python x.py")
        with self.assertRaises(gpushare.DeviceBusyError) as caught:
            plan.apply()
        self.assertEqual(caught.exception.pids, (pid,))
        report = plan.apply(allow_evict=True)
        self.assertEqual([evicted.holder.pid for evicted in report.evicted], [pid])

    def test_drain_waits_and_can_be_stopped(self) -> None:
        layout(self.node, 0, **{"3g": 1})
        pid = self.busy(self.node.gpus[0].mig_devices[0].uuid)
        plan = self.node.plan(mig(0, **{"7g": 1}))
        heard = []

        def progress(event):
            heard.append(event)
            if event.kind is EventKind.DRAINING and len(heard) == 3:
                self.command("sim", "idle", str(pid))

        began = time.monotonic()
        plan.apply(progress, drain=60)
        self.assertLess(time.monotonic() - began, 30)
        self.assertEqual([h.pid for h in heard[0].holders], [pid])


class Locks(Shared):
    def test_another_appliers_lock(self) -> None:
        holder = self.child(
            """
            def progress(event):
                if event.step == 2:
                    say("holds"); heard()
            node.plan({"version": "gpushare/v1", "gpus": [
                {"select": 0, "mode": "mig", "mig": {"instances": {"1g": 2}}}]}).apply(progress)
            say("done")
            """
        )
        plan = self.node.plan(MODES["exclusive"])
        self.assertEqual(heard(holder), "holds")
        with self.assertRaises(gpushare.LockedError):
            plan.apply()
        waiting, events = [], []
        with self.assertRaises(gpushare.GpuShareError) as caught:
            plan.apply(waiting.append, timeout=0.35)
        self.assertIsInstance(caught.exception, (gpushare.LockedError, gpushare.WaitTimeoutError))
        self.assertGreaterEqual([e.kind for e in waiting].count(EventKind.WAITING_FOR_LOCK), 2)

        def stop(event):
            events.append(event)
            if len(events) == 2:
                raise InterruptedError

        with self.assertRaises(InterruptedError):
            plan.apply(stop, timeout=None)
        holder.stdin.write("go\n")
        holder.stdin.flush()
        self.assertEqual(heard(holder), "done")
        # The plan was made before that.
        with self.assertRaises(gpushare.StaleError):
            plan.apply()

    def test_two_threads_apply_one_after_the_other(self) -> None:
        results = []

        def apply(mode):
            for _ in range(20):
                try:
                    results.append(self.node.plan(MODES[mode]).apply(timeout=10).outcome)
                    return
                except gpushare.StaleError:
                    continue

        threads = [threading.Thread(target=apply, args=(mode,)) for mode in ("exclusive", "mig") * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(results), 4)
        self.assertEqual(len({gpu.mode for gpu in self.node.gpus}), 1)


if __name__ == "__main__":
    unittest.main()
