"""Ray actors with real shares, instead of ``num_gpus=0.25`` on trust.

    pip install ray
    python ray_workers.py --workers 4

With ``num_gpus=0.25`` Ray counts to one and shows each of four workers the whole GPU. Here each leases
a MIG device, or a part under MPS that the driver holds it to. ``GPUSHARE_SIM=1xH100-80GB`` with
``GPUSHARE_STATE_DIR`` runs it on a simulated node. Where Ray is told to want a token it keeps it in
``~/.ray/auth_token``; ``RAY_AUTH_MODE=disabled`` has none.
"""

import argparse
import os

import gpushare

# Ray reports home unless it is told not to.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray


@ray.remote(num_cpus=0, num_gpus=0, resources={"gpu_share": 1})
class Worker:
    """An actor is a process: its lease ends when it does."""

    def __init__(self) -> None:
        # Some versions of Ray hide all GPUs from an actor that asks for none; the choice is gpushare's.
        self.lease = gpushare.Node().lease(timeout=60, visible=None)
        self.lease.activate()

    def share(self) -> tuple[int, str, str]:
        return os.getpid(), self.lease.share, os.environ["CUDA_VISIBLE_DEVICES"]

    def square(self, number: float) -> float:
        try:
            import torch
        except ImportError:
            torch = None
        if torch is None or not torch.cuda.is_available():
            print("no torch with a GPU here: plain Python")
            return number * number
        return (torch.tensor([number], device="cuda") ** 2).item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()

    free = sum(not share.leased for gpu in gpushare.Node().gpus for share in gpu.shares)
    # The scheduler starts no more of them than there are shares to have.
    ray.init(num_cpus=1, num_gpus=0, resources={"gpu_share": free}, include_dashboard=False)
    try:
        workers = [Worker.remote() for _ in range(options.workers)]
        for pid, share, visible in ray.get([worker.share.remote() for worker in workers], timeout=120):
            print(f"pid {pid}: {share}, CUDA_VISIBLE_DEVICES={visible}")
        tasks = [worker.square.remote(float(number)) for number, worker in enumerate(workers)]
        print(f"sum of squares: {sum(ray.get(tasks, timeout=120))}")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
