"""Four inference workers on one GPU under MPS, each with limits that are verified from inside.

    sudo python mps_workers.py --gpu 0 --workers 4

It shares the GPU out in parts that harm nothing, starts the workers, and puts the GPU back as it was.
``GPUSHARE_SIM=1xH200-141GB`` with ``GPUSHARE_STATE_DIR`` (a directory) runs it on a simulated node: there no
process is really a client, and nothing is verified. Without torch or a GPU it computes in plain Python.
"""

import argparse
import multiprocessing
import os
import sys
import time

import gpushare


def infer(seconds: float) -> int:
    """Runs a model for so long, and returns how many batches it made."""
    try:
        import torch
    except ImportError:
        torch = None
    until = time.monotonic() + seconds
    batches = 0
    if torch is not None and torch.cuda.is_available():
        model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(8))).cuda().eval()
        batch = torch.randn(64, 1024, device="cuda")
        with torch.inference_mode():
            while time.monotonic() < until:
                model(batch).sum().item()
                batches += 1
        return batches
    print("no torch with a GPU here: plain Python")
    weights = [[(row * column) % 7 - 3 for column in range(32)] for row in range(32)]
    vector = [1.0] * 32
    while time.monotonic() < until:
        vector = [max(sum(w * v for w, v in zip(row, vector, strict=True)), 0) % 97 for row in weights]
        batches += 1
    return batches


def work(number, gpu, seconds, ready, answers) -> None:
    """One worker: a process of its own, with a lease of its own."""
    with gpushare.Node().lease(gpu=gpu, timeout=60) as lease:
        lease.activate()
        for term in lease.shares[0].enforced:
            print(f"worker {number}: {term.says} ({term.by})")
        # All of them hold their shares at the same time.
        ready.wait(120)
        batches = infer(seconds)
        # A misspelt directory gives a process the whole GPU without an error. This tells.
        verified = None if lease.simulated else lease.verify(inside=True)
        answers.put((number, lease.share, os.getpid(), batches, verified))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", default="0", help="NVML's index, a uuid or the beginning of one")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()

    node = gpushare.Node()
    part = gpushare.mps.split(options.workers, gpu=options.gpu, node=node)
    mps = {
        "thread_percentage": part.thread_percentage,
        "pinned_memory_limit": part.memory_bytes,
        "max_clients": options.workers,
    }
    entry = {"select": options.gpu, "mode": "mps", "mps": mps}
    report = node.plan({"version": "gpushare/v1", "gpus": [entry]}).apply()
    try:
        spawn = multiprocessing.get_context("spawn")
        ready, answers = spawn.Barrier(options.workers), spawn.Queue()
        workers = [
            spawn.Process(target=work, args=(number, options.gpu, options.seconds, ready, answers))
            for number in range(options.workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            return 1
        verified = True
        for number, share, pid, batches, answer in sorted(answers.get(timeout=10) for _ in workers):
            said = "simulated, not verified" if answer is None else str(answer)
            print(f"worker {number}, pid {pid}: {share}, {batches} batches, {said}")
            verified = verified and (node.simulated or bool(answer))
        return 0 if verified else 1
    finally:
        node.plan(report.previous).apply()


if __name__ == "__main__":
    sys.exit(main())
