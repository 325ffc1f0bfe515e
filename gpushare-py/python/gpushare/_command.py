"""The ``gpushare`` command: the same Rust command line as the program of that name."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Runs it with the arguments of this process, and returns its exit status."""
    try:
        from gpushare._gpushare import _command
    except ImportError:
        print("gpushare: this build of the package has no command", file=sys.stderr)
        return 1
    # Python's handler would wait for Python code to run. What was ignored from the start stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Python ignores it, and what `gpushare run` becomes would, too.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    return _command([sys.executable, "-P", "-m", "gpushare"], ["gpushare", *sys.argv[1:]])
