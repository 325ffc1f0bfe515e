"""A sweep over learning rates, with one lease for each worker of a pool.

    python sweep.py --workers 4

A worker takes its share when it starts and has it for all of its trials; the share is free again when the
worker ends, however that happens. ``GPUSHARE_SIM=1xH100-80GB`` with ``GPUSHARE_STATE_DIR`` runs it on a
simulated node. Without torch or a GPU it computes in plain Python.
"""

import argparse
import concurrent.futures
import multiprocessing
import os

import gpushare

lease = None


def take_share() -> None:
    """The first thing that a worker does, before anything uses CUDA."""
    global lease
    lease = gpushare.Node().lease(timeout=60)
    lease.activate()


def trial(rate: float) -> tuple[float, float, int, str]:
    """Minimises (x - 2)² from 0 at a learning rate: the rate, the loss, the worker and its share."""
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        x = torch.zeros(1, device="cuda", requires_grad=True)
        optimizer = torch.optim.SGD([x], lr=rate)
        for _ in range(20):
            optimizer.zero_grad()
            loss = ((x - 2) ** 2).sum()
            loss.backward()
            optimizer.step()
        found = x.item()
    else:
        print("no torch with a GPU here: plain Python")
        found = 0.0
        for _ in range(20):
            found -= rate * 2 * (found - 2)
    return rate, (found - 2) ** 2, os.getpid(), lease.share


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=4, help="at most as many as there are shares")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.001, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.9]
    )
    options = parser.parse_args()

    pool = concurrent.futures.ProcessPoolExecutor(
        options.workers,
        # A forked child would have the CUDA, and not the leases, of its parent.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=take_share,
    )
    with pool:
        results = list(pool.map(trial, options.rates))
    for rate, loss, pid, share in results:
        print(f"rate {rate}: loss {loss:.6f}, pid {pid} on {share}")
    print(f"best: {min(results, key=lambda result: result[1])[0]}")


if __name__ == "__main__":
    main()
