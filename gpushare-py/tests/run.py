"""Runs the tests beside this file: a failure is shown when it happens, and a test that hangs is named."""

import faulthandler
import pathlib
import sys
import unittest

# Four interpreters share two cores with whatever else a machine does: the tests take two minutes here.
LIMIT = 900


class Result(unittest.TextTestResult):
    def show(self, error: str) -> None:
        self.stream.writeln(f"\n{self.separator1}\n{error}")
        self.stream.flush()

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.show("{}\n{}".format(*self.failures[-1]))

    def addError(self, test, err):
        super().addError(test, err)
        self.show("{}\n{}".format(*self.errors[-1]))


def main() -> int:
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    here = pathlib.Path(__file__).parent
    suite = unittest.defaultTestLoader.discover(str(here))
    done = unittest.TextTestRunner(resultclass=Result).run(suite)
    faulthandler.cancel_dump_traceback_later()
    return 0 if done.wasSuccessful() and done.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
