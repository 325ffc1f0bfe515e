"""CDI: specifications that follow the GPUs, and the program by which a container takes its lease."""

import contextlib
import json
import os
import pickle
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path

import gpushare
from common import MODES, Shared, layout, mig, spec

TURNS = spec({"select": "all", "mode": "time_sliced", "time_sliced": {"replicas": 2}})
# Not a path that a container runtime could start.
UNFIT = ("gpushare", "./gpushare", "", Path("bin/gpushare"))


def names(text):
    """What a container can ask for."""
    return re.findall("^  - name: (.+)$", text, re.MULTILINE)


class Kept(Shared):
    def setUp(self):
        super().setUp()
        self.directory = self.folder.resolve() / "cdi"
        self.directory.mkdir()

    def apply(self, wanted, **options):
        return self.node.plan(wanted).apply(**options)

    def files(self):
        return tuple(str(file) for file in sorted(self.directory.iterdir()))

    def texts(self):
        return [Path(file).read_text() for file in self.files()]

    def names(self):
        return [names(text) for text in self.texts()]

    def test_they_follow_every_change_until_they_are_removed(self) -> None:
        report = self.apply(TURNS, cdi=self.directory)
        self.assertEqual((report.cdi_specifications, len(self.files())), (self.files(), 2))
        for number, found in enumerate(self.names()):
            self.assertEqual(sum(name.startswith("gpu") for name in found), 2, number)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(report, protocol))
            self.assertEqual((again, again.cdi_specifications), (report, report.cdi_specifications))
        self.assertEqual(tuple(report.to_dict()["cdi_specifications"]), self.files())
        # Nobody asks for them, and there they are.
        report = layout(self.node, 0, **{"3g": 1, "1g": 1})
        [changed] = report.cdi_specifications
        self.assertIn(changed, self.files())
        self.assertIn("gpu0-mig1", names(Path(changed).read_text()))
        # Nothing is to do, nor to write.
        report = layout(self.node, 0, **{"3g": 1, "1g": 1})
        self.assertEqual((report.outcome, report.cdi_specifications), ("unchanged", ()))
        kept = self.texts()
        self.assertEqual(self.apply(MODES["exclusive"], cdi=None).outcome, "applied")
        self.assertNotEqual(self.texts(), kept)
        report = self.apply(mig(0, **{"7g": 1}), cdi=False)
        self.assertEqual((report.cdi_specifications, len(self.files())), ((), 1))
        self.apply(MODES["exclusive"], cdi=False)
        self.apply(TURNS)
        self.assertEqual(self.files(), ())

    def test_they_are_what_the_command_keeps(self) -> None:
        self.apply(TURNS, cdi=self.directory)
        own = self.texts()
        file = self.folder / "spec.json"
        file.write_text(json.dumps(TURNS))
        self.command("apply", f"--cdi={self.directory}", "--no-lease", str(file))
        self.assertEqual(self.texts(), own)
        self.assertEqual(own[0].splitlines()[-3:], self.node.export("cdi").text.splitlines()[-3:])

    def test_a_directory_may_be_given_in_any_way(self) -> None:
        for way in (
            str(self.directory),
            self.directory,
            f"{self.directory}/",
            os.path.relpath(self.directory),
        ):
            report = self.apply(MODES["exclusive"], cdi=way)
            self.assertTrue(all(map(os.path.isabs, report.cdi_specifications)), way)
            said = tuple(map(os.path.realpath, report.cdi_specifications))
            self.assertEqual((said, len(said)), (self.files(), 2), way)
            self.apply(MODES["exclusive"], cdi=False)
            self.assertEqual(self.files(), ())
        with contextlib.chdir(self.folder):
            self.apply(MODES["exclusive"], cdi="cdi")
        self.assertEqual(len(self.files()), 2)

    def test_a_plan_that_was_a_document(self) -> None:
        plan = pickle.loads(pickle.dumps(self.node.plan(TURNS)))
        self.assertEqual(plan.apply(node=self.node, cdi=self.directory).cdi_specifications, self.files())

    def test_recovery_writes_them(self) -> None:
        self.apply(MODES["exclusive"], cdi=self.directory)
        before = self.texts()
        self.killed_at(5)
        # In between no container starts there.
        self.assertEqual(len(self.files()), 1)
        self.assertTrue(set(self.node.recover().cdi_specifications) < set(self.files()))
        self.assertEqual(self.texts(), before)

    def test_a_change_that_is_stopped_leaves_them(self) -> None:
        self.apply(MODES["exclusive"], cdi=self.directory, cdi_program="/opt/gpushare")
        before = self.texts()

        def progress(event):
            if event.step == 3:
                raise KeyError

        for options in ({}, {"cdi": self.folder}, {"cdi": False}):
            with self.assertRaises(KeyError):
                self.apply(mig("all", **{"3g": 2}), progress=progress, **options)
            self.assertEqual((self.texts(), list(self.folder.glob("*.yaml"))), (before, []), options)

    def test_wrong_arguments_touch_nothing(self) -> None:
        refused = gpushare.InvalidRequestError
        here = self.directory
        wrong = [
            (TypeError, "^cdi: True", {"cdi": True}),
            (TypeError, "^cdi: int is not the path of a directory or False$", {"cdi": 0}),
            (TypeError, "^cdi: ", {"cdi": [here]}),
            (refused, "^cdi: ", {"cdi": ""}),
            (refused, "^cdi: ", {"cdi": "a\0b"}),
            (refused, "^cdi: ", {"cdi": "\ud800"}),
            (TypeError, "^cdi_program: ", {"cdi": here, "cdi_program": 7}),
            (TypeError, "^cdi_program: ", {"cdi": here, "cdi_program": True}),
            (refused, "^cdi_program: ", {"cdi": here, "cdi_program": "/a\0b"}),
            (refused, "cannot be the hook", {"cdi": here, "cdi_program": "/a\nb"}),
            (refused, "^cdi_program: it goes with cdi", {"cdi_program": "/gpushare"}),
            (refused, "^cdi_program: it goes with cdi", {"cdi_program": "/gpushare", "cdi": False}),
            *((refused, "^cdi_program: .* not absolute", {"cdi": here, "cdi_program": one}) for one in UNFIT),
            (refused, "not UTF-8", {"cdi": os.fsdecode(bytes(here) + b"-\xff")}),
            # Where this machine's containers look.
            (refused, "simulated", {"cdi": "/var/run/cdi"}),
        ]
        before = self.node.status().digest
        in_memory = gpushare.Node(sim=self.FLEET)
        for node in (self.node, in_memory):
            for kind, why, options in wrong:
                # It is refused there whatever its name.
                if node is in_memory and why == "cannot be the hook":
                    continue
                for wanted in (MODES["time_sliced"], MODES["mig"]):
                    with self.subTest(options=options), self.assertRaisesRegex(kind, why):
                        node.plan(wanted).apply(**options)
        with self.assertRaisesRegex(gpushare.UnsupportedError, "^cdi_program: .* in memory"):
            in_memory.plan(MODES["mig"]).apply(cdi=here, cdi_program="/gpushare")
        for node in (self.node, in_memory):
            self.assertEqual((node.status().digest, self.files()), (before, ()))
            self.assertEqual(node.plan(MODES["time_sliced"]).apply().cdi_specifications, ())

    def test_one_that_others_may_write_to(self) -> None:
        self.directory.chmod(0o777)
        with self.assertRaises(gpushare.PermissionDeniedError) as caught:
            self.apply(MODES["mig"], cdi=self.directory)
        self.assertTrue(caught.exception.needs)
        self.assertEqual(caught.exception.outcome, "untouched")
        self.assertEqual(self.files(), ())


