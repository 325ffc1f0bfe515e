"""Hooks: when they are called, what their errors do, and what goes on in the middle of one."""

import json
import os
import pickle
import signal
import sys
import time
import unittest
import warnings
from pathlib import Path

import gpushare
from common import MODES, Shared, heard, mig
from gpushare import Moment, Outcome

# Both GPUs are switched.
MANY = mig("all", **{"3g": 1, "1g": 2})
BEGINNING = (Moment.PRE_APPLY, Moment.PRE_MODE)


class Mine(Exception):
    pass


class Hooked(unittest.TestCase):
    def setUp(self):
        self.node = gpushare.Node(sim="2xH100-80GB")
        self.before = self.node.status().digest
        self.calls = []

    def apply(self, failing=(), raises=Mine, **options):
        """With a function that notes its calls, and raises at some moments."""

        def hook(moment, plan, error, gpu):
            self.calls.append((moment, plan, error, gpu))
            if moment in failing:
                raise raises(f"not at {moment}")

        return self.node.plan(MANY).apply(hooks=hook, **options)

    def moments(self):
        return [moment for moment, *_ in self.calls]


class Functions(Hooked):
    def test_they_are_called_in_order_and_with_what_there_is(self) -> None:
        plan = self.node.plan(MANY)
        report = self.apply()
        self.assertEqual(self.moments(), ["pre-apply", "pre-mode", "pre-mode", "post-apply"])
        for moment, told, error, _ in self.calls:
            self.assertIs(type(moment), Moment)
            self.assertEqual(told, plan)
            self.assertIsNone(error)
        gpus = [gpu for *_, gpu in self.calls]
        self.assertEqual((gpus[0], gpus[3]), (None, None))
        self.assertEqual(set(gpus[1:3]), {gpu.uuid for gpu in self.node.gpus})
        self.assertEqual((report.outcome, report.failed_hooks), ("applied", ()))

    def test_nothing_to_do_calls_nobody(self) -> None:
        self.apply()
        self.calls.clear()
        self.assertEqual(self.apply().outcome, "unchanged")
        self.assertEqual(self.calls, [])

    def test_before_the_change_one_that_raises_stops_it(self) -> None:
        for moment in BEGINNING:
            with self.subTest(moment), self.assertRaisesRegex(Mine, f"^not at {moment}$") as caught:
                self.apply([moment])
            end, _, error, _ = self.calls[-1]
            self.assertEqual(end, "failure")
            self.assertEqual(self.moments().count(moment), 1)
            cause = caught.exception.__cause__
            self.assertIsInstance(cause, gpushare.InterruptedTransitionError)
            self.assertIn(f"hook {moment}: it raised Mine: not at {moment}", str(cause))
            # The hook at the end was told the same.
            self.assertEqual((type(error), str(error)), (type(cause), str(cause)))
            self.assertEqual((error.outcome, error.simulated), (cause.outcome, True))
            self.assertEqual(self.node.status().digest, self.before)
            self.assertIsNone(self.node.gpus[0].unsettled)
            if moment == "pre-apply":
                self.assertIs(cause.outcome, Outcome.UNTOUCHED)
            self.calls.clear()

    def test_the_second_gpu_rolls_the_first_one_back(self) -> None:
        seen = []

        def hook(moment, plan, error, gpu):
            if moment is Moment.PRE_MODE:
                seen.append(self.node.status().digest)
                if len(seen) == 2:
                    raise Mine

        with self.assertRaises(Mine) as caught:
            self.node.plan(MANY).apply(hooks=hook)
        self.assertIs(caught.exception.__cause__.outcome, Outcome.ROLLED_BACK)
        self.assertNotEqual(seen[1], self.before)
        self.assertEqual(self.node.status().digest, self.before)

    def test_after_the_change_one_that_raises_is_in_the_report(self) -> None:
        report = self.apply([Moment.POST_APPLY])
        said = ("hook post-apply: it raised Mine: not at post-apply",)
        self.assertEqual((report.outcome, report.failed_hooks), ("applied", said))
        self.assertIn(said[0], str(report))
        self.assertEqual(report.to_dict()["failed_hooks"], list(said))
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            self.assertEqual(pickle.loads(pickle.dumps(report, protocol)).failed_hooks, said)
        self.assertEqual({gpu.mode for gpu in self.node.gpus}, {"mig"})

    def test_one_that_raises_at_the_failure_is_added_to_it(self) -> None:
        with self.assertRaises(Mine) as caught:
            self.apply([Moment.PRE_MODE, Moment.FAILURE])
        self.assertEqual(caught.exception.args, ("not at pre-mode",))
        told = str(caught.exception.__cause__)
        self.assertIn("it raised Mine: not at pre-mode", told)
        self.assertIn("and then hook failure: it raised Mine: not at failure", told)

    def test_what_a_progress_function_raises_is_a_failure(self) -> None:
        def progress(event):
            if event.step == 3:
                raise Mine("in progress")

        for failing in ((), (Moment.FAILURE,)):
            with self.assertRaisesRegex(Mine, "^in progress$") as caught:
                self.apply(failing, progress=progress)
            self.assertEqual(self.moments().count(Moment.FAILURE), 1)
            self.assertNotIn(Moment.POST_APPLY, self.moments())
            self.assertIs(caught.exception.__cause__.outcome, Outcome.ROLLED_BACK)
            self.assertEqual(failing != (), "and then hook" in str(caught.exception.__cause__))
            self.calls.clear()

    def test_one_that_clears_the_way(self) -> None:
        self.node = gpushare.Node(sim="H100-80GB")
        plan = self.node.plan(MANY)
        events = []

        def hook(moment, *_):
            events.append(str(moment))

        plan.apply(lambda event: events.append(event.kind), hooks=hook)
        # Before consent is asked, which "planned" tells of.
        self.assertEqual(events[:2], ["pre-apply", "planned"])
        self.assertEqual(events[-1], "post-apply")

    def test_it_may_look_and_not_change(self) -> None:
        modes, refused = [], []

        def hook(moment, plan, error, gpu):
            modes.append({gpu.mode for gpu in self.node.gpus})
            try:
                self.node.plan(MODES["exclusive"]).apply()
            except gpushare.LockedError as error:
                refused.append(error.code)

        self.node.plan(MANY).apply(hooks=hook)
        self.assertEqual((modes[0], modes[-1]), ({"time_sliced"}, {"mig"}))
        self.assertEqual(len(refused), 4)

    def test_an_exception_that_cannot_be_shown(self) -> None:
        class Broken(Exception):
            def __str__(self):
                raise ValueError

        report = self.apply([Moment.POST_APPLY], Broken)
        self.assertEqual(report.failed_hooks, ("hook post-apply: it raised " + Broken.__qualname__,))
        self.node.plan(report.previous).apply()
        report = self.apply([Moment.POST_APPLY], lambda _: ValueError("\udc80"))
        self.assertRegex(report.failed_hooks[0], "it raised ValueError: \ufffd")
        self.node.plan(report.previous).apply()
        report = self.apply([Moment.POST_APPLY], lambda _: ValueError)
        self.assertRegex(report.failed_hooks[0], "it raised ValueError$")

    def test_what_can_be_neither_called_nor_read(self) -> None:
        plan = self.node.plan(MANY)
        for wrong in (7, [], b"/tmp", True, object()):
            with self.assertRaisesRegex(
                TypeError, "^hooks: .* is not a function or the path of a directory$"
            ):
                plan.apply(hooks=wrong)
        for limit in ("1", None, []):
            with self.assertRaisesRegex(TypeError, "^hook_timeout: "):
                plan.apply(hooks=print, hook_timeout=limit)
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "^hook_timeout: "):
            plan.apply(hook_timeout=-1)
        with self.assertRaises(TypeError):
            plan.apply(hooks=lambda: None)
        self.assertEqual(self.node.status().digest, self.before)

    def test_hooks_within_hooks_have_an_end(self) -> None:
        nodes = []

        def hook(moment, *_):
            if moment is Moment.PRE_APPLY:
                nodes.append(gpushare.Node(sim="H100-80GB"))
                nodes[-1].plan(MODES["exclusive"]).apply(hooks=hook)

        with self.assertRaisesRegex(gpushare.InvalidStateError, "progress functions and hooks"):
            hook(Moment.PRE_APPLY)
        self.assertEqual(len(nodes), 18)


