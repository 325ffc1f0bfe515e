"""Dask workers with real shares.

    pip install distributed
    python dask_workers.py --workers 4

A plugin takes a lease as each worker starts, before any task runs. ``GPUSHARE_SIM=1xH100-80GB`` with
``GPUSHARE_STATE_DIR`` runs it on a simulated node.
"""

import argparse
import os

import gpushare
from dask.distributed import Client, LocalCluster, WorkerPlugin, get_worker


class GpuShare(WorkerPlugin):
    """A share for each worker, until its process ends."""

    name = "gpu-share"

    def setup(self, worker) -> None:
        self.lease = gpushare.Node().lease(timeout=60)
        self.lease.activate()
        worker.gpu_lease = self.lease

    def teardown(self, worker) -> None:
        self.lease.release()


def square(number: float) -> tuple[float, int, str, str]:
    """A task: its result, and where it was computed."""
    try:
        import torch
    except ImportError:
        torch = None
    if torch is None or not torch.cuda.is_available():
        print("no torch with a GPU here: plain Python")
        result = number * number
    else:
        result = (torch.tensor([number], device="cuda") ** 2).item()
    return result, os.getpid(), get_worker().gpu_lease.share, os.environ["CUDA_VISIBLE_DEVICES"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=4, help="at most as many as there are shares")
    options = parser.parse_args()

    # A process for each worker: the environment that CUDA reads is the process's.
    cluster = LocalCluster(
        n_workers=options.workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
    )
    with cluster, Client(cluster) as client:
        client.register_plugin(GpuShare())
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        tasks = [
            client.submit(square, float(number), workers=[workers[number % len(workers)]], pure=False)
            for number in range(2 * len(workers))
        ]
        results = client.gather(tasks)
    for pid, share, visible in sorted({result[1:] for result in results}):
        print(f"pid {pid}: {share}, CUDA_VISIBLE_DEVICES={visible}")
    print(f"sum of squares: {sum(result[0] for result in results)}")


if __name__ == "__main__":
    main()
