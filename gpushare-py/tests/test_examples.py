"""The scripts that people copy, each run as they run it, on a simulated node.

GPUSHARE_CLUSTER_PYTHON names an interpreter that has Ray and Dask, where this one does not; empty, those are
another run's.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import unittest
from pathlib import Path

import gpushare
from common import Shared, layout, spec

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLUSTERS = os.environ.get("GPUSHARE_CLUSTER_PYTHON", sys.executable)
SHARE = r"(?:MIG|GPU)-[0-9a-f-]+(?:::\d+)?"

# As much of torch as the example uses, on the processor: its ranks meet in a directory.
TORCH = """
import math, os, pathlib, time

class cuda:
    is_available = staticmethod(lambda: False)

class Tensor(list):
    def __mul__(self, factor): return Tensor(one * factor for one in self)
    def mean(self): return Tensor([math.fsum(self) / len(self)])
    def cpu(self): return self
    def __int__(self): return int(self[0])

def ones(count, device): return Tensor([1.0] * count)
"""
DISTRIBUTED = """
import os, pathlib, time

meeting = pathlib.Path(os.environ["MEETING"])
calls = 0

def init_process_group(backend):
    assert backend == "gloo"

def gather(value):
    global calls
    calls += 1
    mine = meeting / f"{calls}-{os.environ['RANK']}"
    mine.with_suffix(".new").write_text(repr(value))
    mine.with_suffix(".new").rename(mine)
    until = time.monotonic() + 60
    while len(found := list(meeting.glob(f"{calls}-?"))) < int(os.environ["WORLD_SIZE"]):
        assert time.monotonic() < until, "a rank is missing"
        time.sleep(0.01)
    return [float(one.read_text()) for one in found]

def all_reduce(tensor): tensor[0] = sum(gather(tensor[0]))
def barrier(): gather(0.0)
def destroy_process_group(): pass
"""


class Examples(Shared):
    FLEET = "1xH100-80GB"

    def start(self, name, *words, python=sys.executable, start_new_session=False, **variables):
        environment = {
            **os.environ,
            "GPUSHARE_SIM": self.FLEET,
            "GPUSHARE_STATE_DIR": self.state,
            "PYTHONPATH": os.pathsep.join(
                [*variables.pop("path", []), str(Path(gpushare.__file__).parents[1])]
            ),
            "HOME": str(self.folder),
            **variables,
        }
        if "CUDA_VISIBLE_DEVICES" not in variables:
            # It would bound what may be chosen.
            environment.pop("CUDA_VISIBLE_DEVICES", None)
        process = subprocess.Popen(
            [python, EXAMPLES / name, *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=start_new_session,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        return process

    def said(self, process):
        text, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, text)
        return text

    def assert_all_free(self):
        # A cluster may end its workers a little later than itself.
        until = time.monotonic() + 20
        while held := [share.id for share in self.node.leases().shares if share.leased]:
            self.assertLess(time.monotonic(), until, held)
            time.sleep(0.05)

    def shares(self):
        return {share.id for share in self.node.leases().shares}


class OnMig(Examples):
    def test_train_on_mig(self) -> None:
        layout(self.node, 0, **{"3g": 1, "1g": 1})
        [small] = (d for d in self.node.gpus[0].mig_devices if d.profile == "1g.10gb")
        text = self.said(self.start("train_on_mig.py", "--mig", "1g.10gb"))
        self.assertIn(f"on 1g.10gb {small.uuid}: 9.8 GiB", text)
        self.assertIn("plain Python", text)
        self.assertLess(float(re.search(r"loss ([\d.]+)", text)[1]), 1e-3)
        self.assert_all_free()

    def test_train_on_mig_creates_its_device_and_takes_it_away(self) -> None:
        layout(self.node, 0, **{"3g": 1})
        before = self.shares()
        text = self.said(self.start("train_on_mig.py", "--mig", "1g.10gb", "--create"))
        self.assertIn("on 1g.10gb MIG-", text)
        self.assertEqual(self.shares(), before)
        self.assert_all_free()

    def test_sweep(self) -> None:
        layout(self.node, 0, **{"1g": 3})
        text = self.said(self.start("sweep.py", "--workers", "3"))
        found = re.findall(rf"rate ([\d.]+): loss [\d.]+, pid (\d+) on ({SHARE})", text)
        self.assertEqual(len(found), 8)
        self.assertIn("best: 0.4", text)
        workers = {(pid, share) for _, pid, share in found}
        # A share for each worker, and a worker for each share.
        self.assertEqual(len({pid for pid, _ in workers}), len(workers))
        self.assertEqual(len({share for _, share in workers}), len(workers))
        self.assertLessEqual({share for _, share in workers}, self.shares())
        self.assert_all_free()

    def test_torchrun_shares(self) -> None:
        layout(self.node, 0, **{"2g": 1, "1g": 2})
        package = self.folder / "stand-in/torch"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(textwrap.dedent(TORCH))
        (package / "distributed.py").write_text(textwrap.dedent(DISTRIBUTED))
        meeting = self.folder / "meeting"
        meeting.mkdir()
        ranks = [
            self.start(
                "torchrun_shares.py",
                path=[str(package.parent)],
                MEETING=str(meeting),
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="3",
            )
            for rank in range(3)
        ]
        texts = [self.said(rank) for rank in ranks]
        # They all had one at the same time.
        shares = {re.search(rf"rank {rank} of 3: ({SHARE})", text)[1] for rank, text in enumerate(texts)}
        self.assertEqual(shares, self.shares())
        for rank, text in enumerate(texts):
            self.assertIn(f"rank {rank}: the sum over the ranks is 6", text)
        self.assert_all_free()

    def test_torchrun_shares_alone_says_how_it_is_started(self) -> None:
        process = self.start("torchrun_shares.py")
        text, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1)
        self.assertIn("torchrun --nproc-per-node=4", text)

    def test_torchrun_shares_without_torch(self) -> None:
        layout(self.node, 0, **{"1g": 1})
        # The one that is imported first, and is none.
        (self.folder / "torch.py").write_text("raise ImportError('no torch')")
        text = self.said(self.start("torchrun_shares.py", path=[str(self.folder)], RANK="1", WORLD_SIZE="2"))
        self.assertIn("plain Python", text)
        self.assertIn("rank 1: the sum over the ranks is 3", text)


class QuickStart(Examples):
    def test_quick_start(self) -> None:
        text = self.said(self.start("quick_start.py"))
        self.assertRegex(text, r"MIG-[0-9a-f-]+ \d+ 16\nCUDA_VISIBLE_DEVICES = MIG-[0-9a-f-]+\n")
        self.assertIn("1g.10gb", text)
        self.assert_all_free()

    def test_the_readme_has_it(self) -> None:
        script = (EXAMPLES / "quick_start.py").read_text().split('"""\n\n', 1)[1]
        readme = (EXAMPLES.parent / "README.md").read_text()
        self.assertIn(f"```python\n{script}```\n", readme)