class Ended(Hooked):
    """What is no Exception comes through as itself."""

    def test_whenever_it_is_raised(self) -> None:
        for raised in (KeyboardInterrupt, SystemExit):
            for moment in Moment:
                if moment is Moment.FAILURE:
                    continue
                with self.subTest(raised=raised, moment=moment), self.assertRaises(raised) as caught:
                    self.apply([moment], raised)
                cause = caught.exception.__cause__
                if moment is Moment.POST_APPLY:
                    # It is done, and stays.
                    self.assertIsNone(cause)
                    self.assertEqual({gpu.mode for gpu in self.node.gpus}, {"mig"})
                else:
                    self.assertIsInstance(cause, gpushare.InterruptedTransitionError)
                    self.assertEqual(self.moments()[-1], "failure")
                    self.assertEqual(self.node.status().digest, self.before)
                self.setUp()

    def test_at_the_failure_it_comes_before_what_failed(self) -> None:
        def hook(moment, *_):
            if moment is Moment.FAILURE:
                raise SystemExit(7)
            raise Mine(str(moment))

        with self.assertRaises(SystemExit) as caught:
            self.node.plan(MANY).apply(hooks=hook)
        self.assertEqual(caught.exception.code, 7)
        self.assertIsInstance(caught.exception.__cause__, Mine)
        self.assertIsInstance(caught.exception.__cause__.__cause__, gpushare.InterruptedTransitionError)

    def test_at_a_failure_that_is_not_the_hooks(self) -> None:
        def progress(event):
            raise Mine

        with self.assertRaises(KeyboardInterrupt) as caught:
            self.apply([Moment.FAILURE], KeyboardInterrupt, progress=progress)
        self.assertIsInstance(caught.exception.__cause__, Mine)

    def test_a_signal(self) -> None:
        def hook(moment, *_):
            if moment is Moment.PRE_MODE:
                signal.raise_signal(signal.SIGINT)
                time.sleep(60)

        began = time.monotonic()
        with self.assertRaises(KeyboardInterrupt) as caught:
            self.node.plan(MANY).apply(hooks=hook)
        self.assertLess(time.monotonic() - began, 30)
        self.assertIn("hook pre-mode: it raised KeyboardInterrupt", str(caught.exception.__cause__))
        self.assertEqual(self.node.status().digest, self.before)

    def test_a_signal_from_elsewhere(self) -> None:
        process = Shared.child(
            self,
            """
            def hook(moment, plan, error, gpu):
                if moment == "pre-apply":
                    say("waits")
                    time.sleep(60)
            try:
                spec = {"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}]}
                node.plan(spec).apply(hooks=hook)
            except KeyboardInterrupt as error:
                say(f"{type(error.__cause__).__name__} {error.__cause__.outcome}")
            """,
        )
        self.assertEqual(heard(process), "waits")
        process.send_signal(signal.SIGINT)
        self.assertEqual(heard(process), "InterruptedTransitionError untouched")
        self.assertEqual(process.wait(timeout=10), 0)

    FLEET, state = "H100-80GB", None


