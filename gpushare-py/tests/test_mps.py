"""gpushare.mps, resolve_visible_devices, doctor and advise: thin as they are."""

import json
import os
import unittest

import gpushare
from common import Shared, layout, spec
from gpushare import HazardName, Verdict


class Mps(Shared):
    FLEET = "1xH200-141GB,1xA30-24GB"

    def test_verify(self) -> None:
        self.node.plan(spec({"select": 0, "mode": "mps", "mps": {"thread_percentage": 25}})).apply()
        pid = self.busy(0, "--kind", "mps-client")
        found = gpushare.mps.verify(pid, node=self.node)
        self.assertTrue(found)
        self.assertIs(found.verdict, Verdict.ATTACHED)
        self.assertEqual((found.pid, found.device), (pid, self.node.gpus[0].uuid))
        self.assertEqual((found.at_most_sm_count, found.at_most_thread_percentage), (32, 25))
        self.assertIn("attached", str(found))
        own = gpushare.mps.verify(node=self.node)
        self.assertFalse(own)
        self.assertEqual(own.pid, os.getpid())
        with self.assertRaises(gpushare.DeviceNotFoundError):
            gpushare.mps.verify(2**31 - 1, self.node)
        for wrong in ("1", 1.5):
            with self.assertRaisesRegex(TypeError, "pid"):
                gpushare.mps.verify(wrong, self.node)
        for wrong in (0, -1, 2**31):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, "pid"):
                gpushare.mps.verify(wrong, self.node)

    def test_split(self) -> None:
        part = gpushare.mps.split(3, gpu=0, node=self.node)
        self.assertEqual((part.parts, part.thread_percentage, part.sm_count), (3, 27, 34))
        self.assertEqual(
            part.to_dict(), json.loads(self.command("--json", "mps", "split", "3", "--gpu", "0").stdout)
        )
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "differ"):
            gpushare.mps.split(3, node=self.node)
        for wrong in (0, -1, 10_000, 2**40):
            with self.assertRaises(gpushare.InvalidRequestError):
                gpushare.mps.split(wrong, gpu=0, node=self.node)
        with self.assertRaisesRegex(TypeError, "n: "):
            gpushare.mps.split("3", node=self.node)
        with self.assertRaises(gpushare.InsufficientError) as caught:
            gpushare.mps.split(40, gpu=0, node=self.node)
        self.assertTrue(caught.exception.fits)

    def test_hazards(self) -> None:
        self.assertEqual(gpushare.mps.hazards({"thread_percentage": 25}, gpu=0, node=self.node), ())
        [hazard] = gpushare.mps.hazards({"thread_percentage": 40}, gpu=0, node=self.node)
        # In force, too: that it was allowed makes it no better.
        in_force = {"select": 0, "mode": "mps", "mps": {"thread_percentage": 40}}
        self.node.plan(spec(in_force)).apply(allow_hazards=["hopper-partial-sm"])
        self.assertEqual(gpushare.mps.hazards(in_force["mps"], gpu=0, node=self.node), (hazard,))
        with self.assertRaises(gpushare.InsufficientError):
            gpushare.mps.hazards({"thread_percentage": 25, "max_clients": 1000}, gpu=0, node=self.node)
        self.assertIs(hazard.name, HazardName.HOPPER_PARTIAL_SM)
        self.assertEqual(hazard.gpu, self.node.gpus[0].uuid)
        names = {
            hazard.name
            for hazard in gpushare.mps.hazards(
                {"compute_mode": "unchanged", "pinned_memory_limit": "600MiB"}, node=self.node
            )
        }
        self.assertEqual(names, {HazardName.BYPASS_POSSIBLE, HazardName.SMALL_LIMIT})
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "percent"):
            gpushare.mps.hazards({"percent": 1}, node=self.node)
        with self.assertRaisesRegex(TypeError, "mps.thread_percentage: a set"):
            gpushare.mps.hazards({"thread_percentage": {1}}, node=self.node)
        for wrong in (7, "x", None, [], b"", True):
            with self.assertRaisesRegex(TypeError, "^mps: "):
                gpushare.mps.hazards(wrong, node=self.node)


