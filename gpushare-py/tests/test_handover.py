"""Hand-over: what Python exports and imports is what the command does; metrics; the spec in force."""

import json
import pickle
import unittest
import weakref
from pathlib import Path

import gpushare
from common import MODES, Shared, layout, mig, spec
from gpushare import ExportKind

# What each kind takes, as the command has it and as Python has it.
OPTIONS = {
    "mig-parted": (["--config", "mine"], {"config": "mine"}),
    "docker-run": (["--image", "cuda:13", "--cdi"], {"image": "cuda:13", "cdi": True}),
    "compose": (["--image", "cuda:13", "--cdi"], {"image": "cuda:13", "cdi": True}),
    "device-plugin": (["--allow-hazard", "bypass-possible"], {"allow_hazards": "bypass-possible"}),
    "gpu-operator": (["--config", "mine", "--node", "here"], {"config": "mine", "node": "here"}),
    "resource-claim": (["--allow-hazard", "minimum-sm"], {"allow_hazards": ["minimum-sm"]}),
    "gres": (["--node", "here"], {"node": "here"}),
    "cdi": ([], {}),
}
# The command is its own program for leases; the programs that Python is given are in test_cdi.
ALWAYS = {"cdi": ["--no-lease"]}

TWO = """
version: v1
mig-configs:
  some:
    - devices: [0]
      mig-enabled: true
      mig-devices: {"1g.10gb": 2}
  none:
    - devices: all
      mig-enabled: false
"""


class Exporting(Shared):
    def states(self):
        yield "time-sliced", self.node
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        yield "one with MIG", self.node
        self.node.plan(MODES["mig"]).apply()
        layout(self.node, "all", **{"1g": 7})
        yield "all with MIG", self.node

    def test_it_is_what_the_command_exports(self) -> None:
        self.assertEqual(set(OPTIONS), set(ExportKind))
        said = 0
        for state, node in self.states():
            for kind, (words, keywords) in OPTIONS.items():
                for given, options in (([], {}), (words, keywords)):
                    with self.subTest(state, kind=kind, options=options):
                        command = self.command(
                            "--json", "export", kind, *ALWAYS.get(kind, ()), *given, check=False
                        )
                        if command.returncode:
                            with self.assertRaises(gpushare.GpuShareError) as caught:
                                node.export(kind, **options)
                            self.assertIn(f"{caught.exception.code.name}: {caught.exception}", command.stderr)
                            continue
                        exported = node.export(ExportKind(kind), **options)
                        self.assertEqual(exported.to_dict(), json.loads(command.stdout))
                        self.assertEqual(exported, node.export(kind, **options))
                        self.assertEqual(str(exported), exported.to_dict()["text"])
                        said += 1
        self.assertGreater(said, 30)

    def test_what_it_is(self) -> None:
        exported = self.node.export("mig-parted")
        self.assertIs(exported.kind, ExportKind.MIG_PARTED)
        self.assertEqual((str(exported), exported.simulated), (exported.text, True))
        self.assertTrue(exported.text.endswith("\n"))
        self.assertTrue(all(isinstance(one, str) for one in exported.cannot_say))
        self.assertRegex(
            repr(exported), "^<gpushare.Exported mig-parted: 6 lines, cannot say 0 things, SIMULATED>$"
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(exported, protocol))
            self.assertEqual((again, hash(again), str(again)), (exported, hash(exported), str(exported)))
        self.assertNotEqual(exported, self.node.export("mig-parted", config="other"))
        self.assertIs(weakref.ref(exported)(), exported)
        for name in ("kind", "text", "other"):
            with self.assertRaises(AttributeError):
                setattr(exported, name, "x")

    def test_device_nodes_are_looked_for(self) -> None:
        layout(self.node, "all", **{"1g": 7})
        self.assertEqual(self.node.export("gres").text, self.command("export", "gres").stdout)

    def test_wrong_arguments(self) -> None:
        export = self.node.export
        with self.assertRaisesRegex(
            gpushare.InvalidRequestError, 'kind: "mig_parted" is nothing .* mig-parted'
        ):
            export("mig_parted")
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "^gres takes no image"):
            export("gres", image="x")
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "allow_hazards: "):
            export("gres", allow_hazards=["all"])
        for key in ("config", "image", "cdi", "node", "allow_hazards"):
            with self.assertRaisesRegex(TypeError, f"^{key}: "):
                export("compose", **{key: 7})
        for wrong in (7, None, b"gres"):
            with self.assertRaisesRegex(TypeError, "^kind: "):
                export(wrong)
        with self.assertRaises(TypeError):
            export("compose", "x")
        with self.assertRaises(TypeError):
            export("compose", device_nodes={})


