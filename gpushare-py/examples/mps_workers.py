"""Four inference workers on one GPU under MPS, each with limits that are verified from inside.

    sudo python mps_workers.py --gpu 0 --workers 4
    sudo python mps_workers.py --gpu 0 --workers 4 --mode time_sliced     # to compare: they take turns

It shares the GPU out in parts that harm nothing, starts the workers, and puts the GPU back as it was, also
when it is interrupted or asked to end. After a SIGKILL ``gpushare mps disable --grace 5`` does.
``GPUSHARE_SIM=1xH200-141GB`` with ``GPUSHARE_STATE_DIR`` (a directory) runs it on a simulated node: there no
process is really a client, and nothing is verified. Without torch or a GPU it computes in plain Python.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time

import gpushare


def batches_of(ready, seconds: float) -> int:
    """Runs a model for so long once everybody is ready, and returns how many batches it made."""
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        layers = (layer for _ in range(8) for layer in (torch.nn.Linear(1024, 1024), torch.nn.ReLU()))
        model = torch.nn.Sequential(*layers).cuda().eval()
        batch = torch.randn(64, 1024, device="cuda")

        @torch.inference_mode()
        def infer() -> None:
            # The answer goes to the host, as a server's does.
            model(batch).sum().item()
    else:
        print("no torch with a GPU here: plain Python")
        weights = [[(row * column) % 7 - 3 for column in range(32)] for row in range(32)]
        vector = [1.0] * 32

        def infer() -> None:
            vector[:] = [max(sum(w * v for w, v in zip(row, vector, strict=True)), 0) % 97 for row in weights]

    for _ in range(3):
        infer()
    # All of them hold their shares, and work, at the same time.
    ready.wait(120)
    until = time.monotonic() + seconds
    batches = 0
    while time.monotonic() < until:
        infer()
        batches += 1
    return batches


def work(number, gpu, seconds, ready, answers) -> None:
    """One worker: a process of its own, with a lease of its own."""
    with gpushare.Node().lease(gpu=gpu, timeout=60) as lease:
        lease.activate()
        for term in lease.shares[0].enforced:
            print(f"worker {number}: {term.says} ({term.by})")
        try:
            batches = batches_of(ready, seconds)
            # A misspelt directory gives a process the whole GPU without an error. This tells.
            verified = None if lease.simulated else lease.verify(inside=True)
        except BaseException:
            # The others do not wait for this one.
            ready.abort()
            raise
        answers.put((number, lease.share, os.getpid(), batches, verified))


def on_signals(handler, *numbers) -> None:
    for number in numbers:
        signal.signal(number, handler)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", default="0", help="NVML's index, a uuid or the beginning of one")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--mode", choices=("mps", "time_sliced"), default="mps")
    parser.add_argument(
        "--keep-compute-mode",
        action="store_true",
        help="processes that know nothing of the daemon may then use the GPU beside it",
    )
    options = parser.parse_args()

    on_signals(lambda *_: sys.exit(1), signal.SIGTERM, signal.SIGHUP)
    node = gpushare.Node()
    hazards = []
    if options.mode == "mps":
        part = gpushare.mps.split(options.workers, gpu=options.gpu, node=node)
        settings = {
            "thread_percentage": part.thread_percentage,
            "pinned_memory_limit": part.memory_bytes,
            "max_clients": options.workers,
        }
        if options.keep_compute_mode:
            settings["compute_mode"] = "unchanged"
            hazards.append("bypass-possible")
    else:
        settings = {"replicas": options.workers}
    entry = {"select": options.gpu, "mode": options.mode, options.mode: settings}
    report = node.plan({"version": "gpushare/v1", "gpus": [entry]}).apply(allow_hazards=hazards)
    workers = []
    try:
        spawn = multiprocessing.get_context("spawn")
        ready, answers = spawn.Barrier(options.workers), spawn.Queue()
        workers += [
            spawn.Process(target=work, args=(number, options.gpu, options.seconds, ready, answers))
            for number in range(options.workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            return 1
        verified, total = True, 0
        for number, share, pid, batches, answer in sorted(answers.get(timeout=10) for _ in workers):
            said = "simulated, not verified" if answer is None else str(answer)
            print(f"worker {number}, pid {pid}: {share}, {batches} batches, {said}")
            verified = verified and (node.simulated or bool(answer))
            total += batches
        print(f"{options.mode}: {total / options.seconds:.0f} batches per second")
        return 0 if verified else 1
    finally:
        # Nothing stops this half-way.
        on_signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for worker in workers:
            if worker.pid is not None:
                worker.terminate()
                worker.join()
        node.plan(report.previous).apply(timeout=60, drain=10)


if __name__ == "__main__":
    sys.exit(main())
