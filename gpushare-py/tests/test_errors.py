"""Every error of the core reaches Python as its class, with its data."""

import errno
import os
import pickle
import resource
import unittest

import gpushare
from common import MODES, Shared, alone, heard, layout, mig, spec
from gpushare import ErrorCode, Outcome


class Reached(Shared):
    """One way to each; those of interruptions and panics are with what interrupts."""

    def caught(self, kind, call):
        with self.assertRaises(kind) as caught:
            call()
        error = caught.exception
        self.assertIs(type(error), kind)
        again = pickle.loads(pickle.dumps(error))
        self.assertEqual((again.args, again.__dict__), (error.args, error.__dict__))
        self.assertGreater(len(str(error)), 20)
        self.assertEqual(str(again), str(error))
        if isinstance(error, OSError):
            system = [(kept.errno, kept.strerror, kept.filename) for kept in (error, again)]
            self.assertEqual(*system)
        return error

    def apply(self, document, **options):
        return self.node.plan(document).apply(**options)

    def test_each(self) -> None:
        node, zero = self.node, self.node.gpus[0].uuid
        reached = []

        def expect(kind, call, **data):
            error = self.caught(kind, call)
            reached.append(error.code)
            for name, value in data.items():
                self.assertEqual(getattr(error, name), value, name)
            return error

        expect(
            gpushare.InvalidRequestError, lambda: node.plan(spec({"select": 0})), outcome=Outcome.UNTOUCHED
        )
        expect(gpushare.DeviceNotFoundError, lambda: node.lease(gpu=7), simulated=True)
        expect(gpushare.UnsupportedError, lambda: gpushare.Node(sim="L40S").plan(MODES["mig"]))
        expect(gpushare.InvalidStateError, lambda: self.released().check())
        error = expect(gpushare.InsufficientError, lambda: node.plan(mig(0, **{"4g": 2})), gpu=zero)
        self.assertTrue(error.context)
        error = expect(gpushare.HazardError, lambda: self.apply(self.mps(33)), gpu=zero)
        self.assertTrue(error.safe)
        stale = node.plan(mig(0, **{"1g": 1}))
        layout(node, 0, **{"1g": 2})
        expect(gpushare.StaleError, stale.apply)
        pid = self.busy(node.gpus[0].mig_devices[0].uuid)
        error = expect(
            gpushare.DeviceBusyError, lambda: self.apply(MODES["exclusive"]), pids=(pid,), gpu=zero
        )
        self.assertEqual(error.holders[0].command, "python train.py")
        a100 = gpushare.Node(sim="A100-40GB")
        expect(gpushare.ResetRequiredError, lambda: a100.plan(MODES["mig"]).apply(), gpu=a100.gpus[0].uuid)
        self.command("sim", "fault", "nvmlDeviceSetComputeMode", "UNKNOWN")
        error = expect(gpushare.DriverError, lambda: self.apply(spec({"select": 1, "mode": "exclusive"})))
        self.assertEqual((error.driver.call, error.nvml_return), ("nvmlDeviceSetComputeMode", 999))
        with node.lease(gpu=1):
            expect(gpushare.WaitTimeoutError, lambda: node.lease(gpu=1, timeout=0.01))
        error = expect(
            gpushare.StorageError,
            lambda: node.plan("/dev/null/x"),
            errno=errno.ENOTDIR,
            os_error=errno.ENOTDIR,
            filename="/dev/null/x",
            strerror=os.strerror(errno.ENOTDIR),
        )
        self.assertIn("cannot read /dev/null/x", str(error))
        self.command("sim", "act-as", "1000")
        error = expect(gpushare.PermissionDeniedError, lambda: node.plan(mig(0, **{"2g": 1})), gpu=zero)
        self.assertTrue(error.needs)
        self.command("sim", "act-as", "0")
        elsewhere = {ErrorCode.LOCKED, ErrorCode.INTERRUPTED, ErrorCode.PANIC, ErrorCode.RECOVERY_REQUIRED}
        self.assertLessEqual(set(ErrorCode) - set(reached), elsewhere | {ErrorCode.MPS})

    def mps(self, percentage, select=0):
        return spec({"select": select, "mode": "mps", "mps": {"thread_percentage": percentage}})

    def released(self):
        lease = self.node.lease(gpu=0)
        lease.release()
        return lease

    def test_what_was_ended_before_it_failed_is_told(self) -> None:
        layout(self.node, 0, **{"3g": 1})
        pid = self.busy(self.node.gpus[0].mig_devices[0].uuid)
        self.command("sim", "fault", "nvmlGpuInstanceDestroy", "UNKNOWN")
        error = self.caught(gpushare.DriverError, lambda: self.apply(MODES["exclusive"], allow_evict=True))
        self.assertEqual([holder.pid for holder in error.evicted], [pid])
        self.assertIs(error.outcome, Outcome.ROLLED_BACK)

    def test_a_signal_while_the_exception_is_made(self) -> None:
        code = """
            import os, signal, sys, gpushare
            from gpushare import _errors
            class Mine(Exception): pass
            class MineAlone(BaseException): pass
            def broken(*_): raise KeyError("broken")
            def handler(kind):
                def raises(*_): raise kind
                return raises
            make, left = _errors.from_document, [0]
            def signalled(*arguments):
                if left[0]:
                    left[0] -= 1
                    os.kill(os.getpid(), signal.SIGUSR1)
                return making(*arguments)
            _errors.from_document, making = signalled, make
            node = gpushare.Node(sim="L40S")
            def caught():
                try: node.lease(gpu=7)
                except BaseException as error: return error
            for kind in (Mine, MineAlone, KeyboardInterrupt, SystemExit):
                signal.signal(signal.SIGUSR1, handler(kind))
                for count in (1, 2) if kind is not Mine else (1,):
                    left[0] = count
                    error = caught()
                    assert isinstance(error, kind), error
                    if count == 1: assert isinstance(error.__cause__, gpushare.DeviceNotFoundError), error
            assert isinstance(caught(), gpushare.DeviceNotFoundError)
            making = broken
            error = caught()
            assert type(error) is RuntimeError and isinstance(error.__cause__, KeyError), error
            print("heard")
        """
        self.assertEqual(alone(code).stdout, "heard\n")

    def test_what_the_system_said_is_there_for_who_knows_no_gpushare(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            self.node.cordon(0, "why")
        except OSError as error:
            self.assertEqual(error.errno, errno.EFBIG)
            self.assertTrue(error.filename.startswith(self.state), error.filename)
            self.assertIn("cannot write", str(error))
        else:
            self.fail("nothing was refused")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_a_state_directory_of_somebody_elses(self) -> None:
        self.caught(
            gpushare.PermissionDeniedError,
            lambda: gpushare.Node(sim="L40S", state_dir="/usr/lib/gpushare-test").status(),
        )

    def test_a_lost_race_for_a_lease_names_the_other(self) -> None:
        other = self.child("lease = node.lease(gpu=0); say(os.getpid()); heard()")
        pid = int(heard(other))
        error = self.caught(gpushare.DeviceBusyError, lambda: self.node.lease(gpu=0))
        self.assertEqual(error.pids, (pid,))
        self.assertEqual(error.holders[0].kind, "lease")


if __name__ == "__main__":
    unittest.main()