class Importing(Shared):
    def setUp(self):
        super().setUp()
        self.file = self.folder / "config.yaml"
        self.file.write_text(TWO)

    def test_it_is_what_the_command_imports(self) -> None:
        for config in ("some", "none"):
            said = self.command("--json", "import", "mig-parted", str(self.file), "--config", config)
            sources = (self.file, str(self.file), TWO, TWO.encode())
            imported = [self.node.import_config("mig-parted", source, config=config) for source in sources]
            self.assertEqual(len(set(imported)), 1)
            self.assertEqual(imported[0].spec, json.loads(said.stdout))
            notes = said.stderr.splitlines()
            self.assertEqual(
                ["gpushare: SIMULATED", *(f"gpushare: {note}" for note in imported[0].notes)], notes
            )
            yaml = self.command("import", "mig-parted", str(self.file), "--config", config)
            self.assertEqual(str(imported[0]), yaml.stdout)

    def test_what_is_exported_comes_back(self) -> None:
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        text = self.node.export(ExportKind.MIG_PARTED).text
        imported = self.node.import_config("mig-parted", text)
        self.assertTrue(self.node.plan(imported.spec).is_noop)
        # What is above is of another configuration.
        self.node.plan(mig(0, **{"7g": 1})).apply()
        self.assertFalse(self.node.plan(imported.spec).is_noop)

    def test_what_it_is(self) -> None:
        imported = self.node.import_config("mig-parted", TWO, config="some")
        self.assertRegex(repr(imported), r"^<gpushare.Imported 1 selector, \d notes?>$")
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(imported, protocol))
            self.assertEqual((again, hash(again)), (imported, hash(imported)))
            self.assertEqual((again.spec, again.notes), (imported.spec, imported.notes))
        self.assertNotEqual(imported, self.node.import_config("mig-parted", TWO, config="none"))
        # Each time another dict: nobody changes it for others.
        imported.spec["gpus"].clear()
        self.assertTrue(imported.spec["gpus"])

    def test_wrong_arguments(self) -> None:
        give = self.node.import_config
        for source, config, why in (
            (TWO, None, "some"),
            (TWO, "other", "other"),
            ("\n[", None, "source|line"),
            (self.folder / "nowhere", None, "there is no file .*nowhere"),
            (self.folder, None, "is a directory"),
            ("x" * 2_000_000 + "\n", None, "1 MiB"),
            ("a\0b", None, "^source: "),
            ("\udc80\n", None, "^source: "),
            (b"\xff\xff", None, "UTF-8"),
        ):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, why):
                give("mig-parted", source, config=config)
        self.file.write_text("[")
        with self.assertRaisesRegex(gpushare.InvalidRequestError, f"^{self.file}: "):
            give("mig-parted", self.file)
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "^kind: "):
            give("compose", TWO)
        for wrong in (7, None, {"version": "v1"}, [TWO]):
            with self.assertRaisesRegex(TypeError, "^source: "):
                give("mig-parted", wrong)
        with self.assertRaisesRegex(TypeError, "^config: "):
            give("mig-parted", TWO, config=7)
        with self.assertRaisesRegex(TypeError, "^kind: "):
            give(7, TWO)


class InForce(Shared):
    def test_it_leads_back(self) -> None:
        nothing = self.node.spec_in_force()
        self.assertEqual((nothing.spec["gpus"], nothing.cannot_say), ([], ()))
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        self.node.plan(spec({"select": 1, "mode": "mps", "mps": {"max_clients": 3}})).apply()
        found = self.node.spec_in_force()
        self.assertEqual(
            {entry["select"] for entry in found.spec["gpus"]}, {gpu.uuid for gpu in self.node.gpus}
        )
        self.assertTrue(self.node.plan(found.spec).is_noop)
        self.assertTrue(self.node.plan(str(found)).is_noop)
        self.node.plan(MODES["exclusive"]).apply()
        self.node.plan(found.spec).apply()
        self.assertEqual(self.node.spec_in_force(), found)
        for one in (nothing, found):
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                again = pickle.loads(pickle.dumps(one, protocol))
                self.assertEqual((again, hash(again), again.spec), (one, hash(one), one.spec))
        self.assertNotEqual(nothing, found)
        self.assertEqual(repr(found), "<gpushare.SpecInForce 2 selectors, 0 remarks>")

    def test_it_is_what_persist_stores(self) -> None:
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        # It takes root, and a file that is root's.
        file = self.folder / "node.yaml"
        stored = self.command("--json", "persist", "--file", str(file))
        self.assertEqual(json.loads(stored.stdout)["spec"], self.node.spec_in_force().spec)
        self.assertTrue(self.node.plan(Path(file)).is_noop)

    def test_an_unfinished_change_has_none(self) -> None:
        self.killed_at(5)
        with self.assertRaises(gpushare.RecoveryRequiredError):
            self.node.spec_in_force()


class Metrics(Shared):
    def test_they_are_what_the_command_prints(self) -> None:
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        self.busy(self.node.gpus[0].mig_devices[0].uuid)
        with self.node.lease(gpu=1):
            text = self.node.metrics()
            self.assertEqual(text, self.command("metrics").stdout)
        self.assertIn('simulated="true"', text)
        self.assertNotEqual(text, self.node.metrics())


if __name__ == "__main__":
    unittest.main()