class UnderMps(Examples):
    FLEET = "1xH200-141GB"

    def test_mps_workers(self) -> None:
        before = self.node.plan(spec({"select": 0, "mode": "exclusive"})).apply() and self.node.gpus[0]
        text = self.said(self.start("mps_workers.py", "--seconds", "0.1"))
        found = re.findall(
            rf"worker (\d), pid (\d+): ({SHARE}), (\d+) batches, simulated, not verified", text
        )
        self.assertEqual([number for number, *_ in found], ["0", "1", "2", "3"])
        self.assertEqual(len({pid for _, pid, *_ in found}), 4)
        self.assertEqual({share[-3:] for _, _, share, _ in found}, {"::0", "::1", "::2", "::3"})
        self.assertTrue(all(int(batches) for *_, batches in found))
        self.assertEqual(text.count("at most 25 % of the threads: 32 of 132 SMs (MPS server)"), 4)
        # As it was before.
        self.assertEqual(self.node.gpus[0].mode, before.mode)
        self.assertEqual(self.node.gpus[0].compute_mode, before.compute_mode)

    def test_mps_workers_put_the_gpu_back_when_they_are_stopped(self) -> None:
        self.node.plan(spec({"select": 0, "mode": "exclusive"})).apply()
        for number, everybody in ((signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGINT, True)):
            with self.subTest(signal=number, everybody=everybody):
                process = self.start(
                    "mps_workers.py", "--seconds", "60", PYTHONUNBUFFERED="1", start_new_session=True
                )
                until = time.monotonic() + 60
                while sum(share.leased for share in self.node.leases().shares) < 4:
                    self.assertLess(time.monotonic(), until)
                    time.sleep(0.02)
                self.assertEqual(self.node.gpus[0].mode, gpushare.SharingMode.MPS)
                signalled = -process.pid if everybody else process.pid
                for _ in range(2):
                    os.kill(signalled, number)
                    time.sleep(0.05)
                text, _ = process.communicate(timeout=60)
                self.assertNotEqual(process.returncode, 0, text)
                self.assertEqual(self.node.gpus[0].mode, gpushare.SharingMode.EXCLUSIVE, text)
                self.assert_all_free()


class InClusters(Examples):
    """With Ray and Dask as they are."""

    def has(self, module):
        if not CLUSTERS:
            self.skipTest("another run's")
        tried = subprocess.run([CLUSTERS, "-c", f"import {module}"], capture_output=True, text=True)
        if tried.returncode:
            why = (tried.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
            print(f"\nSKIPPED: the example with {module}: {why}", file=sys.stderr)
            self.skipTest(why)

    def assert_each_has_one(self, text, count):
        found = re.findall(rf"pid (\d+): ({SHARE}), CUDA_VISIBLE_DEVICES=(\S+)", text)
        self.assertEqual(len({pid for pid, *_ in found}), count, text)
        self.assertEqual({share for _, share, _ in found}, self.shares())
        self.assertTrue(all(share == visible for _, share, visible in found), found)
        self.assert_all_free()

    def test_ray_workers(self) -> None:
        self.has("ray")
        layout(self.node, 0, **{"1g": 3})
        # As versions of Ray do that hide what was not asked for; and on the loopback interface alone.
        hidden = {"CUDA_VISIBLE_DEVICES": "", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        text = self.said(self.start("ray_workers.py", "--workers", "3", python=CLUSTERS, **hidden))
        self.assertIn("sum of squares: 5.0", text)
        self.assert_each_has_one(text, 3)

    def test_dask_workers(self) -> None:
        self.has("distributed")
        layout(self.node, 0, **{"1g": 3})
        text = self.said(self.start("dask_workers.py", "--workers", "3", python=CLUSTERS))
        self.assertIn("sum of squares: 55.0", text)
        self.assert_each_has_one(text, 3)


class All(unittest.TestCase):
    def test_every_script_is_run(self) -> None:
        tested = set(re.findall(r"\w+\.py(?=\")", Path(__file__).read_text()))
        scripts = {script.name for script in EXAMPLES.glob("*.py")}
        self.assertGreaterEqual(len(scripts), 7)
        self.assertLessEqual(scripts, tested)


if __name__ == "__main__":
    unittest.main()