class Resolving(Shared):
    def test_what_cuda_shows(self) -> None:
        one = self.node.gpus[1].uuid
        found = gpushare.resolve_visible_devices(one, node=self.node)
        self.assertEqual((found.outcome, found.cu_init), ("devices", 0))
        [device] = found.devices
        self.assertEqual((device.ordinal, device.index, device.uuid, device.kind), (0, 1, one, "gpu"))
        self.assertIs(device.mode, gpushare.SharingMode.TIME_SLICED)
        self.assertEqual(gpushare.resolve_visible_devices("", node=self.node).outcome, "no_device")
        self.assertEqual(gpushare.resolve_visible_devices("0,0", node=self.node).outcome, "invalid_device")
        self.assertEqual(len(gpushare.resolve_visible_devices(node=self.node).devices), 2)
        layout(self.node, 0, **{"1g": 1})
        found = gpushare.resolve_visible_devices(self.node.gpus[0].mig_devices[0].uuid, node=self.node)
        self.assertEqual(found.devices[0].profile, "1g.10gb")
        self.assertFalse(found.certain)
        self.assertTrue(found.flags)
        with self.assertRaisesRegex(TypeError, "string"):
            gpushare.resolve_visible_devices(0, node=self.node)


class Doctoring(Shared):
    def test_it_finds_what_was_broken(self) -> None:
        whole = self.node.doctor()
        self.assertTrue(whole.simulated and whole.checked)
        self.node.plan(spec({"select": 0, "mode": "mps", "mps": {}})).apply()
        self.command("sim", "kill-mps", "0")
        found = self.node.doctor()
        self.assertTrue(found.needs_mending)
        self.assertIn(self.node.gpus[0].uuid, {finding.gpu for finding in found.findings})
        finding = found.findings[0]
        self.assertIn(finding.severity, ("error", "warning"))
        self.assertTrue(finding.id and finding.summary and finding.mend and finding.source)
        self.assertIn(finding.summary, str(found))


class Advising(Shared):
    def test_its_spec_can_be_planned(self) -> None:
        advice = self.node.advise(4, memory="8GiB", kernels="small", isolation="strict", style="batch")
        self.assertEqual(advice.recommended, advice.best.way)
        self.assertEqual(len(advice.options), 5)
        for option in advice.options:
            if option.fits:
                self.assertEqual(bool(option.needs), bool(self.node.plan(option.spec).needs))
            else:
                self.assertIsNone(option.spec)
                self.assertTrue(option.why_not)
        one = self.node.advise(2, gpu=1, half_precision=False)
        self.assertLessEqual({gpu for option in one.options for gpu in option.gpus}, {self.node.gpus[1].uuid})

    def test_wrong_arguments(self) -> None:
        for keywords in (
            {"kernels": "huge"},
            {"isolation": ""},
            {"style": "x"},
            {"memory": -1},
            {"count": 0},
        ):
            [key] = keywords
            with self.assertRaisesRegex(gpushare.InvalidRequestError, f"^{key}: ") as caught:
                self.node.advise(**keywords)
            self.assertNotIn("variant", str(caught.exception))
        # What it says instead is true.
        for key in ("kernels", "isolation", "style"):
            with self.assertRaises(gpushare.InvalidRequestError) as caught:
                self.node.advise(**{key: "x"})
            words = str(caught.exception).partition(": give ")[2].replace(" or ", ", ").split(", ")
            self.assertEqual(len(words), 3)
            for word in words:
                self.node.advise(**{key: word})
        for keywords in ({"kernels": 1}, {"memory": 1.5}, {"count": "4"}, {"count": None}):
            [key] = keywords
            with self.assertRaisesRegex(TypeError, key):
                self.node.advise(**keywords)


if __name__ == "__main__":
    unittest.main()
