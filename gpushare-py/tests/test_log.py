"""The core's events in logging, for who asks."""

import logging
import unittest

import gpushare
from common import MODES, alone


class Logged(unittest.TestCase):
    def test_changes_are_audited(self) -> None:
        for level in (logging.INFO, "INFO", "info"):
            node = gpushare.Node(sim="L40S", log_level=level)
            with self.assertLogs("gpushare", logging.DEBUG) as logs:
                node.plan(MODES["exclusive"]).apply()
            self.assertIn("gpushare.audit", {record.name for record in logs.records})
            self.assertLessEqual({record.levelno for record in logs.records}, {20, 30, 40})

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


if __name__ == "__main__":
    unittest.main()
