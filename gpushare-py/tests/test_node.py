"""Nodes: how they are opened, and what every call of theirs has in common."""

import copy
import datetime
import logging
import pickle
import tempfile
import unittest
from pathlib import Path

import gpushare
from common import MODES, Shared, alone, layout, mig

NODE = gpushare.Node(sim="2xH100-80GB")


class Opening(unittest.TestCase):
    def test_simulated_says_so(self) -> None:
        self.assertTrue(NODE.simulated)
        self.assertTrue(NODE.status().simulated)
        self.assertIn("SIMULATED", repr(NODE))
        self.assertIn("SIMULATED", str(NODE.status()))

    def test_two_in_memory_are_two(self) -> None:
        one, other = gpushare.Node(sim="L40S"), gpushare.Node(sim="L40S")
        one.plan(MODES["exclusive"]).apply()
        self.assertEqual(one.gpus[0].mode, "exclusive")
        self.assertEqual(other.gpus[0].mode, "time_sliced")

    def test_wrong_values_and_types(self) -> None:
        for fleet in ("", "8xH100", "0xL40S", "L40S,", "-1xL40S", "\0", "\udc80"):
            with self.assertRaises(gpushare.InvalidRequestError, msg=fleet):
                gpushare.Node(sim=fleet)
        with self.assertRaises(gpushare.InvalidRequestError):
            gpushare.Node(nvml_path="relative.so")
        wrong = [
            dict.fromkeys([key], 7) for key in ("sim", "state_dir", "nvml_path", "nvidia_smi", "mps_control")
        ]
        levels = [{"log_level": level} for level in (1.5, True, b"INFO", [])]
        for keywords in [*wrong, {"sim": b"L40S"}, {"simulated": True}, *levels]:
            with self.assertRaises(TypeError, msg=keywords):
                gpushare.Node(**keywords)
        for key in ("state_dir", "nvml_path", "nvidia_smi", "mps_control"):
            for path in ("\0", "/a\0b", "\ud800"):
                with self.assertRaisesRegex(gpushare.InvalidRequestError, f"^{key}: "):
                    gpushare.Node(sim="L40S", **{key: path})
        with self.assertRaises(TypeError):
            gpushare.Node("L40S")
        logging.addLevelName(-5, "SILLY")
        self.addCleanup(logging._nameToLevel.pop, "SILLY")
        self.addCleanup(logging._levelToName.pop, -5)
        for level in ("loud", -1, "SILLY", 2**40):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, "log_level"):
                gpushare.Node(sim="L40S", log_level=level)

    def test_paths_are_text_or_path(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for path in (Path(folder) / "a", f"{folder}/b"):
                gpushare.Node(sim="L40S", state_dir=path).status()
                self.assertTrue(Path(path).is_dir())

    def test_the_environment_counts(self) -> None:
        code = "import gpushare; n = gpushare.Node(); print(n.simulated, len(n.gpus))"
        said = alone(code, env={"GPUSHARE_SIM": "3xL40S"})
        self.assertEqual(said.stdout, "True 3\n")

    def test_without_a_driver_it_opens_and_says_so_when_it_is_asked(self) -> None:
        code = """
            import gpushare
            node = gpushare.Node(nvml_path="/nowhere/libnvidia-ml.so.1")
            try:
                node.gpus
            except gpushare.DeviceNotFoundError as error:
                assert error.simulated is False and isinstance(error, LookupError)
                assert "not installed" in str(error), error
                assert 'Node(sim="1xH100-80GB") simulates' in str(error), error
                assert not node.doctor().simulated and node.doctor().needs_mending
                print("said")
        """
        self.assertEqual(alone(code).stdout, "said\n")

    def test_nodes_refuse_to_travel(self) -> None:
        for travel in (pickle.dumps, copy.copy, copy.deepcopy):
            with self.assertRaisesRegex(TypeError, "open another gpushare.Node"):
                travel(NODE)


class Recovering(Shared):
    def test_a_killed_apply_is_rolled_back_or_finished_never_a_third(self) -> None:
        steps = len(self.node.plan(mig(0, **{"3g": 1, "1g": 2})).steps)
        before = self.node.status().digest
        for step in range(1, steps + 1):
            self.killed_at(step)
            self.assertTrue(self.node.gpus[0].unsettled)
            report = self.node.recover()
            self.assertEqual(report.outcome, "recovered")
            self.assertEqual(report.recovered[0].settled, "rolled_back")
            self.assertEqual(report.recovered[0].gpus, (self.node.gpus[0].uuid,))
            self.assertEqual(self.node.status().digest, before, step)
            self.assertEqual(self.node.recover().outcome, "unchanged")

    def test_what_it_creates_again_has_another_name(self) -> None:
        layout(self.node, 0, **{"1g": 7})

        def devices():
            return {device.uuid for device in self.node.gpus[0].mig_devices}

        old = devices()
        self.killed_at(len(self.node.plan(mig(0, **{"3g": 1, "1g": 2})).steps))
        gone = old - devices()
        self.assertTrue(gone)
        report = self.node.recover()
        self.assertEqual({recreated.old for recreated in report.recreated}, gone)
        self.assertEqual({recreated.new for recreated in report.recreated}, devices() - old)
        self.assertEqual(len(devices()), 7)
        self.assertEqual({recreated.gpu for recreated in report.recreated}, {self.node.gpus[0].uuid})

    def test_what_others_use_meanwhile_needs_a_person(self) -> None:
        self.killed_at(5)
        device = self.node.gpus[0].mig_devices[0]
        self.busy(device.uuid)
        with self.assertRaises(gpushare.RecoveryRequiredError) as caught:
            self.node.recover()
        self.assertEqual(caught.exception.gpu or self.node.gpus[0].uuid, self.node.gpus[0].uuid)
        with self.assertRaises(gpushare.RecoveryRequiredError):
            self.node.plan(MODES["exclusive"]).apply()

    def test_wrong_arguments(self) -> None:
        for timeout in ("1", b"", [], object()):
            with self.assertRaisesRegex(TypeError, "timeout"):
                self.node.recover(timeout=timeout)
        for timeout in (-1, float("nan"), 1e12, datetime.timedelta(seconds=-1)):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, "timeout"):
                self.node.recover(timeout=timeout)
        self.node.recover(timeout=None)
        self.node.recover(timeout=float("inf"))


