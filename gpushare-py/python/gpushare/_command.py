"""The ``gpushare`` command: the same Rust command line as the program of that name."""

from __future__ import annotations

import os
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


def path() -> str:
    """Where the command is that was installed with this package."""
    from importlib import metadata

    import gpushare

    try:
        distribution = metadata.distribution("gpushare-py")
        files = distribution.files or ()
        # Another may be installed than the one that is imported.
        is_this = os.path.samefile(str(distribution.locate_file("gpushare/__init__.py")), gpushare.__file__)
    except (metadata.PackageNotFoundError, FileNotFoundError):
        files, is_this = (), False
    # Installers note every script that they write, wherever they put it.
    for file in files if is_this else ():
        script = os.path.realpath(str(file.locate()))
        if file.name == "gpushare" and os.access(script, os.X_OK):
            return script
    folder = os.path.dirname(gpushare.__file__)
    raise FileNotFoundError(f"no gpushare command was installed with the package in {folder}")
