"""The gpushare command that comes with the package: the Rust one, which signals reach as they should."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import gpushare
from common import MODES, Shared, alone, layout, real

COMMAND = [sys.executable, "-m", "gpushare"]


class Answers(Shared):
    def test_exit_statuses_are_the_commands(self) -> None:
        self.assertEqual(self.command("status").returncode, 0)
        self.assertEqual(self.command("exclusive", "--gpu", "0", "--dry-run", check=False).returncode, 2)
        wrong = self.command("nothing", check=False)
        self.assertEqual(wrong.returncode, 1)
        self.assertTrue(wrong.stderr.startswith("gpushare: INVALID_ARGUMENT: "))
        self.assertEqual(self.command("run", "--", "sh", "-c", "exit 7", check=False).returncode, 7)
        self.assertEqual(self.command("run", "--", "/nowhere/x", check=False).returncode, 127)
        self.assertEqual(self.command("run", "--gpu", "9", "--", "true", check=False).returncode, 125)

    def test_it_is_of_the_packages_version(self) -> None:
        said = subprocess.run([*COMMAND, "--version"], check=True, capture_output=True, text=True).stdout
        self.assertEqual(said.strip(), f"gpushare {gpushare.__version__}")
        said = subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, text=True).stdout
        self.assertIn("Usage: gpushare ", said)
        self.assertNotIn("__main__", said)

    def test_a_reader_who_leaves_is_no_error(self) -> None:
        code = f"{' '.join(COMMAND)} --sim 64xH100-80GB status; echo $? >&2"
        said = subprocess.run(["sh", "-c", f"({code}) | head -n 1"], capture_output=True, text=True)
        self.assertEqual((said.stdout, said.stderr), ("SIMULATED\n", "0\n"))


class Running(Shared):
    def start(self, *words, **options):
        words = [*COMMAND, "--state-dir", self.state, "--sim", self.FLEET, *words]
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

        def end():
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

        self.addCleanup(end)
        return process

    def test_run_becomes_the_command(self) -> None:
        process = self.start("run", "--", "sh", "-c", "echo $$ $GPUSHARE_LEASE; sleep 60")
        pid, lease = process.stdout.readline().split()
        self.assertEqual(int(pid), process.pid)
        [share] = [share for share in self.node.leases().shares if share.leased]
        self.assertEqual((share.lease, share.holder.pid), (lease, process.pid))
        process.terminate()
        self.assertEqual(process.wait(), -signal.SIGTERM)

    def test_what_runs_has_the_signals_of_a_shells_child(self) -> None:
        code = "grep -E 'Sig(Ign|Blk)' /proc/self/status"
        plain = subprocess.run(
            ["/bin/sh", "-c", f"exec {code}"], capture_output=True, text=True, restore_signals=True
        )
        under = self.command("run", "--", "sh", "-c", f"exec {code}")
        self.assertEqual(under.stdout, plain.stdout)

    def test_ctrl_c_ends_what_runs(self) -> None:
        for verify in ([], ["--verify"]):
            process = self.start(
                "run",
                *verify,
                "--",
                sys.executable,
                "-c",
                "import time; print('on', flush=True); time.sleep(60)",
            )
            self.assertEqual(process.stdout.readline(), "on\n")
            process.send_signal(signal.SIGINT)
            self.assertIn(process.wait(timeout=20), (-signal.SIGINT, 128 + signal.SIGINT))

    def test_ctrl_c_ends_the_waiting(self) -> None:
        self.node.plan(MODES["exclusive"]).apply()
        with self.node.lease(gpu=0):
            process = self.start("run", "--gpu", "0", "--timeout", "none", "--", "true")
            # It says for whom it waits.
            self.assertIn("waiting for", process.stderr.readline())
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(timeout=10), 125)
            self.assertIn("INTERRUPTED", process.stderr.read())

    def test_ctrl_c_rolls_an_apply_back(self) -> None:
        layout(self.node, 0, **{"3g": 1})
        self.busy(self.node.gpus[0].mig_devices[0].uuid)
        process = self.start("exclusive", "--gpu", "0", "--drain", "600", "--timeout", "60")
        plan, late = self.node.plan(MODES["exclusive"]), time.monotonic() + 60
        # It has the lock when it waits for them to go, and by then it hears Ctrl-C. What is asked here takes
        # the lock too, for which it waits.
        while time.monotonic() < late and process.poll() is None:
            try:
                plan.apply()
            except gpushare.LockedError:
                break
            except gpushare.DeviceBusyError:
                time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=20), 1)
        self.assertIn("INTERRUPTED", process.stderr.read())

    def test_what_is_ignored_stays_ignored(self) -> None:
        words = [*COMMAND, "--state-dir", self.state, "--sim", self.FLEET, "run", "--"]
        inner = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
        said = subprocess.run(
            ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *words, sys.executable, "-c", inner],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(said.stdout, "True\n")

    def test_a_share_is_held_for_another_process(self) -> None:
        tenant = subprocess.Popen(["sleep", "60"])
        try:
            said = json.loads(self.command("--json", "lease", "--gpu", "0", "--pid", str(tenant.pid)).stdout)
            [share] = [share for share in self.node.leases().shares if share.leased]
            self.assertEqual((share.for_pid, share.lease), (tenant.pid, said["name"]))
            self.assertNotEqual(share.holder.pid, os.getpid())
            self.command("release", share.id)
            self.assertFalse(any(share.leased for share in self.node.leases().shares))
        finally:
            tenant.kill()
            tenant.wait()

    def test_prometheus_reads_the_metrics(self) -> None:
        parser = real("prometheus_client.parser")
        with self.node.lease(gpu=0) as lease:
            families = {
                family.name: family
                for family in parser.text_string_to_metric_families(self.command("metrics").stdout)
            }
        self.assertTrue(families and families["gpushare_gpu_info"].samples)
        for name, family in families.items():
            self.assertTrue(name.startswith("gpushare_"), name)
            self.assertTrue(family.documentation and family.type in ("gauge", "counter"), family)
            # One sample for each set of labels.
            sets = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
            self.assertEqual(len(sets), len(set(sets)), name)
        labels = [sample.labels for family in families.values() for sample in family.samples]
        self.assertTrue(any(lease.name in one.values() or lease.share in one.values() for one in labels))

    def test_the_installed_script_is_the_same(self) -> None:
        script = shutil.which("gpushare", path=os.path.dirname(sys.executable))
        if script is None:
            self.skipTest("the package is not installed")
        said = subprocess.run([script, "--version"], check=True, capture_output=True, text=True).stdout
        self.assertEqual(said.strip(), f"gpushare {gpushare.__version__}")


class Installed(unittest.TestCase):
    """What an installer leaves, made by hand."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()
        self.site = self.folder / "lib/site-packages"
        self.noted = self.site / "gpushare_py-0.1.0.dist-info"
        self.noted.mkdir(parents=True)
        (self.noted / "METADATA").write_text("Metadata-Version: 2.1\nName: gpushare-py\nVersion: 0.1.0\n")
        (self.noted / "RECORD").write_text("../../bin/gpushare,,\ngpushare/__init__.py,,\n")
        (self.site / "gpushare").symlink_to(Path(gpushare.__file__).parent)
        self.script = self.folder / "bin/gpushare"
        self.script.parent.mkdir()
        self.script.touch(0o755)

    def said(self, *paths):
        code = """
            import gpushare
            try:
                print(gpushare.command_path())
            except FileNotFoundError as error:
                print("none:", error)
        """
        # The package may be where these tests were started, and that comes first.
        env = {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        return alone(code, env=env, cwd=self.folder).stdout.strip()

    def test_the_command_is_found_that_came_with_the_package(self) -> None:
        self.assertEqual(self.said(self.site), str(self.script))

    def test_no_other_command_is(self) -> None:
        nothing = "none: no gpushare command was installed with the package in "
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        other = elsewhere / "gpushare"
        shutil.copytree(Path(gpushare.__file__).parent, other)
        # What is imported is not what is installed.
        self.assertEqual(self.said(elsewhere, self.site), f"{nothing}{other}")
        self.script.chmod(0o644)
        self.assertEqual(self.said(self.site), f"{nothing}{self.site / 'gpushare'}")
        self.script.unlink()
        self.assertEqual(self.said(self.site), f"{nothing}{self.site / 'gpushare'}")
        self.script.touch(0o755)
        self.assertEqual(self.said(self.site), str(self.script))
        (self.noted / "RECORD").write_text("gpushare/__init__.py,,\n")
        self.assertEqual(self.said(self.site), f"{nothing}{self.site / 'gpushare'}")
        (self.noted / "RECORD").unlink()
        self.assertEqual(self.said(self.site), f"{nothing}{self.site / 'gpushare'}")


if __name__ == "__main__":
    unittest.main()
