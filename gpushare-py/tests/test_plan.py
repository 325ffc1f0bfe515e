"""Plans: the forms of a spec, what is refused, and what a plan says."""

import collections
import itertools
import json
import os
import pickle
import signal
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import gpushare
from common import MODES, alone, layout, mig, spec

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ImportError:
    st = None

YAML = """
version: gpushare/v1
gpus:
  - select: 0
    mode: mig
    mig: {instances: {3g.40gb: 1, 1g.10gb: 4}}
"""
DICT = mig(0, **{"3g.40gb": 1, "1g.10gb": 4})


class Whole:
    """As numpy's whole numbers, which are none of Python's."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def node():
    return gpushare.Node(sim="2xH100-80GB")


class Specs(unittest.TestCase):
    def test_every_form_gives_the_same_plan(self) -> None:
        here = node()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "spec.yaml"
            path.write_text(YAML)
            forms = [DICT, YAML, json.dumps(DICT), path, str(path), "  " + json.dumps(DICT)]
            forms += [
                mig(Whole(0), **{"3g.40gb": Whole(1), "1g.10gb": Whole(4)}),
                collections.OrderedDict(DICT),
                collections.ChainMap(DICT),
                {**DICT, "gpus": tuple(DICT["gpus"])},
            ]
            digests = {here.plan(form).digest for form in forms}
        self.assertEqual(len(digests), 1)

    def test_wrong_types_name_the_key(self) -> None:
        for wrong in (None, 7, 1.5, b"version: gpushare/v1\n", [DICT], object(), {"a"}):
            with self.assertRaisesRegex(TypeError, "^spec: give a dict", msg=wrong):
                node().plan(wrong)
        for value in ({1, 2}, b"mig", object(), 1j, range(3)):
            with self.assertRaisesRegex(TypeError, r"^spec, gpus\[0\]\.mode: a \w+ cannot be in a spec"):
                node().plan(spec({"select": 0, "mode": value}))
        with self.assertRaisesRegex(TypeError, r"gpus\[0\]\.mig\.instances: the key 1 is no text"):
            node().plan(spec({"select": 0, "mode": "mig", "mig": {"instances": {1: 2}}}))
        with self.assertRaises(TypeError):
            node().plan()

    def test_wrong_values_name_the_key(self) -> None:
        for entry, key in [
            ({"select": 0, "mod": "mig"}, 'unknown key "mod"'),
            ({"select": 0, "mode": "migs"}, r"gpus\[0\]\.mode"),
            ({"select": 0, "mode": "mps", "mps": {"thread_percentage": 0}}, "thread_percentage"),
            (
                {"select": 0, "mode": "mps", "mps": {"thread_percentage": float("nan")}},
                "thread_percentage: NaN",
            ),
            (
                {"select": 0, "mode": "mps", "mps": {"thread_percentage": 10**400}},
                "thread_percentage: a number that is too large",
            ),
            ({"select": 0, "mode": "mps", "mps": {"max_clients": -1}}, "max_clients"),
            ({"select": 0, "mode": "time_sliced", "time_sliced": {"replicas": True}}, "replicas"),
            ({"select": 0, "mode": "mig", "mig": {"instances": {"9g": 1}}}, "9g"),
        ]:
            with self.assertRaisesRegex(gpushare.InvalidRequestError, key, msg=entry):
                node().plan(spec(entry))
        with self.assertRaises(gpushare.DeviceNotFoundError):
            node().plan(spec({"select": 7, "mode": "exclusive"}))
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "line 3"):
            node().plan("version: gpushare/v1\ngpus:\n  - selec: 0\n    mode: mig\n")
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "there is no file /nowhere/spec.yaml"):
            node().plan("/nowhere/spec.yaml")

    def test_what_is_no_file_is_refused_at_once(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder) / "pipe"
            os.mkfifo(pipe)
            for path in ("/", "/dev/null", "/dev/zero", pipe):
                with self.assertRaisesRegex(gpushare.InvalidRequestError, f"{path} is .* no regular file"):
                    node().plan(Path(path))
            for key in ("nvml_path", "nvidia_smi", "mps_control"):
                with self.assertRaisesRegex(gpushare.InvalidRequestError, "no regular file"):
                    gpushare.Node(**{key: pipe})

    def test_what_has_no_end_is_refused(self) -> None:
        endless = spec()
        endless["gpus"].append(endless)
        with self.assertRaisesRegex(TypeError, "without an end"):
            node().plan(endless)
        endless = {}
        endless["gpus"] = endless
        with self.assertRaisesRegex(TypeError, "without an end") as caught:
            node().plan(endless)
        self.assertLess(len(str(caught.exception)), 200)
        deep = DICT
        for _ in range(70):
            deep = {"x": deep}
        with self.assertRaises(gpushare.InvalidRequestError):
            node().plan(deep)

    def test_what_is_longer_than_a_file_may_be_is_refused_soon(self) -> None:
        bomb = []
        for _ in range(40):
            bomb = [bomb, bomb]

        class Endless(list):
            def __iter__(self):
                return itertools.repeat([])

        for value in (bomb, "x" * (1 << 20), [0] * (1 << 21), {"x" * (1 << 20): 1}, Endless()):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, "longer than 1 MiB") as caught:
                node().plan({"version": value})
            self.assertLess(len(str(caught.exception)), 300)

    def test_signals_are_heard_meanwhile(self) -> None:
        def stop(number, frame):
            raise ZeroDivisionError

        class Late(list):
            def __iter__(self):
                signal.raise_signal(signal.SIGUSR1)
                yield from itertools.repeat(0, 1 << 20)

        before = signal.signal(signal.SIGUSR1, stop)
        try:
            with self.assertRaises(ZeroDivisionError):
                node().plan({"version": Late()})
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_text_that_is_nobody_elses(self) -> None:
        for value in ({"\ud800": 1}, {"version": "\ud800"}, "\ud800", "\ud800\n", "a\0"):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, "^spec"):
                node().plan(value)

    def test_a_mapping_that_raises_is_heard(self) -> None:
        class Secret:
            @property
            def __class__(self):
                raise RuntimeError("mine")

        for value in (Secret(), {"version": Secret()}):
            with self.assertRaisesRegex(RuntimeError, "mine"):
                node().plan(value)

        class NoPairs(collections.UserDict):
            def items(self):
                return [1, 2]

        with self.assertRaisesRegex(TypeError, "^spec: int is not a pair"):
            node().plan(NoPairs(DICT))

        class Broken(collections.UserDict):
            def items(self):
                raise RuntimeError("mine")

        with self.assertRaisesRegex(RuntimeError, "mine"):
            node().plan(Broken(DICT))

    @unittest.skipIf(st is None, "hypothesis is not there")
    def test_anything_is_a_plan_or_refused(self) -> None:
        here = node()
        plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        keys = st.sampled_from(["select", "mode", "mig", "mps", "instances", "profile", "start"]) | st.text()
        deep = st.recursive(plain, lambda below: st.lists(below) | st.dictionaries(keys, below), max_leaves=8)

        @settings(max_examples=300, deadline=None, database=None)
        @given(st.dictionaries(keys, deep))
        def check(entry):
            try:
                here.plan(spec(entry))
            except (gpushare.InvalidRequestError, gpushare.DeviceNotFoundError):
                pass
            except gpushare.GpuShareError as error:
                self.assertNotIsInstance(error, gpushare.PanicError)

        check()


class Plans(unittest.TestCase):
    def test_what_a_plan_says(self) -> None:
        here = node()
        plan = here.plan(DICT)
        self.assertFalse(plan.is_noop)
        self.assertEqual(plan.steps[0].kind, "set_mig_mode")
        self.assertEqual(str(plan.steps[0]), "turn MIG on")
        self.assertEqual({step.gpu for step in plan.steps}, {here.gpus[0].uuid})
        self.assertFalse(plan.needs)
        [gpu] = plan.gpus
        self.assertEqual((gpu.mode_before, gpu.mode_after), ("time_sliced", "mig"))
        self.assertIn("turn MIG on", str(plan))
        self.assertEqual(len(plan.digest), 64)
        plan.apply()
        self.assertTrue(here.plan(DICT).is_noop)
        self.assertEqual(here.plan(DICT).steps, ())
        again = here.plan(mig(0, **{"3g.40gb": 1, "1g.10gb": 2, "2g": 1}))
        self.assertEqual(len(again.gpus[0].kept), 3)

    def test_what_a_plan_needs(self) -> None:
        reset = gpushare.Node(sim="A100-40GB")
        self.assertEqual(reset.plan(MODES["mig"]).needs.reset, (reset.gpus[0].uuid,))
        hazardous = node().plan(spec({"select": 0, "mode": "mps", "mps": {"thread_percentage": 33}}))
        [hazard] = hazardous.needs.hazards
        self.assertIs(hazard.name, gpushare.HazardName.HOPPER_PARTIAL_SM)
        self.assertTrue(hazardous.needs and hazard.safe)

    def test_a_plan_travels(self) -> None:
        here = node()
        plan = here.plan(DICT)
        again = pickle.loads(pickle.dumps(plan))
        self.assertEqual((again, str(again), hash(again)), (plan, str(plan), hash(plan)))
        with self.assertRaisesRegex(gpushare.InvalidStateError, "node="):
            again.apply()
        self.assertEqual(again.apply(node=here).outcome, "applied")
        self.assertNotEqual(here.plan(DICT), plan)
        # Of what is no plan, it is the other's to say.
        self.assertTrue(plan == mock.ANY and plan == mock.ANY and plan != 1)

    def test_a_travelled_plans_steps_are_not_trusted(self) -> None:
        here = node()
        document = here.plan(DICT).to_dict()
        document["gpus"][0]["steps"].pop()
        forged = gpushare.Plan._from_json(json.dumps(document))
        report = forged.apply(node=here)
        self.assertEqual(report.step_count, len(document["gpus"][0]["steps"]) + 1)
        self.assertTrue(here.plan(DICT).is_noop)

    def test_a_plan_outlives_its_node(self) -> None:
        plan = node().plan(DICT)
        self.assertEqual(plan.apply().outcome, "applied")

    def test_previous_leads_back(self) -> None:
        here = node()
        before = here.status().digest
        there = layout(here, 0, **{"3g": 1})
        self.assertNotEqual(here.status().digest, before)
        back = here.plan(there.previous).apply()
        self.assertIs(here.gpus[0].mode, gpushare.SharingMode.TIME_SLICED)
        self.assertEqual(back.outcome, "applied")

    def test_no_panic_reaches_python(self) -> None:
        code = """
            import gpushare
            node = gpushare.Node(sim="L40S")
            try:
                node.plan({"version": "gpushare/v1", "gpus": []})
            except gpushare.PanicError as error:
                assert isinstance(error, RuntimeError) and error.outcome == "untouched", error
                print("caught")
        """
        said = alone(code, env={"GPUSHARE_TEST_PANIC": "Node.plan"}, stderr=-3)
        self.assertEqual(said.stdout, "caught\n")


if __name__ == "__main__":
    unittest.main()