class Shown(unittest.TestCase):
    def test_a_repr_says_what_there_is(self) -> None:
        node = gpushare.Node(sim="2xH100-80GB,1xL40S")
        self.assertEqual(repr(node), "<gpushare.Node 2xH100-80GB,1xL40S, SIMULATED>")
        self.assertRegex(
            repr(node.status()),
            r"^<gpushare.Snapshot 2 x H100 80GB HBM3, 1 x L40S, driver [0-9.]+, SIMULATED>$",
        )
        report = node.plan(MODES["time_sliced"]).apply()
        self.assertEqual(repr(report), f"<gpushare.Report applied: {report.step_count} steps, SIMULATED>")
        with node.lease(gpu=0, count=2) as lease:
            all = len(node.leases().shares)
            self.assertEqual(
                repr(node.leases()), f"<gpushare.LeaseList 2 of {all} shares leased, 0 waiting, SIMULATED>"
            )
            self.assertNotIn("released", repr(lease))
        self.assertRegex(repr(lease), ", released, SIMULATED>$")
        advice = node.advise()
        wanted = f"{len(advice.options)} options, {advice.recommended} recommended, SIMULATED"
        self.assertEqual(repr(advice), f"<gpushare.Advice {wanted}>")
        self.assertEqual(repr(node.doctor()), "<gpushare.Diagnosis 0 findings, 0 not looked at, SIMULATED>")


class Cordons(Shared):
    def test_a_cordon_stops_new_leases(self) -> None:
        with self.node.lease(gpu=0):
            self.node.cordon(0, "bad fan")
            self.assertEqual(self.node.gpus[0].cordoned, "bad fan")
        with self.assertRaisesRegex(gpushare.GpuShareError, "bad fan"):
            self.node.lease(gpu=0)
        self.node.uncordon(self.node.gpus[0])
        self.node.lease(gpu=0).release()

    def test_wrong_arguments(self) -> None:
        with self.assertRaises(gpushare.DeviceNotFoundError):
            self.node.cordon(9, "why")
        with self.assertRaises(gpushare.InvalidRequestError):
            self.node.cordon(0, "two\nlines")
        for gpu, reason, key in ((0, "\ud800", "reason"), ("\ud800", "why", "gpu")):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, f"^{key}: it is not valid text"):
                self.node.cordon(gpu, reason)
        with self.assertRaises(TypeError):
            self.node.cordon(0, 1)
        with self.assertRaises(TypeError):
            self.node.cordon(0.5, "why")


if __name__ == "__main__":
    unittest.main()
