"""The package as it is imported: version, enumerations and exceptions."""

import copy
import pickle
import re
import subprocess
import sys
import tomllib
import unittest
from pathlib import Path

import gpushare
from common import alone
from gpushare import ErrorCode, GpuShareError, Outcome, SharingMode
from gpushare._errors import _CLASSES, from_document

WORKSPACE = Path(__file__).resolve().parents[2]

# Those of the contract that derive from a builtin, too.
BUILTINS = {
    "InvalidRequestError": ValueError,
    "DeviceNotFoundError": LookupError,
    "PermissionDeniedError": PermissionError,
    "HazardError": ValueError,
    "WaitTimeoutError": TimeoutError,
    "StorageError": OSError,
    "PanicError": RuntimeError,
}


def document(number: int) -> dict:
    """What Rust's ``Error::to_document`` gives, every field filled."""
    return {
        "schema": "gpushare.error/v1",
        "code": ErrorCode(number).name,
        "number": number,
        "outcome": "rolled_back",
        "message": "in use",
        "context": ["apply"],
        "gpu": "GPU-8f3b98ec",
        "holders": [
            {
                "pid": 7,
                "command": "python",
                "uid": 1000,
                "kind": "compute",
                "start_time": 12,
                "protected": None,
                "added_later": 1,
            }
        ],
        "needs": ["mig/config"],
        "fits": ["1g.10gb"],
        "safe": ["25"],
        "driver": {"call": "nvmlInit_v2", "nvml_return": 9, "name": "DRIVER_NOT_LOADED"},
        "evicted": [],
        "os_error": 28,
        "path": "/var/lib/gpushare",
        "simulated": True,
    }


class Package(unittest.TestCase):
    def test_the_version_is_the_workspaces(self) -> None:
        manifest = tomllib.loads((WORKSPACE / "Cargo.toml").read_text())
        self.assertEqual(gpushare.__version__, manifest["workspace"]["package"]["version"])

    def test_the_readmes_links_hold_on_the_index(self) -> None:
        readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
        links = re.findall(r"\]\(([^)]*)\)", readme)
        self.assertTrue(links)
        for link in links:
            self.assertRegex(link, "^https://github.com/gpushare/gpushare/(blob|tree)/main/")
            below = link.partition("/main/gpushare-py/")[2]
            self.assertTrue((Path(__file__).resolve().parents[1] / below).exists(), link)

    @unittest.skipIf(sys.version_info < (3, 12), "it is not refused")
    def test_a_sub_interpreter_refuses_it(self) -> None:
        code = """
            try: import _interpreters as interpreters
            except ImportError: import _xxsubinterpreters as interpreters
            import gpushare
            inner = "try: import gpushare\\nexcept ImportError: pass\\nelse: raise KeyError"
            said = interpreters.run_string(interpreters.create(), inner)
            assert said is None, said
            print("refused")
        """
        self.assertEqual(alone(code).stdout, "refused\n")

    def test_all_names_are_there(self) -> None:
        self.assertEqual(sorted(gpushare.__all__), gpushare.__all__)
        for name in gpushare.__all__:
            self.assertTrue(hasattr(gpushare, name), name)

    def test_nothing_is_loaded_at_import(self) -> None:
        code = (
            "import gpushare, sys; maps = open('/proc/self/maps').read();"
            "heavy = {'ctypes', 'logging', 'inspect', 'json', 'asyncio', 'subprocess'} & set(sys.modules);"
            "sys.exit(heavy or 'libnvidia' in maps or 'libcuda' in maps)"
        )
        subprocess.run([sys.executable, "-S", "-c", code], check=True)


class Enumerations(unittest.TestCase):
    def test_modes_are_their_words(self) -> None:
        self.assertEqual(f"{SharingMode.TIME_SLICED}", "time_sliced")
        self.assertIs(SharingMode("mps"), SharingMode.MPS)

    def test_pickling_keeps_identity(self) -> None:
        for value in [*SharingMode, *ErrorCode, *Outcome]:
            self.assertIs(pickle.loads(pickle.dumps(value)), value)

    def test_only_attached_is_true(self) -> None:
        self.assertEqual([verdict for verdict in gpushare.Verdict if verdict], [gpushare.Verdict.ATTACHED])


class Exceptions(unittest.TestCase):
    def test_every_code_has_one_class(self) -> None:
        self.assertEqual(set(_CLASSES), set(ErrorCode))
        self.assertEqual(len(GpuShareError.__subclasses__()), len(ErrorCode))
        for cls in _CLASSES.values():
            self.assertIs(getattr(gpushare, cls.__name__), cls)

    def test_builtins_catch_what_they_mean(self) -> None:
        for cls in _CLASSES.values():
            builtins = {base for base in cls.__mro__ if base.__module__ == "builtins"}
            meant = BUILTINS.get(cls.__name__, Exception)
            self.assertEqual(builtins, set(meant.__mro__), cls)

    def test_a_document_becomes_an_exception_with_all_it_says(self) -> None:
        for code in ErrorCode:
            error = from_document("apply: in use", document(code))
            self.assertIs(error.code, code)
            self.assertEqual(str(error), "apply: in use")
            self.assertIs(error.outcome, Outcome.ROLLED_BACK)
            self.assertEqual(error.gpu, "GPU-8f3b98ec")
            self.assertEqual(error.holders[0].pid, 7)
            self.assertEqual((error.needs, error.fits, error.safe), (("mig/config",), ("1g.10gb",), ("25",)))
            self.assertEqual(error.nvml_return, 9)
        self.assertEqual(from_document("", document(ErrorCode.BUSY)).pids, (7,))

    def test_exceptions_pickle_and_copy(self) -> None:
        for code in ErrorCode:
            error = from_document("apply: in use", document(code))
            error.add_note("while testing")
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                again = pickle.loads(pickle.dumps(error, protocol))
                self.assertIs(type(again), type(error))
                self.assertEqual((again.args, again.__dict__), (error.args, error.__dict__))
                self.assertEqual(str(again), str(error))
            self.assertEqual(copy.copy(error).__dict__, error.__dict__)

    def test_pickles_lack_what_is_added_later(self) -> None:
        self.assertEqual(gpushare.Holder(7, "python", None, "compute").protected, None)

    def test_they_can_be_raised_with_a_message_alone(self) -> None:
        for cls in _CLASSES.values():
            with self.assertRaisesRegex(GpuShareError, "^why$") as caught:
                raise cls("why")
            self.assertIs(caught.exception.outcome, Outcome.UNTOUCHED)
            self.assertEqual(caught.exception.holders, ())
            with self.assertRaises(ValueError):
                cls("why", outcome="other")


if __name__ == "__main__":
    unittest.main()
