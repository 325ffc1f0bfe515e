"""The core's events in logging, for who asks."""

import logging
import unittest

import gpushare
from common import MODES, Shared, alone, heard


class Logged(unittest.TestCase):
    def test_changes_are_audited(self) -> None:
        for level in (logging.INFO, "INFO", "info"):
            node = gpushare.Node(sim="L40S", log_level=level)
            with self.assertLogs("gpushare", logging.DEBUG) as logs:
                node.plan(MODES["exclusive"]).apply()
            self.assertIn("gpushare.audit", {record.name for record in logs.records})
            self.assertLessEqual({record.levelno for record in logs.records}, {20, 30, 40})

    def test_what_was_done_comes_first(self) -> None:
        node = gpushare.Node(sim="H100-80GB", log_level="DEBUG")
        with self.assertLogs("gpushare", logging.DEBUG) as logs:
            node.plan(MODES["mig"]).apply()
            with node.lease(mig="7g", create=True) as lease:
                pass
        said = [record.getMessage() for record in logs.records if record.name == "gpushare.audit"]
        self.assertTrue(any(text.startswith("nvmlDeviceSetMigMode on uid=") for text in said), said)
        said = [record.getMessage() for record in logs.records if record.name == "gpushare.lease"]
        self.assertEqual(said, [f"took lease {lease.name} of {lease.share}", f"gave back lease {lease.name}"])

    def test_nothing_without_being_asked(self) -> None:
        node = gpushare.Node(sim="L40S")
        with self.assertNoLogs("gpushare", logging.DEBUG):
            node.plan(MODES["exclusive"]).apply()

    def test_a_handler_that_fails_stops_no_change(self) -> None:
        code = """
            import logging, sys, gpushare
            class Broken(logging.Handler):
                def emit(self, record): raise KeyError
            logging.getLogger("gpushare").addHandler(Broken())
            logging.getLogger("gpushare").setLevel("INFO")
            seen = []
            sys.unraisablehook = lambda what: seen.append(what.exc_type)
            node = gpushare.Node(sim="L40S", log_level="INFO")
            node.plan({"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}]}).apply()
            assert seen and set(seen) == {KeyError}, seen
            print(node.gpus[0].mode)
        """
        self.assertEqual(alone(code).stdout, "exclusive\n")

    def test_ctrl_c_while_a_message_is_handled_ends_the_call(self) -> None:
        code = """
            import logging, os, signal, sys, gpushare
            class Handler(logging.Handler):
                def emit(self, record):
                    seen.append(record)
                    if len(seen) == first: os.kill(os.getpid(), number)
            logging.getLogger("gpushare").addHandler(Handler())
            logging.getLogger("gpushare").setLevel("INFO")
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            node = gpushare.Node(sim="H100-80GB", log_level="INFO")
            before = node.status().digest
            plan = node.plan({"version": "gpushare/v1", "gpus": [
                {"select": 0, "mode": "mig", "mig": {"instances": {"1g": 7}}}]})
            def caught():
                try: plan.apply()
                except BaseException as error: return error
            for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)):
                seen, first = [], 3
                error = caught()
                assert type(error) is kind, error
                assert isinstance(error.__cause__, gpushare.InterruptedTransitionError), error.__cause__
                assert error.__cause__.outcome == "rolled_back"
                assert node.status().digest == before
                # What is undone is audited, too.
                assert len(seen) > first, seen
            # It is raised once.
            assert caught() is None
            print(node.gpus[0].mode)
        """
        self.assertEqual(alone(code).stdout, "mig\n")

    def test_a_handler_may_call(self) -> None:
        node = gpushare.Node(sim="L40S", log_level="INFO")
        others = (node, gpushare.Node(sim="L40S"), gpushare.Node(sim="L40S", log_level="DEBUG"))
        said = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said.append(record.name)
                for one in others:
                    said.append(one.gpus[0].mode)
                    one.doctor()

        logger, handler = logging.getLogger("gpushare"), Handler()
        logger.addHandler(handler)
        level = logger.level
        logger.setLevel(logging.DEBUG)
        try:
            node.plan(MODES["exclusive"]).apply()
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        self.assertIn("gpushare.audit", said)
        # What those calls do gives no messages.
        self.assertEqual(len(said), 4 * sum(name.startswith("gpushare") for name in said))

    def test_what_a_call_within_another_does_is_not_of_the_others_log(self) -> None:
        loud, quiet = gpushare.Node(sim="L40S", log_level="INFO"), gpushare.Node(sim="L40S")
        with self.assertLogs("gpushare", logging.DEBUG) as by_itself:
            loud.plan(MODES["exclusive"]).apply()
        loud.plan(MODES["time_sliced"]).apply()
        done = []

        def progress(event: gpushare.Event) -> None:
            if not done:
                done.append(quiet.plan(MODES["exclusive"]).apply())

        with self.assertLogs("gpushare", logging.DEBUG) as around:
            loud.plan(MODES["exclusive"]).apply(progress)
        self.assertEqual(len(done), 1)
        self.assertEqual(len(around.records), len(by_itself.records))


class Handled(Shared):
    def test_a_handler_may_ask_the_lease_and_release_it(self) -> None:
        self.node.plan(MODES["time_sliced"]).apply()
        child = self.child(
            f"""
            import logging
            from pathlib import Path
            node = gpushare.Node(sim={self.FLEET!r}, state_dir={self.state!r}, log_level="DEBUG")
            lease = node.lease(gpu=0)
            class Handler(logging.Handler):
                def emit(self, record):
                    if not seen:
                        seen.append((lease.released, lease.fileno() >= 0))
                        lease.release()
                        seen.append(lease.released)
            seen = []
            logging.getLogger("gpushare").addHandler(Handler())
            logging.getLogger("gpushare").setLevel("DEBUG")
            # What is said is that a record is not as it should be.
            for record in Path({self.state!r}).rglob("records/*.json"):
                record.write_text("broken")
            verdict = str(lease.verify().verdict)
            logging.getLogger("gpushare").handlers[:] = [logging.NullHandler()]
            say((seen, verdict, any(share.leased for share in node.leases().shares)))
            """
        )
        self.assertEqual(heard(child), "([(False, True), True], 'unknown', False)")


if __name__ == "__main__":
    unittest.main()
