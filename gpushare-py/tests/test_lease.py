"""Leases: what is asked for, what is given, and how it ends."""

import collections
import copy
import gc
import inspect
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
import unittest
import warnings
from decimal import Decimal
from fractions import Fraction
from unittest import mock

import gpushare
from common import MODES, Shared, alone, heard, layout, real, spec


class Whole:
    """As numpy's whole numbers, which are none of Python's."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Real(Whole):
    __index__ = None

    def __float__(self):
        return self.value


class Requests(unittest.TestCase):
    def setUp(self):
        self.node = gpushare.Node(sim="2xH100-80GB")
        self.node.plan(MODES["time_sliced"]).apply()

    def test_every_way_to_say_which(self) -> None:
        gpu = self.node.gpus[0]
        for which in (0, "0", gpu, gpu.uuid, gpu.uuid[:12], gpu.pci, "all"):
            with self.node.lease(gpu=which) as lease:
                self.assertEqual(lease.shares[0].index, 0)
        with self.node.lease(share=gpu.shares[2]) as lease:
            self.assertEqual(lease.share, gpu.shares[2].id)
        with self.node.lease(share=gpu.shares[3].id) as lease:
            self.assertEqual(lease.share, gpu.shares[3].id)
        layout(self.node, 1, **{"3g": 1, "1g": 1})
        for profile, wanted in (("1g", "1g.10gb"), ("3g.40gb", "3g.40gb"), ("any", "1g.10gb")):
            with self.node.lease(mig=profile) as lease:
                self.assertEqual(lease.shares[0].profile, wanted)
        with self.node.lease(mig="any", min_memory="20GiB") as lease:
            self.assertEqual(lease.shares[0].profile, "3g.40gb")
        with self.node.lease(mig="any", min_sm_count=20, min_memory=1 << 30) as lease:
            self.assertEqual(lease.shares[0].profile, "3g.40gb")

    def test_wrong_types_and_values_name_the_key(self) -> None:
        wrong_types = {
            "gpu": (1.5, b"0", [0], object(), True),
            "mig": (1, b"1g"),
            "share": (1, b"GPU-1::0"),
            "visible": (1, b"0", [0]),
            "count": ("1", 1.0, None, True),
            "thread_percentage": ("25", b"", [], True, 1j),
            "pinned_memory": (1.5, b"1G", [], True),
            "min_memory": (1.5, [], True),
            "min_sm_count": ("1", 1.5, True),
            "timeout": ("1", [], True, False, 1j),
            "create": (1, "yes", None),
            "give_back": (1,),
            "for_pid": ("1", 1.5, True),
            "allow_hazards": (1, [1]),
            "progress": (1, "x"),
        }
        for key, values in wrong_types.items():
            for value in values:
                for call in (self.node.lease, self.node.leased):
                    with self.assertRaisesRegex(TypeError, key, msg=f"{key}={value!r}"):
                        call(**{key: value})
        wrong_values = {
            "gpu": (-1, 2**32, ""),
            "mig": ("9q", "", "1g.10gb.20gb"),
            "share": ("", "nothing"),
            "count": (0, -1, 2**40),
            "thread_percentage": (0, -1, 101, float("nan"), 10**400),
            "pinned_memory": (-1, "1.5G", "4", 2**70, 1),
            "min_memory": (-1, "much"),
            "min_sm_count": (-1, 2**40),
            "timeout": (-1, float("nan")),
            "for_pid": (0, -1, 2**31, 2**40),
            "allow_hazards": ("all", ["none"]),
        }
        for key, values in wrong_values.items():
            for value in values:
                with self.assertRaises(
                    (gpushare.InvalidRequestError, gpushare.UnsupportedError), msg=f"{key}={value!r}"
                ) as caught:
                    self.node.lease(**{key: value})
                if key not in ("gpu", "pinned_memory"):
                    self.assertIn(key, str(caught.exception))
        for key in ("gpu", "mig", "share", "visible", "pinned_memory", "min_memory", "allow_hazards"):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, f"^{key}: .*not valid text", msg=key):
                self.node.lease(**{key: "\ud800"})
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "^allow_hazards: .*not valid text"):
            self.node.lease(allow_hazards=["\ud800"])
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument"):
            self.node.lease(**{"\ud800": 1})
        for count in (0, -1):
            with self.assertRaisesRegex(
                gpushare.InvalidRequestError, f"^count: {count}: .* from 1 to 4294967295$"
            ):
                self.node.lease(count=count)
        for keywords in (
            {"gpu": 0, "mig": "1g"},
            {"gpu": 0, "share": "x"},
            {"create": True},
            {"give_back": True},
        ):
            with self.assertRaises(gpushare.InvalidRequestError, msg=keywords):
                self.node.lease(**keywords)
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'gpus'"):
            self.node.lease(gpus=0)
        for call, name in ((self.node.lease, "lease"), (self.node.leased, "leased")):
            with self.assertRaisesRegex(TypeError, rf"^{name}\(\) takes keywords alone: {name}\(gpu=0\)"):
                call(0)
        # None is what is not said.
        self.node.lease(
            gpu=None, mig=None, share=None, min_memory=None, for_pid=None, progress=None
        ).release()

    def test_numbers_are_whatever_counts_as_one(self) -> None:
        with self.node.lease(gpu=Whole(1), count=Whole(2), timeout=Real(0.0), for_pid=Whole(7)) as lease:
            self.assertEqual([share.index for share in lease.shares], [1, 1])
        with self.node.lease(min_memory=Whole(1 << 30), min_sm_count=Whole(2), timeout=Whole(0)):
            pass
        with self.node.lease(min_memory=20e9):
            pass
        with self.assertRaises(gpushare.InsufficientError):
            self.node.lease(min_memory=1e15)
        for memory in (-1.0, 1e30):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, "^min_memory: "):
                self.node.lease(min_memory=memory)
        for memory in (20e9 + 0.5, float("inf"), float("nan")):
            with self.assertRaisesRegex(TypeError, "^min_memory: "):
                self.node.lease(min_memory=memory)
        for timeout in (Fraction(1, 8), Decimal("0.125"), Real(0.125)):
            with (
                self.node.lease(gpu=0, count=4),
                self.assertRaisesRegex(gpushare.WaitTimeoutError, "waited [0-9.]*[1-9]"),
            ):
                self.node.lease(gpu=0, timeout=timeout)
        with self.assertRaises(gpushare.InvalidRequestError):
            self.node.lease(gpu=Whole(-1))
        with self.assertRaises(gpushare.InvalidRequestError):
            self.node.lease(timeout=Fraction(10**400))
        with self.assertRaisesRegex(ZeroDivisionError, "mine"):
            self.node.lease(gpu=Whole(ZeroDivisionError("mine")))

    def test_numbers_of_numpy(self) -> None:
        numpy = real("numpy")
        for kind in (numpy.int8, numpy.uint64, numpy.int32):
            with self.node.lease(gpu=kind(1), count=kind(2), timeout=numpy.float32(0.5)) as lease:
                self.assertEqual([share.index for share in lease.shares], [1, 1])
        with self.node.lease(min_memory=numpy.float64(20e9)):
            pass
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "^gpu: -1"):
            self.node.lease(gpu=numpy.int8(-1))
        with self.assertRaisesRegex(TypeError, "^gpu: "):
            self.node.lease(gpu=numpy.bool_(True))

    def test_several_are_all_or_none(self) -> None:
        with self.node.lease(gpu="all", count=2) as lease:
            self.assertEqual({share.index for share in lease.shares}, {0, 1})
            self.assertEqual(lease.variables["CUDA_VISIBLE_DEVICES"].count("GPU-"), 2)
            self.assertEqual(len(lease.filenos()), 2)
            for name in ("share", "memory_bytes", "sm_count"):
                with self.assertRaisesRegex(gpushare.InvalidStateError, "lease.shares"):
                    getattr(lease, name)
            with self.assertRaisesRegex(gpushare.InvalidStateError, "filenos"):
                lease.fileno()
        with self.assertRaises((gpushare.InsufficientError, gpushare.DeviceBusyError)):
            self.node.lease(gpu="all", count=99)
        self.assertFalse(any(share.leased for share in self.node.leases().shares))

    def test_a_mig_device_is_created_and_given_back(self) -> None:
        self.node.plan(MODES["mig"]).apply()
        with self.assertRaises(gpushare.GpuShareError):
            self.node.lease(mig="2g")
        with self.node.lease(mig="2g", create=True, give_back=True):
            self.assertEqual(len(self.node.gpus[0].mig_devices) + len(self.node.gpus[1].mig_devices), 1)
        self.assertEqual(len(self.node.gpus[0].mig_devices) + len(self.node.gpus[1].mig_devices), 0)
        self.node.lease(mig="2g", create=True).release()
        self.assertEqual(len(self.node.gpus[0].mig_devices) + len(self.node.gpus[1].mig_devices), 1)

    def test_visible_bounds_the_choice(self) -> None:
        one = self.node.gpus[1].uuid
        with self.node.lease(visible=one) as lease:
            self.assertEqual(lease.shares[0].gpu, one)
        with self.assertRaises(gpushare.GpuShareError):
            self.node.lease(gpu=0, visible=one)
        code = """
            import gpushare, sys
            node = gpushare.Node(sim="2xH100-80GB")
            def index(**options):
                with node.lease(**options) as lease:
                    return lease.shares[0].index
            print(index(), index(visible=...), index(visible=None), index(visible=node.gpus[0].uuid))
            try:
                node.lease(gpu=0)
            except gpushare.GpuShareError as error:
                print("bounded")
        """
        said = alone(code, env={"CUDA_VISIBLE_DEVICES": one})
        self.assertEqual(said.stdout, "1 1 0 0\nbounded\n")


class Terms(unittest.TestCase):
    def test_limits_of_mps(self) -> None:
        node = gpushare.Node(sim="H100-80GB")
        with self.assertRaises(gpushare.UnsupportedError):
            node.lease(gpu=0, thread_percentage=25)
        node.plan(
            spec({"select": 0, "mode": "mps", "mps": {"thread_percentage": 50, "max_clients": 2}})
        ).apply(allow_hazards=["hopper-partial-sm"])
        with node.lease(gpu=0, thread_percentage=25, pinned_memory="4GiB") as lease:
            [share] = lease.shares
            self.assertTrue(share.mps_client)
            self.assertEqual(lease.memory_bytes, 4 << 30)
            self.assertEqual(lease.variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "25")
            self.assertIn("CUDA_MPS_PIPE_DIRECTORY", lease.variables)
            self.assertEqual({term.by is None for term in share.declared}, {True})
            self.assertEqual({term.by is None for term in share.enforced}, {False})
            self.assertIn("memory", {term.what for term in share.declared})
        with self.assertRaises(gpushare.HazardError) as caught:
            node.lease(gpu=0, thread_percentage=33)
        self.assertTrue(caught.exception.safe)
        node.lease(gpu=0, thread_percentage=33, allow_hazards="hopper-partial-sm").release()


class Environment(unittest.TestCase):
    def setUp(self):
        self.lease = gpushare.Node(sim="H100-80GB").lease(gpu=0)
        self.addCleanup(self.lease.release)

    def test_env_is_a_copy_with_both_done(self) -> None:
        base = {"PATH": "/bin", "CUDA_MPS_PIPE_DIRECTORY": "/theirs", "CUDA_VISIBLE_DEVICES": "7"}
        env = self.lease.env(base)
        self.assertEqual(base["CUDA_VISIBLE_DEVICES"], "7")
        self.assertNotIn("CUDA_MPS_PIPE_DIRECTORY", env)
        self.assertEqual(env["PATH"], "/bin")
        self.assertEqual({**env, **self.lease.variables}, env)
        self.assertIn("CUDA_MPS_PIPE_DIRECTORY", self.lease.unset)
        before = dict(os.environ)
        self.assertEqual(self.lease.env()["PATH"], os.environ["PATH"])
        self.assertEqual(dict(os.environ), before)
        self.assertIsNot(self.lease.variables, self.lease.variables)
        for wrong in (7, ["PATH"], {"PATH": 1}, {1: "a"}, {b"PATH": b"/bin"}):
            with self.assertRaisesRegex(TypeError, "^base: "):
                self.lease.env(wrong)
        odd = collections.UserDict({"odd": "\udcff"})
        self.assertEqual(self.lease.env(odd)["odd"], "\udcff")

    def test_activate_is_put_back(self) -> None:
        def environment():
            return {name: os.environ.get(name) for name in names}

        node = gpushare.Node(sim="2xH100-80GB")
        node.plan(MODES["exclusive"]).apply()
        names = (*self.lease.variables, *self.lease.unset)
        with mock.patch.dict(
            os.environ, {"CUDA_MPS_PIPE_DIRECTORY": "/theirs", "CUDA_VISIBLE_DEVICES": "1,0"}
        ):
            before = environment()
            for end in (gpushare.Lease.release, lambda lease: lease.__exit__(None, None, None)):
                lease = node.lease(gpu=0)
                # Again changes nothing more.
                lease.activate()
                lease.activate()
                self.assertEqual(environment(), {**dict.fromkeys(names), **lease.variables})
                end(lease)
                self.assertEqual(environment(), before)
                # What was left would bound it.
                node.lease(count=2).release()
            lease = node.lease(gpu=1)
            lease.activate()
            with self.assertWarns(ResourceWarning):
                del lease
                gc.collect()
            self.assertEqual(environment(), before)
            # What somebody has changed since is theirs.
            with node.lease(gpu=0) as lease:
                lease.activate()
                os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-mine"
                os.environ["CUDA_MPS_PIPE_DIRECTORY"] = "/mine"
            mine = {"CUDA_VISIBLE_DEVICES": "GPU-mine", "CUDA_MPS_PIPE_DIRECTORY": "/mine"}
            self.assertEqual(environment(), {**before, **mine})

    def test_what_it_gives_stays_readable(self) -> None:
        self.lease.release()
        self.assertTrue(self.lease.released)
        self.assertIn("CUDA_VISIBLE_DEVICES", self.lease.variables)
        self.assertEqual(self.lease.to_dict()["schema"], "gpushare.lease/v1")
        for call in (
            self.lease.activate,
            self.lease.env,
            self.lease.fileno,
            self.lease.filenos,
            self.lease.check,
            self.lease.verify,
        ):
            with self.assertRaises(gpushare.InvalidStateError):
                call()
        with self.assertRaises(gpushare.InvalidStateError), self.lease:
            self.fail("entered")
        self.lease.release()

    def test_leases_refuse_to_travel(self) -> None:
        for travel in (pickle.dumps, copy.copy, copy.deepcopy):
            with self.assertRaisesRegex(TypeError, "pass_fds=lease.filenos"):
                travel(self.lease)

    def test_verify_of_who_uses_no_cuda_is_no_yes(self) -> None:
        for found in (self.lease.verify(), self.lease.verify(os.getpid()), self.lease.verify(inside=True)):
            self.assertFalse(found)
            self.assertIs(found.verdict, gpushare.Verdict.UNKNOWN)
            self.assertFalse(found.verdict)
            self.assertTrue(found.reasons)
        with self.assertRaises(gpushare.DeviceNotFoundError):
            self.lease.verify(2**31 - 1)
        for wrong in (0, -1, 2**40):
            with self.assertRaisesRegex(gpushare.InvalidRequestError, "pid"):
                self.lease.verify(wrong)
        with self.assertRaisesRegex(gpushare.InvalidRequestError, "pid"):
            self.lease.verify(1, inside=True)
        with self.assertRaises(TypeError):
            self.lease.verify("1")


class Cuda:
    """A libcuda that is loaded and shows one device."""

    def __init__(self, **calls):
        self.__dict__.update(calls)

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device, ordinal):
        return 0

    def cuDeviceGetUuid_v2(self, raw, device):
        raw.raw = bytes(range(16))
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = 132
        return 0

    def cuDeviceTotalMem_v2(self, value, device):
        value._obj.value = 1 << 30
        return 0


class Older(Cuda):
    def __getattribute__(self, name):
        if name == "cuDeviceGetUuid_v2":
            raise AttributeError(name)
        return super().__getattribute__(name)


class Inside(unittest.TestCase):
    def setUp(self):
        self.lease = gpushare.Node(sim="H100-80GB").lease(gpu=0)
        self.addCleanup(self.lease.release)

    def verify(self, cuda):
        with mock.patch("gpushare._cuda._library", lambda: cuda):
            return self.lease.verify(inside=True)

    def test_a_device_that_is_another(self) -> None:
        found = self.verify(Cuda())
        self.assertIs(found.verdict, gpushare.Verdict.NOT_ATTACHED)

    def test_all_that_fails_is_an_error_of_gpushares(self) -> None:
        for call in ("cuDeviceGet", "cuDeviceGetUuid_v2", "cuDeviceGetAttribute", "cuDeviceTotalMem_v2"):
            with self.assertRaisesRegex(gpushare.DriverError, f"device 0: {call} returned 999"):
                self.verify(Cuda(**{call: lambda *_: 999}))
        with self.assertRaisesRegex(gpushare.UnsupportedError, "has no cuDeviceGetUuid_v2"):
            self.verify(Older())

    def test_activate_after_it_has_begun(self) -> None:
        before = dict(os.environ)
        with mock.patch("gpushare._cuda._library", Cuda):
            self.assertRaisesRegex(gpushare.InvalidStateError, "CUDA has begun", self.lease.activate)
        self.assertEqual(dict(os.environ), before)


class Ends(Shared):
    def setUp(self):
        super().setUp()
        self.node.plan(MODES["time_sliced"]).apply()

    def free(self):
        return not any(share.leased for share in self.node.leases().shares)

    def test_with_gives_back_whatever_happens(self) -> None:
        with self.assertRaises(ZeroDivisionError), self.node.lease(gpu=0) as lease:
            self.assertFalse(self.free())
            raise ZeroDivisionError
        self.assertTrue(lease.released and self.free())

    def test_collection_gives_back_and_warns(self) -> None:
        lease = self.node.lease(gpu=0)
        name = lease.name
        with self.assertWarnsRegex(ResourceWarning, f"lease {name} was not released"):
            del lease
            gc.collect()
        self.assertTrue(self.free())
        # It says where the lease was taken, where Python notes that, and what stays.
        tracemalloc.start(2)
        try:
            lease, line = self.node.lease(gpu=0), inspect.currentframe().f_lineno
            with self.assertWarns(ResourceWarning) as caught:
                del lease
                gc.collect()
            [*_, frame] = tracemalloc.get_object_traceback(caught.warnings[0].source)
        finally:
            tracemalloc.stop()
        self.assertEqual((frame.filename, frame.lineno), (__file__, line))
        self.node.plan(MODES["mig"]).apply()
        for options, wanted in (
            ({}, "not released:"),
            ({"give_back": True}, "and what was created for it stays:"),
        ):
            lease = self.node.lease(mig="2g", create=True, **options)
            with self.assertWarnsRegex(ResourceWarning, wanted):
                del lease
                gc.collect()
        self.node.plan(MODES["time_sliced"]).apply()
        # As an error it is no exception of whoever is running then, and what runs goes on.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            hook, seen = sys.unraisablehook, []
            sys.unraisablehook = lambda what: seen.append(what.exc_type)
            try:
                try:
                    raise KeyError("mine") from None
                except KeyError as error:
                    lease = self.node.lease(gpu=0)
                    del lease
                    self.assertEqual(error.args, ("mine",))
            finally:
                sys.unraisablehook = hook
            self.assertEqual(seen, [ResourceWarning])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with self.node.lease(gpu=0):
                pass
            gc.collect()

    def test_exit_gives_back_in_silence(self) -> None:
        for ending in ("", "sys.exit()", "os._exit(0)"):
            for activated in ("", "lease.activate();"):
                child = self.child(
                    f"lease = node.lease(gpu=0); {activated} say('has'); heard(); {ending}",
                    stderr=subprocess.PIPE,
                )
                self.assertEqual(heard(child), "has")
                self.assertFalse(self.free())
                child.stdin.close()
                self.assertEqual(child.wait(), 0)
                self.assertEqual(child.stderr.read(), "")
                self.assertTrue(self.free())

    def test_a_killed_workers_lease_is_free_when_its_children_are_gone(self) -> None:
        code = """
            import subprocess
            lease = node.lease(gpu=0)
            options = {"pass_fds": [lease.fileno()]} if sys.argv[1] == "hands on" else {}
            tenant = subprocess.Popen(["sleep", "60"], env=lease.env(), **options)
            say(tenant.pid)
            heard()
        """
        for how in ("hands on", "keeps"):
            worker = self.child(code, how)
            tenant = int(heard(worker))
            try:
                worker.kill()
                worker.wait()
                if how == "hands on":
                    [share] = [share for share in self.node.leases().shares if share.leased]
                    self.assertTrue(share.inherited)
                    self.assertEqual(share.holder.pid, tenant)
                    with self.assertRaises(gpushare.DeviceBusyError) as caught:
                        self.node.lease(share=share)
                    self.assertEqual(caught.exception.pids, (tenant,))
                else:
                    self.assertTrue(self.free())
            finally:
                os.kill(tenant, signal.SIGKILL)
            # It is init's child now, and gone when that has seen it.
            with self.node.lease(gpu=0, count=4, timeout=20):
                pass

    def test_who_has_the_descriptor_keeps_it(self) -> None:
        lease = self.node.lease(gpu=0)
        tenant = subprocess.Popen(["sleep", "60"], env=lease.env(), pass_fds=[lease.fileno()])
        stranger = subprocess.Popen(["sleep", "60"], env=lease.env())
        try:
            lease.release()
            self.assertFalse(self.free())
            tenant.kill()
            tenant.wait()
            self.assertTrue(self.free())
        finally:
            for process in (tenant, stranger):
                process.kill()
                process.wait()

    def test_waiting_is_heard_and_bounded(self) -> None:
        with self.node.lease(gpu=0, count=4), self.node.lease(gpu=1, count=4):
            with self.assertRaises(gpushare.DeviceBusyError) as caught:
                self.node.lease()
            self.assertEqual(set(caught.exception.pids), {os.getpid()})
            events = []
            with self.assertRaises(gpushare.WaitTimeoutError) as late:
                self.node.lease(timeout=0.35, progress=events.append)
            self.assertIsInstance(late.exception, TimeoutError)
            self.assertGreaterEqual(len(events), 2)
            self.assertIs(events[0].kind, gpushare.EventKind.WAITING_FOR_SHARE)
            self.assertEqual([h.pid for h in events[0].holders][:1], [os.getpid()])
            self.assertGreater(events[-1].waited, events[0].waited)
            with self.assertRaises(LookupError) as stopped:
                self.node.lease(timeout=None, progress=lambda _: {}["x"])
            self.assertIsInstance(stopped.exception.__cause__, gpushare.InterruptedTransitionError)

    def test_a_void_lease_says_so(self) -> None:
        layout(self.node, 0, **{"1g": 1})
        with self.node.lease(mig="1g") as lease:
            lease.check()
            self.command("sim", "reboot")
            with self.assertRaisesRegex(gpushare.InvalidStateError, "void"):
                lease.check()


class Activation(unittest.TestCase):
    def test_it_sets_this_process(self) -> None:
        code = """
            import os, gpushare
            node = gpushare.Node(sim="H100-80GB")
            with node.lease(gpu=0) as lease:
                lease.activate()
                assert dict(os.environ) == lease.env()
                assert os.environ["CUDA_VISIBLE_DEVICES"] == node.gpus[0].uuid
                assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
                assert os.system('test -z "$CUDA_MPS_PIPE_DIRECTORY" && test -n "$GPUSHARE_LEASE"') == 0
            print("done")
        """
        said = alone(code, env={"CUDA_MPS_PIPE_DIRECTORY": "/theirs"})
        self.assertEqual(said.stdout, "done\n")

    def test_it_refuses_after_cuda_began(self) -> None:
        # In the place of NVIDIA's library one that answers as it does.
        with self.subTest("no library"):
            self.assertEqual(self.activate("None"), "activated\n")
        self.assertEqual(self.activate("Library(3)"), "activated\n")
        self.assertEqual(self.activate("Library(0)"), "refused\n")
        self.assertEqual(self.activate("Library(100)"), "refused\n")

    def activate(self, library):
        code = f"""
            import os, gpushare
            from gpushare import _cuda
            class Library:
                def __init__(self, code): self.code = code
                def cuDeviceGetCount(self, count): return self.code
            _cuda._library = lambda: {library}
            before = dict(os.environ)
            with gpushare.Node(sim="H100-80GB").lease(gpu=0) as lease:
                try:
                    lease.activate()
                    print("activated")
                except gpushare.InvalidStateError as error:
                    assert "before anything uses a GPU" in str(error), error
                    assert dict(os.environ) == before
                    print("refused")
        """
        return alone(code).stdout

    def test_a_library_that_is_none_of_nvidias(self) -> None:
        code = """
            import os, gpushare
            from gpushare import _cuda
            _cuda._library = lambda: object()
            before = dict(os.environ)
            with gpushare.Node(sim="H100-80GB").lease(gpu=0) as lease:
                for call in (lease.activate, lambda: lease.verify(inside=True)):
                    try: call()
                    except gpushare.DriverError as error: print("cuDeviceGetCount" in str(error))
                assert dict(os.environ) == before
        """
        self.assertEqual(alone(code).stdout, "True\nTrue\n")

    def test_cuda_sees_it_whatever_os_environ_is(self) -> None:
        code = """
            import ctypes, os, sys, gpushare
            getenv = ctypes.CDLL(None).getenv
            getenv.restype = ctypes.c_char_p
            node = gpushare.Node(sim="H100-80GB")
            original, before = os.environ, getenv(b"CUDA_VISIBLE_DEVICES")
            def replace(): os.environ = dict(original)
            for early in (True, False):
                os.environ = original
                if early: replace()
                with node.lease(gpu=0) as lease:
                    if not early: replace()
                    lease.activate()
                    wanted = lease.variables["CUDA_VISIBLE_DEVICES"]
                    assert os.environ["CUDA_VISIBLE_DEVICES"] == wanted
                    assert getenv(b"CUDA_VISIBLE_DEVICES").decode() == wanted
                    assert getenv(b"CUDA_MPS_PIPE_DIRECTORY") is None
                assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == "/theirs"
                assert getenv(b"CUDA_MPS_PIPE_DIRECTORY") == b"/theirs"
                assert getenv(b"CUDA_VISIBLE_DEVICES") == before
            print("done")
        """
        said = alone(code, env={"CUDA_MPS_PIPE_DIRECTORY": "/theirs"})
        self.assertEqual(said.stdout, "done\n")

    def test_inside_asks_cuda(self) -> None:
        code = """
            import gpushare
            from gpushare import _cuda
            node = gpushare.Node(sim="2xH100-80GB")
            own, other = (gpu.uuid.removeprefix("GPU-") for gpu in node.gpus)
            with node.lease(gpu=0) as lease:
                both = [(own, 132, 1), (other, 1, 1)]
                for seen in ([(own, 132, 1)], [(other, 132, 1)], [(own, 133, 1)], both, [], None):
                    _cuda.devices = lambda: seen
                    print(lease.verify(inside=True).verdict, end=" ")
        """
        said = alone(code).stdout
        self.assertEqual(said, "attached not_attached not_attached not_attached unknown unknown ")


class Closed(Shared):
    """The program closes a descriptor that is its lease's."""

    def setUp(self):
        super().setUp()
        self.lease = self.node.lease(gpu=0)
        self.number = self.lease.fileno()

    def other(self):
        """Another process that has the share now, which it may."""
        process = self.child("lease = node.lease(gpu=0); say(lease.share); heard()")
        self.assertEqual(heard(process), self.lease.share)
        return process

    def is_lost(self, number):
        """Whatever is asked of it, and what has its number is not touched."""
        inheritable = number is not None and os.get_inheritable(number)
        for call in (
            self.lease.check,
            self.lease.verify,
            self.lease.fileno,
            self.lease.filenos,
            self.lease.release,
        ):
            with self.assertRaisesRegex(gpushare.InvalidStateError, "closed by this program", msg=call):
                call()
            if number is not None:
                self.assertEqual(os.get_inheritable(number), inheritable)
        self.assertTrue(self.lease.released)
        self.lease.release()

    def test_a_lease_that_was_closed_is_lost(self) -> None:
        with open(self.lease.fileno()):
            pass
        self.other()
        self.is_lost(None)
        with self.assertRaises(OSError):
            os.fstat(self.number)

    def test_what_has_its_number_now_stays_open(self) -> None:
        os.close(self.number)
        with open(self.folder / "precious", "w") as precious:
            self.assertEqual(precious.fileno(), self.number)
            self.is_lost(self.number)
            precious.write("x")

    def test_what_was_put_in_its_place_stays_open(self) -> None:
        with open(self.folder / "precious", "w") as precious:
            os.dup2(precious.fileno(), self.number)
        self.addCleanup(os.close, self.number)
        self.other()
        self.is_lost(self.number)
        os.write(self.number, b"x")

    def test_the_next_lease_of_the_same_share_is_another(self) -> None:
        os.close(self.number)
        again = self.node.lease(gpu=0)
        # The same number, and the same file: only which lease it was opened for differs.
        self.assertEqual((again.fileno(), again.share), (self.number, self.lease.share))
        self.is_lost(self.number)
        again.check()
        with self.assertRaises(gpushare.DeviceBusyError):
            self.open().lease(gpu=0)
        again.release()
        self.node.lease(gpu=0).release()

    def test_a_forked_child_closes_nothing_of_its_own(self) -> None:
        os.close(self.number)
        with open(self.folder / "precious", "w") as precious:
            self.assertEqual(precious.fileno(), self.number)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                try:
                    os.write(self.number, b"x")
                    os._exit(0)
                except OSError:
                    os._exit(1)
            self.assertEqual(os.waitpid(pid, 0)[1], 0)
        with self.assertRaises(gpushare.InvalidStateError):
            self.lease.release()

    def test_what_is_collected_closes_nothing_of_somebody_elses(self) -> None:
        os.close(self.number)
        with open(self.folder / "precious", "w") as precious:
            self.assertEqual(precious.fileno(), self.number)
            with self.assertWarns(ResourceWarning):
                del self.lease
                gc.collect()
            precious.write("x")
            precious.flush()

    def test_what_was_created_for_it_stays(self) -> None:
        self.lease.release()
        layout(self.node, 1)
        with (
            self.assertRaisesRegex(gpushare.InvalidStateError, "what was created for the lease stays"),
            self.node.lease(mig="1g", create=True, give_back=True) as lease,
        ):
            os.close(lease.fileno())
        self.assertEqual(len(self.node.status().gpus[1].mig_devices), 1)


if __name__ == "__main__":
    unittest.main()