class Forked(Shared):
    """A hook forks, and the child comes back from it into its parent's call."""

    WANTED = mig(0, **{"3g": 1})

    def forked_at(self, number, leave):
        """What the parent has of an apply whose call of that number forks, and what the child said; None
        where there were fewer calls."""
        reading, writing = os.pipe()
        parent, calls, child = os.getpid(), 0, None

        def call(*_):
            nonlocal calls, child
            calls += 1
            if calls != number or os.getpid() != parent:
                return
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                leave()
            else:
                os.waitpid(child, 0)

        said = "done"
        try:
            report = self.node.plan(self.WANTED).apply(call, hooks=call)
        except BaseException as error:
            if os.getpid() == parent:
                raise
            causes = (error, error.__cause__)
            said = " ".join(type(cause).__name__ for cause in causes if cause is not None)
        finally:
            if os.getpid() != parent:
                os.write(writing, f"{said}, {calls} calls".encode())
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            heard = stream.read()
        return report, None if child is None else heard

    def test_an_apply_is_made_once_and_by_the_parent(self) -> None:
        self.node.plan(MODES["exclusive"]).apply()
        steps = len(self.node.plan(self.WANTED).steps)
        ways = {(lambda: None): "InvalidStateError", (lambda: sys.exit(0)): "SystemExit InvalidStateError"}
        for leave, expected in ways.items():
            for number in range(1, 100):
                self.node.plan(MODES["exclusive"]).apply()
                report, said = self.forked_at(number, leave)
                if said is None:
                    break
                with self.subTest(expected, call=number):
                    self.assertEqual(said, f"{expected}, {number} calls")
                    self.assertEqual((report.outcome, report.failed_hooks), ("applied", ()))
                    self.assertTrue(self.node.plan(self.WANTED).is_noop)
                    self.assertEqual(self.node.recover().outcome, "unchanged")
            # Three hooks, the plan and its steps, and a call that there is not.
            self.assertEqual(number, 3 + 1 + steps + 1)

    def test_programs_are_the_parents_too(self) -> None:
        programs = self.folder / "hooks"
        programs.mkdir()
        log = self.folder / "log"
        for name in Moment:
            program = programs / name
            program.write_text(f'#!/bin/sh\ncat >/dev/null\necho {name} >>"{log}"\n')
            program.chmod(0o755)
        self.node.plan(MODES["exclusive"]).apply()
        reading, writing = os.pipe()
        parent = os.getpid()

        def progress(event):
            if event.step == 3 and os.getpid() == parent:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    child = os.fork()
                if child:
                    os.waitpid(child, 0)

        said = "done"
        try:
            self.node.plan(MANY).apply(progress, hooks=programs)
        except gpushare.InvalidStateError:
            said = "refused"
        finally:
            if os.getpid() != parent:
                os.write(writing, said.encode())
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            self.assertEqual(stream.read(), "refused")
        self.assertEqual(log.read_text().split(), ["pre-apply", "pre-mode", "pre-mode", "post-apply"])


