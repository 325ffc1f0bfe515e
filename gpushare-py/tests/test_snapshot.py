"""Snapshots and all that is in them: frozen, equal by value, pickled as documents, true to the stub."""

import copy
import json
import pickle
import unittest
import weakref

import gpushare
from common import Shared, layout, mig, spec
from gpushare import SharingMode


class Values(Shared):
    """On a node with every mode, with processes and leases."""

    FLEET = "2xH100-80GB,1xA30-24GB,1xL40S"

    def setUp(self):
        super().setUp()
        layout(self.node, 0, **{"3g": 1, "1g": 2})
        self.node.plan(
            spec(
                {"select": 1, "mode": "mps", "mps": {"thread_percentage": 25, "pinned_memory_limit": "8GiB"}}
            )
        ).apply()
        self.device = self.node.gpus[0].mig_devices[0]
        self.pids = [self.busy(self.device.uuid), self.busy(1, "--kind", "mps-client")]
        self.lease = self.node.lease(gpu=3)
        self.addCleanup(self.lease.release)

    def values(self):
        status = self.node.status()
        plan = self.node.plan(spec({"select": 0, "mode": "exclusive"}, {"select": 1, "mode": "exclusive"}))
        report = self.node.plan(spec({"select": 2, "mode": "exclusive"})).apply()
        hazards = gpushare.mps.hazards({"thread_percentage": 33}, gpu=1, node=self.node)
        advice = self.node.advise(2, memory="4GiB")
        doctor = self.node.doctor()
        resolution = gpushare.resolve_visible_devices("3", node=self.node)
        yield from (status, plan, plan.needs, report, advice, doctor, resolution)
        for gpu in status.gpus:
            yield from (gpu, *gpu.shares, *gpu.processes, *gpu.mig_devices)
            if gpu.mps is not None:
                yield gpu.mps
        yield from (*plan.steps, *plan.gpus, *plan.needs.evict, *hazards, *advice.options, *doctor.findings)
        yield from (*doctor.unseen, *resolution.devices, self.node.leases())
        yield from self.lease.shares
        yield from (*self.lease.shares[0].declared, *self.lease.shares[0].device_nodes, self.lease.verify())
        yield gpushare.mps.verify(self.pids[1], node=self.node)
        yield gpushare.mps.split(2, gpu=1, node=self.node)

    def test_they_are_values(self) -> None:
        kinds = set()
        for value in self.values():
            kinds.add(type(value).__name__)
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                again = pickle.loads(pickle.dumps(value, protocol))
                self.assertIs(type(again), type(value))
                self.assertEqual(again, value)
                self.assertEqual(hash(again), hash(value))
            self.assertEqual(copy.deepcopy(value), value)
            self.assertNotEqual(value, 1)
            self.assertIs(weakref.ref(value)(), value)
            document = value.to_dict()
            self.assertEqual(json.loads(json.dumps(document)), document)
            name = type(value).__name__
            self.assertTrue(repr(value).startswith((f"{name}(", f"<gpushare.{name} ")), repr(value))
            self.assertNotIn("()", repr(value).replace("Needs()", ""))
            with self.assertRaises(AttributeError):
                value.anything = 1
            for name in dir(type(value)):
                if not name.startswith("_") and not callable(getattr(type(value), name)):
                    with self.assertRaises(AttributeError, msg=name):
                        setattr(value, name, 1)
            with self.assertRaises(TypeError):
                type(value)()
        self.assertGreaterEqual(len(kinds), 25, kinds)

    def test_a_document_that_is_none_is_refused(self) -> None:
        for value in self.values():
            with self.assertRaises(gpushare.InvalidRequestError):
                type(value)._from_json("{}")

    def test_the_gpus_say_what_was_done(self) -> None:
        node = self.node
        zero, one, two, three = node.gpus
        self.assertIs(zero.mode, SharingMode.MIG)
        self.assertIs(one.mode, SharingMode.MPS)
        self.assertIs(three.mode, SharingMode.TIME_SLICED)
        self.assertEqual([gpu.index for gpu in node.gpus], [0, 1, 2, 3])
        self.assertEqual(zero.mig_enabled, True)
        self.assertEqual(two.mig_enabled, False)
        self.assertEqual(three.mig_enabled, None)
        self.assertIn("1g.10gb", zero.mig_profiles)
        self.assertEqual(sorted(d.profile for d in zero.mig_devices), ["1g.10gb", "1g.10gb", "3g.40gb"])
        self.assertEqual(one.mps.thread_percentage, 25)
        self.assertEqual(one.mps.pinned_memory_limit_bytes, 8 << 30)
        self.assertEqual(one.mps.clients, (self.pids[1],))
        self.assertEqual([p.pid for p in zero.processes], [self.pids[0]])
        busy = {device.uuid: device.busy for device in zero.mig_devices}
        self.assertEqual(busy.pop(self.device.uuid), True)
        self.assertEqual(set(busy.values()), {False})
        [leased] = [share for share in three.shares if share.leased]
        self.assertEqual(leased.id, self.lease.share)
        self.assertEqual(leased.lease, self.lease.name)
        self.assertIsInstance(leased.holder, gpushare.Holder)
        self.assertEqual(three.compute_capability, (8, 9))

    def test_to_dict_is_the_command_lines_document(self) -> None:
        said = json.loads(self.command("--json", "status").stdout)
        self.assertEqual(self.node.to_dict(), said)
        self.assertEqual(self.node.status().to_dict(), said)
        self.assertEqual([gpu.to_dict() for gpu in self.node.gpus], said["gpus"])
        self.assertEqual(str(self.node.status()), self.command("status").stdout)

    def test_each_look_is_a_new_one(self) -> None:
        before = self.node.gpus
        self.node.plan(spec({"select": 2, "mode": "exclusive"})).apply()
        self.assertIs(before[2].mode, SharingMode.TIME_SLICED)
        self.assertIs(self.node.gpus[2].mode, SharingMode.EXCLUSIVE)
        self.assertNotEqual(before[2], self.node.gpus[2])

    def test_a_lost_gpu_is_shown(self) -> None:
        self.node.plan(spec({"select": 2, "mode": "exclusive"})).apply()
        self.command("sim", "lose", "2")
        lost = [gpu for gpu in self.node.gpus if gpu.mode is SharingMode.LOST]
        self.assertEqual(len(lost), 1)


class Partial(Shared):
    def test_who_may_not_see_all_is_told(self) -> None:
        layout(self.node, 0, **{"1g": 1})
        self.command("sim", "act-as", "1000")
        gpu = self.node.gpus[0]
        self.assertTrue(gpu.missing)
        self.assertEqual(len(gpu.mig_devices), 1)
        self.assertIsNone(gpu.mig_devices[0].start)
        with self.assertRaises(gpushare.PermissionDeniedError) as caught:
            self.node.plan(mig(0, **{"2g": 1}))
        self.assertTrue(any("mig/config" in need for need in caught.exception.needs), caught.exception.needs)
        self.assertIsInstance(caught.exception, PermissionError)


if __name__ == "__main__":
    unittest.main()