class Leased(Shared):
    """The hook, started as a container runtime starts it."""

    def setUp(self):
        super().setUp()
        self.directory = self.folder / "cdi"
        self.directory.mkdir()
        # The command has no environment but what the specification gives it.
        self.program = self.folder / "gpushare program"
        package = Path(gpushare.__file__).parents[1]
        self.program.write_text(
            f"#!/bin/sh\nPYTHONPATH='{package}' exec '{sys.executable}' -P -m gpushare \"$@\"\n"
        )
        self.program.chmod(0o755)

    def hook(self, name, pid):
        """Runs that of a share for a container whose first process that is."""
        [file] = self.directory.glob(f"*{self.node.gpus[1].uuid}.yaml")
        _, device = file.read_text().split(f"name: {name}\n")
        _, hook = device.split("hookName: createRuntime\n")

        def value(key):
            return re.search(f"^ *{key}: (.+)$", hook, re.MULTILINE)[1]

        def words(key):
            return [word.strip('"') for word in value(key).strip("[]").split(", ")]

        program, arguments = value("path").strip('"'), words("args")
        self.assertEqual((program, arguments[0]), (str(self.program), self.program.name))
        environment = dict(word.split("=", 1) for word in words("env"))
        self.assertEqual(environment.keys(), {"PATH", "GPUSHARE_SIM", "GPUSHARE_STATE_DIR"})
        state = {"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": pid, "bundle": "/b"}
        return subprocess.run(
            [program, *arguments[1:]],
            input=json.dumps(state),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def container(self):
        process = subprocess.Popen(["sleep", "300"])

        def end():
            process.kill()
            process.wait()

        self.addCleanup(end)
        return process, end

    def test_a_container_holds_its_share_until_it_ends(self) -> None:
        self.node.plan(TURNS).apply(cdi=self.directory, cdi_program=self.program)
        (first, end), (second, _) = self.container(), self.container()
        taken = self.hook("gpu1-1", first.pid)
        self.assertEqual(taken.returncode, 0, taken.stderr)
        [share] = [share for share in self.node.leases().shares if share.leased]
        self.assertEqual((share.id, share.for_pid), (f"{self.node.gpus[1].uuid}::1", first.pid))
        refused = self.hook("gpu1-1", second.pid)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("TIMEOUT", refused.stderr)
        with self.assertRaises(gpushare.DeviceBusyError):
            self.node.plan(MODES["mig"]).apply()
        end()
        late = time.monotonic() + 30
        while any(share.leased for share in self.node.leases().shares):
            self.assertLess(time.monotonic(), late, "the lease outlives its container")
            time.sleep(0.02)

    def test_an_export_has_the_same_hook(self) -> None:
        self.node.plan(TURNS).apply(cdi=self.directory, cdi_program=self.program)
        exported = self.node.export("cdi", cdi_program=str(self.program)).text
        self.assertEqual(exported, self.node.export("cdi", cdi_program=self.program).text)
        kept = [file.read_text() for file in self.directory.iterdir()]
        hooks = re.compile("createRuntime.*?timeout", re.DOTALL)
        self.assertEqual(
            sorted(hooks.findall(exported)), sorted(hook for text in kept for hook in hooks.findall(text))
        )
        # Two for each share: it goes by its id and by its number.
        self.assertEqual(len(hooks.findall(exported)), 2 * 4)
        self.assertEqual(hooks.findall(self.node.export("cdi").text), [])
        said = self.command("export", "cdi").stdout
        own = re.compile(r'path: ".*"(\n *args: )\[[^,]*,( "?-P"?, "?-m"?, gpushare,)?')
        self.assertEqual(own.sub(r"\1", said), own.sub(r"\1", exported))

    def test_wrong_programs(self) -> None:
        refused = gpushare.InvalidRequestError
        for wrong in UNFIT:
            with self.assertRaisesRegex(refused, "^cdi_program: .* not absolute"):
                self.node.export("cdi", cdi_program=wrong)
        for wrong in (7, True, b"/gpushare"):
            with self.assertRaisesRegex(TypeError, "^cdi_program: "):
                self.node.export("cdi", cdi_program=wrong)
        for kind in set(gpushare.ExportKind) - {"cdi"}:
            with self.assertRaisesRegex(refused, f"^cdi_program: {kind} takes none"):
                self.node.export(kind, cdi_program="/gpushare")
        with self.assertRaisesRegex(refused, "^cdi takes no image"):
            self.node.export("cdi", image="x")
        with self.assertRaisesRegex(gpushare.UnsupportedError, "^cdi_program: "):
            gpushare.Node(sim=self.FLEET).export("cdi", cdi_program="/gpushare")


if __name__ == "__main__":
    unittest.main()