class Programs(Shared):
    def setUp(self):
        super().setUp()
        self.programs = self.folder / "hooks"
        self.programs.mkdir()
        self.log = self.folder / "log"

    def program(self, name, line):
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def test_they_are_run_in_order_with_the_plan(self) -> None:
        for name in Moment:
            self.program(
                name, f'echo "$GPUSHARE_HOOK $GPUSHARE_GPU" >>{self.log}; cat >{self.folder}/{name}.json'
            )
        plan = self.node.plan(MANY)
        for directory in (self.programs, str(self.programs)):
            report = plan.apply(hooks=directory, hook_timeout=20)
            lines = self.log.read_text().splitlines()
            self.assertEqual(
                [line.split()[0] for line in lines], ["pre-apply", "pre-mode", "pre-mode", "post-apply"]
            )
            self.assertEqual({line.split()[1] for line in lines[1:3]}, {gpu.uuid for gpu in self.node.gpus})
            self.assertEqual(json.loads((self.folder / "pre-apply.json").read_text()), plan.to_dict())
            self.node.plan(report.previous).apply()
            plan = self.node.plan(MANY)
            self.log.unlink()

    def test_one_that_says_no(self) -> None:
        self.program("pre-mode", "echo they still compute >&2; exit 3")
        self.program("failure", f'echo "$GPUSHARE_ERROR_CODE $GPUSHARE_OUTCOME" >>{self.log}')
        before = self.node.status().digest
        with self.assertRaisesRegex(gpushare.StorageError, "they still compute") as caught:
            self.node.plan(MANY).apply(hooks=self.programs)
        self.assertEqual(self.log.read_text(), f"IO {caught.exception.outcome}\n")
        self.assertEqual(self.node.status().digest, before)

    def test_one_that_fails_afterwards(self) -> None:
        self.program("post-apply", "echo no monitor >&2; exit 1")
        report = self.node.plan(MANY).apply(hooks=self.programs)
        self.assertEqual(report.outcome, "applied")
        self.assertIn("no monitor", report.failed_hooks[0])

    def test_one_that_takes_too_long(self) -> None:
        self.program("pre-apply", "exec sleep 60")
        began = time.monotonic()
        with self.assertRaises(gpushare.WaitTimeoutError):
            self.node.plan(MANY).apply(hooks=self.programs, hook_timeout=0.2)
        self.assertLess(time.monotonic() - began, 20)

    def test_a_directory_that_is_none(self) -> None:
        before = self.node.status().digest
        self.program("pre-aply", "true")
        for directory in (self.folder / "nowhere", self.programs, __file__):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, "^hooks"):
                self.node.plan(MANY).apply(hooks=directory)
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "^hooks: "):
            self.node.plan(MANY).apply(hooks=Path("a\0b"))
        self.assertEqual(self.node.status().digest, before)


if __name__ == "__main__":
    unittest.main()
